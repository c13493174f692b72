"""Commands that show and manage runs."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click
import msgspec

from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    format_option,
    pass_context,
    show_json,
)
from penstock.cli.listings import Listing, listing_options, show_page
from penstock.cli.rejected import print_rejected
from penstock.cli.run_following import RunFollower
from penstock.cli.run_view import print_run
from penstock.contracts.run_status import Status
from penstock.errors import UnknownName, UsageError, quoted
from penstock.execution.operations import identifiers_like, purge_runs
from penstock.execution.rejected_queries import find_rejected
from penstock.execution.run_queries import COLUMNS, RunQuery, list_runs
from penstock.runs.ids import is_run_id

FOLLOW_INTERVAL_S = 0.5


@click.group()
def runs() -> None:
    """List, show, follow, cancel, re-run and delete runs."""


@runs.command("list")
@env_option
@click.option(
    "--pipeline",
    "pipeline_name",
    metavar="NAME",
    help="Only runs of this pipeline: orders, v1/orders, or a part of such a name.",
)
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only runs of this consumer.")
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    help="Only runs with this status.",
)
@click.option("--key", metavar="ID", help="Only runs whose caller used the key of this ID.")
@click.option(
    "--error-type", metavar="NAME", help="Only runs that this exception ended: ValueError."
)
@click.option("--min-duration", type=DURATION, help="Only runs that took this long: 10s, 5m.")
@click.option("--request-id", metavar="ID", help="Only runs of calls with this X-Request-Id.")
@click.option("--since", type=DURATION, help="Only runs of the last hours or days: 2h, 7d.")
@listing_options
@pass_context
def runs_list(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    environment: str | None,
    pipeline_name: str | None,
    consumer_name: str | None,
    status: str | None,
    key: str | None,
    error_type: str | None,
    min_duration: timedelta | None,
    request_id: str | None,
    since: timedelta | None,
    listing: Listing,
) -> None:
    """List runs, newest first."""
    if listing.cursor is not None and not is_run_id(listing.cursor):
        raise UsageError(f"--cursor {quoted(listing.cursor)} is not the id of a run")
    asked = RunQuery(
        environment=environment,
        pipelines=identifiers_like(lambda: context.host, context.engine, pipeline_name),
        consumer=consumer_name,
        key=key,
        status=status,
        error_type=error_type,
        request_id=request_id,
        seconds=min_duration.total_seconds() if min_duration else None,
        since=time.time() - since.total_seconds() if since else None,
        search=listing.search,
    )
    rows = list_runs(context.engine, asked, before=listing.cursor, limit=listing.fetched)
    documents = [row.document() for row in rows]
    show_page(documents, listing, COLUMNS, lambda row: row["id"], empty="no runs")


@runs.command("show")
@click.argument("run", metavar="ID")
@format_option
@pass_context
def runs_show(context: Context, run: str, form: str) -> None:
    """Show a run with its steps as a waterfall, or the rejected call of this ID."""
    try:
        view = context.run_operations.show(run)
    except UnknownName:
        if is_run_id(run):
            with suppress(UnknownName):
                call = find_rejected(context.engine, run)
                show_json(call.document()) if form == "json" else print_rejected(call)
                return
        raise
    if form == "json":
        show_json(msgspec.to_builtins(view.document(), builtin_types=(datetime,)))
        return
    print_run(view)


@runs.command("follow")
@click.argument("run", metavar="ID")
@click.option(
    "--since", type=DURATION, help="Only steps and log lines of the last minutes or hours: 10m, 2h."
)
@pass_context
def runs_follow(context: Context, run: str, since: timedelta | None) -> int:
    """Follow a durable run until it ends: its steps, its progress and what it logs.

    Steps and lines of the runs that it started are printed too, after the ids of their pipelines.
    Exit code 1 if the run did not succeed.
    """
    begin = datetime.now(UTC) - since if since else None
    follower = RunFollower(context.run_operations.show, begin)
    while True:
        view = follower.poll(run)
        if view.is_finished:
            return int(view.status != Status.SUCCEEDED)
        sys.stdout.flush()
        time.sleep(FOLLOW_INTERVAL_S)


@runs.command("cancel")
@click.argument("run", metavar="ID")
@pass_context
def runs_cancel(context: Context, run: str) -> None:
    """Cancel a durable run and the runs that it started.

    A pause ends at once, and no further step or attempt starts. Completed steps are not undone.
    """
    context.run_operations.cancel(context.actor, run)
    click.echo(f"run {run} cancelled")


@runs.command("redeliver")
@click.argument("run", metavar="ID")
@click.option(
    "--from-step",
    type=click.IntRange(1, 1_000_000),
    default=1,
    help="Keep the results of earlier steps; `penstock runs show` prints the numbers.",
)
@pass_context
def runs_redeliver(context: Context, run: str, from_step: int) -> int:
    """Run a run again with the same input.

    A durable run is accepted; a worker of its environment performs it. An inline run is performed
    by this command, so it must be one of the environment in PENSTOCK_ENVIRONMENT. Run the command
    on a host of that environment, with its plugins.
    """
    new, status = context.run_operations.redeliver(context.actor, run, step=from_step)
    first = context.run_operations.show(run)
    consumer = f" for {first.consumer}" if first.consumer else ""
    results = f", and the results of its steps before step {from_step}" if from_step > 1 else ""
    what = (
        f"{first.route} of {first.pipeline} in {first.environment}{consumer}, with the"
        f" input of run {run}{results}"
    )
    if status is None:
        click.echo(f"run {new} accepted: {what}; `penstock runs follow {new}` follows it")
        return 0
    click.echo(f"run {new}: {status}: {what}; `penstock runs show {new}` shows it")
    return int(status != Status.SUCCEEDED)


@runs.command("purge")
@env_required
@click.option(
    "--older-than", type=DURATION, required=True, help="Delete runs that are older: 30d, 12h."
)
@click.option("--yes", is_flag=True, help="Delete without a confirmation prompt.")
@pass_context
def runs_purge(context: Context, environment: str, older_than: timedelta, yes: bool) -> None:
    """Delete old runs now. Unfinished runs stay.

    Runs that are older than the --run-retention of their environment are deleted automatically.
    """
    if not yes:
        click.confirm(
            f"Delete the runs of {environment} that are older than {older_than}?", abort=True
        )
    number = purge_runs(
        context.engine,
        context.actor,
        environment,
        older_than.total_seconds(),
        context.run_operations.run_store,
    )
    click.echo(f"{number} runs of {environment} deleted")


COMMANDS = (runs,)
