"""Cron expressions are shown in words, or as they are where words would be longer."""

from __future__ import annotations

import pytest

from penstock.contracts.cron_words import cron_words

WORDS = {
    "* * * * *": "every minute",
    "*/5 * * * *": "every 5 minutes",
    "*/1 * * * *": "every minute",
    "*/2 * * * * *": "every 2 seconds",
    "* * * * * *": "every second",
    "0 0 6 * * *": "at 06:00, every day",
    "30 * * * *": "at minute 30 of every hour",
    "0,30 * * * *": "at minute 0 and 30 of every hour",
    "15 */2 * * *": "at minute 15 of every 2 hours",
    "0 6 * * *": "at 06:00, every day",
    "0 6,18 * * *": "at 06:00 and 18:00, every day",
    "0 6 * * 1-5": "at 06:00, Monday to Friday",
    "0 6 * * MON,fri": "at 06:00, Monday and Friday",
    "0 6 * * 7": "at 06:00, Sunday",
    "0 6 1,15 * *": "at 06:00, on day 1 and 15 of the month",
    "0 6 1 * 1": "at 06:00, on day 1 of the month and on Monday",
    "0 6 1 jan-mar *": "at 06:00, on day 1 of the month, in January to March",
    "0 6 * 12 *": "at 06:00, every day, in December",
    # Too involved for a sentence.
    "1-9/2 6 * * *": "cron 1-9/2 6 * * *",
    "0 6 l * *": "cron 0 6 l * *",
    "0 6 * * 1#2": "cron 0 6 * * 1#2",
    "10 5 6 * * *": "cron 10 5 6 * * *",
    "0,10,20,30 1,2 * * *": "cron 0,10,20,30 1,2 * * *",
}


@pytest.mark.parametrize("cron", WORDS)
def test_words(cron: str) -> None:
    assert cron_words(cron) == WORDS[cron]
