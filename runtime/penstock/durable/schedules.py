"""Ticks of schedules: when they are, the id of a tick's run, and why a tick is skipped."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter

from penstock.contracts.triggers import Schedule
from penstock.durable.intake import queue_of
from penstock.runs.ids import derived_run_id

MISSED_AFTER_S = 60.0


def schedule_id(environment: str, pipeline: str, schedule: Schedule) -> str:
    """Return the id of a schedule, under which a pause is stored."""
    return derived_run_id(0, environment, pipeline, schedule.cron, schedule.timezone, schedule.path)


def next_tick(schedule: Schedule, now: datetime) -> datetime | None:
    """Return the first tick after a moment, None where there is none in fifty years."""
    ticks = _ticks(schedule, now)
    try:
        at: datetime = ticks.get_next(datetime)
    except CroniterBadDateError:
        return None
    return at


def next_ticks(schedule: Schedule, now: datetime, number: int) -> list[datetime]:
    """Return the first ticks after a moment; fewer where there are no more in fifty years."""
    ticks = _ticks(schedule, now)
    moments: list[datetime] = []
    with suppress(CroniterBadDateError):
        moments.extend(ticks.get_next(datetime) for _ in range(number))
    return moments


def last_ticks(schedule: Schedule, now: datetime, number: int) -> list[datetime]:
    """Return the last ticks before a moment, oldest first; fewer where there were no more."""
    ticks = _ticks(schedule, now)
    moments: list[datetime] = []
    with suppress(CroniterBadDateError):
        moments.extend(ticks.get_prev(datetime) for _ in range(number))
    return moments[::-1]


def _ticks(schedule: Schedule, now: datetime) -> croniter:
    local = now.astimezone(ZoneInfo(schedule.timezone))
    return croniter(schedule.cron, local, second_at_beginning=True)


def tick_id(environment: str, pipeline: str, schedule: Schedule, moment: datetime) -> str:
    """Return the id of the run of a tick, which every process computes alike."""
    return derived_run_id(
        int(moment.timestamp() * 1000),
        environment,
        pipeline,
        schedule.cron,
        schedule.timezone,
        schedule.path,
    )


def schedule_name(environment: str, pipeline: str, schedule: Schedule) -> str:
    """Return the name of a schedule in the engine."""
    return f"{queue_of(environment, pipeline)} {schedule.cron} {schedule.timezone} {schedule.path}"


def skip_reason(schedule: Schedule, moment: datetime, now: datetime) -> str | None:
    """Return why a tick is skipped, None where it has a run."""
    local = moment.astimezone(ZoneInfo(schedule.timezone))
    # As cron(8): a schedule with fixed hours runs once when the clocks are set back.
    if local.fold and not schedule.cron.split()[-4].startswith("*"):
        return "the clocks were set back, and it has run at this hour"
    if (now - moment).total_seconds() <= MISSED_AFTER_S:
        return None
    if schedule.missed == "skip":
        return "no worker was there for it"
    last: datetime = croniter(
        schedule.cron, now.astimezone(ZoneInfo(schedule.timezone)), second_at_beginning=True
    ).get_prev(datetime)
    return "a later one makes up for it" if last > moment else None
