"""Ticks of schedules: the id of a tick's run, and why a tick is skipped."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from croniter import croniter

from penstock.contracts.triggers import Schedule
from penstock.durable.intake import queue_of
from penstock.runs.ids import derived_run_id

MISSED_AFTER_S = 60.0


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
