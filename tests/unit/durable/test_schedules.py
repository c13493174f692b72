"""Ticks of schedules: as cron(8) does where the clocks are changed, and not long after they were
due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penstock import Schedule
from penstock.durable.schedules import skip_reason

BERLIN = "Europe/Berlin"
# 02:30 twice.
FIRST, SECOND = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("cron", ["30 2 * * *", "30 1-3 * * *", "0 30 2 * * *"])
def test_an_hour_that_comes_twice_has_one_run(cron: str) -> None:
    schedule = Schedule(cron, timezone=BERLIN)

    assert skip_reason(schedule, FIRST, FIRST) is None
    assert "set back" in (skip_reason(schedule, SECOND, SECOND) or "")


@pytest.mark.parametrize("cron", ["30 * * * *", "*/15 * * * *", "30 */2 * * *", "0 30 * * * *"])
def test_a_schedule_of_every_hour_ticks_all_day(cron: str) -> None:
    assert skip_reason(Schedule(cron, timezone=BERLIN), SECOND, SECOND) is None


def test_a_tick_that_waited_long_for_a_worker_is_missed() -> None:
    moment = datetime(2026, 3, 2, 6, tzinfo=UTC)
    soon, same_day, next_day = (
        moment + timedelta(seconds=50),
        moment + timedelta(hours=3),
        moment + timedelta(days=1, seconds=70),
    )
    skip, once = Schedule("0 6 * * *"), Schedule("0 6 * * *", missed="once")

    assert [skip_reason(schedule, moment, soon) for schedule in (skip, once)] == [None, None]
    assert "no worker" in (skip_reason(skip, moment, same_day) or "")
    assert skip_reason(once, moment, same_day) is None
    assert "a later one" in (skip_reason(once, moment, next_day) or "")
