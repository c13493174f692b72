"""The commands that list, pause, resume and run schedules."""

from __future__ import annotations

from dataclasses import asdict

import click

from penstock.cli.base import Context, env_option, pass_context
from penstock.cli.listings import Listing, listing_options, show_rows
from penstock.execution.scheduling import Scheduling

COLUMNS = (
    "pipeline", "cron", "timezone", "missed", "next", "last", "became", "run", "paused_by",
)  # fmt: skip

cron_option = click.option(
    "--cron", metavar="CRON", help="Which schedule, where the pipeline has several: '0 6 * * *'."
)


def _scheduling(context: Context) -> Scheduling:
    host = context.host
    return Scheduling(
        context.engine, context.box, host.catalog, host.evaluator, context.run_operations.run_store
    )


@click.command()
@env_option
@listing_options
@pass_context
def schedules(context: Context, environment: str | None, listing: Listing) -> None:
    """List schedules with their next and last ticks."""
    views = _scheduling(context).views(context.environment(environment))
    rows = [
        {name: value for name, value in asdict(view).items() if name != "ticks"} for view in views
    ]
    show_rows(
        rows,
        listing,
        COLUMNS,
        lambda row: f"{row['pipeline']}:{row['cron']}",
        empty="no schedules",
    )


@click.group()
def schedule() -> None:
    """Pause, resume and run schedules."""


@schedule.command("pause")
@click.argument("pipeline")
@cron_option
@env_option
@pass_context
def schedule_pause(
    context: Context, pipeline: str, cron: str | None, environment: str | None
) -> None:
    """Pause a schedule: its ticks start no runs until it is resumed.

    Runs that were accepted before are performed.
    """
    scheduling, name = _scheduling(context), context.environment(environment)
    changed = scheduling.pause(context.actor, name, scheduling.find(name, pipeline, cron))
    click.echo(f"the schedule of {pipeline} in {name} is paused{'' if changed else ' already'}")


@schedule.command("resume")
@click.argument("pipeline")
@cron_option
@env_option
@pass_context
def schedule_resume(
    context: Context, pipeline: str, cron: str | None, environment: str | None
) -> None:
    """Resume a paused schedule from its next tick on. Ticks in between are not made up for."""
    scheduling, name = _scheduling(context), context.environment(environment)
    changed = scheduling.resume(context.actor, name, scheduling.find(name, pipeline, cron))
    click.echo(f"the schedule of {pipeline} in {name} is {'resumed' if changed else 'not paused'}")


@schedule.command("run")
@click.argument("pipeline")
@cron_option
@env_option
@pass_context
def schedule_run(
    context: Context, pipeline: str, cron: str | None, environment: str | None
) -> None:
    """Start a run of a schedule now, beside its ticks. Prints the ID of the run."""
    scheduling, name = _scheduling(context), context.environment(environment)
    click.echo(scheduling.run_now(context.actor, name, scheduling.find(name, pipeline, cron)))


COMMANDS = (schedules, schedule)
