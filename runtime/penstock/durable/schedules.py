"""Ticks of schedules: which run is a tick's, and which ticks have none."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from croniter import croniter

from penstock.contracts.triggers import Schedule
from penstock.durable.intake import queue_of
from penstock.runs.ids import derived_run_id

LATE = 60.0  # seconds after which a tick counts as missed


def tick_id(environment: str, pipeline: str, schedule: Schedule, moment: datetime) -> str:
    """Return the id of the run of a tick: it can be told without asking anybody."""
    return derived_run_id(
        int(moment.timestamp() * 1000),
        environment,
        pipeline,
        schedule.cron,
        schedule.timezone,
        schedule.path,
    )


def schedule_name(environment: str, pipeline: str, schedule: Schedule) -> str:
    """Return the name under which the engine has a schedule."""
    return f"{queue_of(environment, pipeline)} {schedule.cron} {schedule.timezone} {schedule.path}"


def skip_reason(schedule: Schedule, moment: datetime, now: datetime) -> str | None:
    """Return why a tick has no run, None where it has."""
    local = moment.astimezone(ZoneInfo(schedule.timezone))
    # As cron(8) does: what runs at an hour runs once when that comes twice.
    if local.fold and not schedule.cron.split()[-4].startswith("*"):
        return "the clocks were set back, and it has run at this hour"
    if (now - moment).total_seconds() <= LATE:
        return None
    if schedule.missed == "skip":
        return "no worker was there for it"
    last: datetime = croniter(
        schedule.cron, now.astimezone(ZoneInfo(schedule.timezone)), second_at_beginning=True
    ).get_prev(datetime)
    return "a later one makes up for it" if last > moment else None
