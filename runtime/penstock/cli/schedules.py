"""The command that lists schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click
from croniter import croniter

from penstock.access.lookup import environment_row
from penstock.cli.base import (
    Context,
    env_option,
    pass_context,
)
from penstock.cli.listings import Listing, listing_options, show_rows
from penstock.contracts.triggers import Schedule
from penstock.db import runs as stored
from penstock.db.engine import reading
from penstock.db.unit_of_work import RowReader
from penstock.durable.schedules import schedule_name, tick_id
from penstock.host.compilation import LoadedPipeline


@click.command()
@env_option
@listing_options
@pass_context
def schedules(context: Context, environment: str | None, listing: Listing) -> None:
    """List schedules with their next and last ticks."""
    name = context.environment(environment)
    rows = []
    with reading(context.engine) as connection:
        environment_row(RowReader(connection), name)
    declared = [
        (identifier, schedule)
        for identifier, item in sorted(context.host.catalog.loaded.items())
        for schedule in _schedules_of(item)
    ]
    fired = context.run_operations.run_store(name).last_ticks() if declared else {}
    for identifier, schedule in declared:
        now = datetime.now(ZoneInfo(schedule.timezone))
        last: datetime = croniter(schedule.cron, now, second_at_beginning=True).get_prev(datetime)
        with reading(context.engine) as connection:
            run = stored.find(connection, tick_id(name, identifier, schedule, last))
        # Otherwise the schedule may be younger than that tick.
        fired_before = run is not None or schedule_name(name, identifier, schedule) in fired
        rows.append(
            {
                "pipeline": identifier,
                "cron": schedule.cron,
                "timezone": schedule.timezone,
                "missed": schedule.missed,
                "next": croniter(schedule.cron, now, second_at_beginning=True).get_next(datetime),
                "last": last.astimezone(UTC) if fired_before else None,
                "became": run.status if run is not None else None,
                "run": run.id if run is not None else None,
            }
        )
    show_rows(
        rows,
        listing,
        ("pipeline", "cron", "timezone", "missed", "next", "last", "became", "run"),
        lambda row: f"{row['pipeline']}:{row['cron']}",
        empty="no schedules",
    )


def _schedules_of(item: LoadedPipeline) -> tuple[Schedule, ...]:
    return () if item.broken else item.pipeline.schedules


COMMANDS = (schedules,)
