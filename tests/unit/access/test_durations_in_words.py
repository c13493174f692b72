"""Durations in words, wherever one is typed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from penstock.access.durations import read_duration
from penstock.errors import UsageError


@pytest.mark.parametrize("text", ["7d", "7 days", "7 Days", " 7days ", "1w", "1 week", "168 hours"])
def test_a_duration_is_read_in_words_too(text: str) -> None:
    assert read_duration(text) == timedelta(days=7)


@pytest.mark.parametrize("text", ["", "days", "0 days", "7 months", "7 d ays", "-7 days", "7 da"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is no duration"):
        read_duration(text)
