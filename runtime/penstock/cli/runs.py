"""Look at runs and steer them; say what is sensitive of them, and where their ends may be told."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click
import msgspec
from croniter import croniter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.access import callbacks
from penstock.access import sensitive_fields as fields_of_environment
from penstock.access.lookup import environment_row
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    format_option,
    pass_context,
    show,
    show_json,
)
from penstock.contracts.run_status import Status
from penstock.contracts.triggers import Schedule
from penstock.db import runs as stored
from penstock.db.engine import reading
from penstock.db.unit_of_work import RowReader
from penstock.durable.schedules import schedule_name, tick_id
from penstock.durable.status import attempts_of, span_of
from penstock.errors import UsageError
from penstock.execution import operating
from penstock.execution.steering import identifiers
from penstock.host.compilation import LoadedPipeline
from penstock.runs.failures import Failure
from penstock.runs.ids import is_run_id
from penstock.runs.steps import StepRecord

COLUMNS = (
    "id",
    "at",
    "environment",
    "pipeline",
    "route",
    "consumer",
    "status",
    "http_status",
    "ms",
    "durable",
)
COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "client_error": "yellow",
    "cancelled": "yellow",
}
BAR = 40  # characters of a waterfall; half as many where a line has fewer than
WIDE = 110
SAID = (
    "consumer", "subject", "request_id", "parent", "redelivers", "problem", "detail", "progress",
    "waits_for", "unreadable", "callback_url",
    "callback_status",
)  # fmt: skip
LOOK = 0.5  # seconds between two looks at a run that is followed


@click.group()
def runs() -> None:
    """Look at runs and steer them."""


@runs.command("list")
@env_option
@click.option(
    "--pipeline", "pipeline_name", metavar="NAME", help="Only of this one: orders, or v1/orders."
)
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only of this consumer.")
@click.option(
    "--status", type=click.Choice([status.value for status in Status]), help="Only of this status."
)
@click.option("--request-id", metavar="ID", help="Only of calls that came with this X-Request-Id.")
@click.option("--since", type=DURATION, help="Only of the last hours or days: 2h, 7d.")
@click.option("--before", metavar="ID", help="The page after the one that ended with this run.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many."
)
@format_option
@pass_context
def runs_list(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    environment: str | None,
    pipeline_name: str | None,
    consumer_name: str | None,
    status: str | None,
    request_id: str | None,
    since: timedelta | None,
    before: str | None,
    limit: int,
    form: str,
) -> None:
    """List runs, newest first."""
    if before is not None and not is_run_id(before):
        raise UsageError(f"{before!r} is no run's id")
    found = operating.list_runs(
        context.engine,
        environment=environment,
        pipelines=identifiers(context.host, pipeline_name) if pipeline_name else (),
        consumer=consumer_name,
        status=status,
        request_id=request_id,
        since=time.time() - since.total_seconds() if since else None,
        before=before,
        limit=limit,
    )
    show(found, form, COLUMNS, empty="no runs")


@runs.command("show")
@click.argument("run", metavar="ID")
@format_option
@pass_context
def runs_show(context: Context, run: str, form: str) -> None:
    """Show a run, its steps as a waterfall."""
    shown = context.steering.show(run)
    if form == "json":
        show_json(msgspec.to_builtins(shown, builtin_types=(datetime,)))
        return
    _print_run(shown)


def _print_run(shown: dict[str, Any]) -> None:
    console = Console(highlight=False)
    head = Table.grid(padding=(0, 2))
    status = Text(shown["status"], style=COLOURS.get(shown["status"], ""))
    if shown["http_status"]:
        status.append(f" ({shown['http_status']})", style="dim")
    rows: list[tuple[str, object]] = [
        ("run", shown["id"]),
        ("status", status),
        ("pipeline", f"{shown['pipeline']} {shown['version']}  {shown['route']}"),
        ("came", f"{shown['at']:%Y-%m-%d %H:%M:%S.%f}"[:-3] + f"Z in {shown['environment']}"),
        ("took", f"{shown['ms']:.1f} ms" if shown["ms"] is not None else None),
        ("taken over", f"{shown['recoveries']} times" if shown.get("recoveries") else None),
    ]
    rows += [(name.replace("_", " "), shown[name]) for name in SAID if shown.get(name)]
    for name, value in rows:
        if value is None:
            continue
        head.add_row(
            Text(name, style="dim"), value if isinstance(value, Text) else Text(str(value))
        )
    console.print(head)
    if shown["failure"]:
        _print_failure(console, shown["failure"])
    if shown["steps"]:
        console.print(_waterfall(shown["steps"], console.width))
    for child in shown["children"]:
        console.print(
            Text(f"started {child['id']}  {child['pipeline']} {child['route']}  {child['status']}")
        )
    if shown["bodies"]:
        console.print_json(data=shown["bodies"])


def _print_failure(console: Console, failure: Failure, because: str = "failed with") -> None:
    console.print(Text.assemble((because, "dim"), " ", (f"{failure.type}: {failure.text}", "red")))
    for frame in failure.frames:
        console.print(Text(f"  {frame.file}:{frame.line} in {frame.function}"))
    for cause in failure.causes:
        _print_failure(console, cause, "because of")


def _waterfall(steps: list[StepRecord], width: int) -> Table:
    """Return the steps, each attempt as a bar on the run's time."""
    room = BAR if width >= WIDE else BAR // 2
    whole = span_of(steps)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    numbers = max(len(str(step.number or number)) for number, step in enumerate(steps, 1))
    for column in ("#", "step", "attempts", "ms", "", "error"):
        right, least = (
            column in {"#", "attempts", "ms"},
            {"#": numbers, "attempts": 8, "ms": 7}.get(column),
        )
        table.add_column(
            column,
            justify="right" if right else "left",
            no_wrap=column not in {"step", "error"},
            overflow="fold",
            min_width=least,
        )
    for number, step in enumerate(steps, 1):
        bar = Text(" " * room)
        for attempt in attempts_of(step):
            first = min(room - 1, int(attempt.at / whole * room))
            last = min(room, max(first + 1, round((attempt.at + attempt.ms) / whole * room)))
            bar = (
                bar[:first]
                + Text("█" * (last - first), style="red" if attempt.error else "green")
                + bar[last:]
            )
        error = next((attempt.error for attempt in reversed(step.attempts) if attempt.error), "")
        table.add_row(
            str(step.number or number),
            step.name,
            str(max(1, len(step.attempts))),
            f"{step.ms:.1f}",
            bar,
            Text(error, style="red"),
        )
    return table


@runs.command("follow")
@click.argument("run", metavar="ID")
@pass_context
def runs_follow(context: Context, run: str) -> int:
    """Follow a durable run until it is over; exit code 1 if it did not succeed."""
    console, told, progress = Console(highlight=False), 0, None
    while True:
        shown = context.steering.show(run)
        for step in shown["steps"][told:]:
            told += 1
            error = f"  {step.attempts[-1].error}" if step.failed and step.attempts else ""
            console.print(
                Text(
                    f"{told:>4}  {step.name}  {step.ms:.1f} ms{error}",
                    style="red" if step.failed else "",
                )
            )
        if shown.get("progress") and shown["progress"] != progress:
            progress = shown["progress"]
            of = f" of {progress['of']:g}" if progress["of"] is not None else ""
            console.print(Text(f"      {progress['done']:g}{of} {progress['note']}", style="dim"))
        if operating.is_over(shown["status"]):
            console.print(Text(shown["status"], style=COLOURS.get(shown["status"], "")))
            return int(shown["status"] != Status.SUCCEEDED)
        sys.stdout.flush()
        time.sleep(LOOK)


@runs.command("cancel")
@click.argument("run", metavar="ID")
@pass_context
def runs_cancel(context: Context, run: str) -> None:
    """Cancel a durable run, and those that it started.

    A pause ends at once, and no attempt and no step begins any more.
    """
    context.steering.cancel(context.actor, run)
    click.echo(f"run {run} cancelled")


@runs.command("redeliver")
@click.argument("run", metavar="ID")
@click.option(
    "--from-step",
    type=click.IntRange(1, 1_000_000),
    default=1,
    help="Keep what it did before this step; `penstock runs show` numbers them.",
)
@pass_context
def runs_redeliver(context: Context, run: str, from_step: int) -> int:
    """Start a run again with what it was given.

    A call that was answered at once is run here and now.
    """
    new, status = context.steering.redeliver(context.actor, run, step=from_step)
    first = context.steering.show(run)
    consumer = f" for {first['consumer']}" if first["consumer"] else ""
    kept = f", and the results of its steps before step {from_step}" if from_step > 1 else ""
    what = (
        f"{first['route']} of {first['pipeline']} in {first['environment']}{consumer}, with the"
        f" input of run {run}{kept}"
    )
    if status is None:
        click.echo(f"run {new} accepted: {what}; `penstock runs follow {new}` follows it")
        return 0
    click.echo(f"run {new}: {status}: {what}; `penstock runs show {new}` shows it")
    return int(status != Status.SUCCEEDED)


@runs.command("purge")
@env_required
@click.option(
    "--older-than", type=DURATION, required=True, help="Forget runs that came before: 30d, 12h."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def runs_purge(context: Context, environment: str, older_than: timedelta, yes: bool) -> None:
    """Forget old runs now; what is not over stays.

    Every environment forgets by itself what is older than its --run-retention.
    """
    if not yes:
        click.confirm(
            f"Runs of {environment} older than {older_than} are forgotten. Go on?", abort=True
        )
    number = operating.purge_runs(
        context.engine,
        context.actor,
        environment,
        older_than.total_seconds(),
        context.steering.run_store,
    )
    click.echo(f"{number} runs of {environment} forgotten")


@click.command()
@env_option
@format_option
@pass_context
def schedules(context: Context, environment: str | None, form: str) -> None:
    """List schedules: when each is next, and what became of the last one."""
    name = context.environment(environment)
    rows = []
    with reading(context.engine) as connection:
        environment_row(RowReader(connection), name)
    declared = [
        (identifier, schedule)
        for identifier, item in sorted(context.host.catalog.loaded.items())
        for schedule in _schedules_of(item)
    ]
    fired = context.steering.run_store(name).fired() if declared else {}
    for identifier, schedule in declared:
        now = datetime.now(ZoneInfo(schedule.timezone))
        last: datetime = croniter(schedule.cron, now, second_at_beginning=True).get_prev(datetime)
        with reading(context.engine) as connection:
            run = stored.find(connection, tick_id(name, identifier, schedule, last))
        # Else it may be younger than that tick.
        known = run is not None or schedule_name(name, identifier, schedule) in fired
        rows.append(
            {
                "pipeline": identifier,
                "cron": schedule.cron,
                "timezone": schedule.timezone,
                "missed": schedule.missed,
                "next": croniter(schedule.cron, now, second_at_beginning=True).get_next(datetime),
                "last": last.astimezone(UTC) if known else None,
                "became": run["status"] if run is not None else None,
                "run": run["id"] if run is not None else None,
            }
        )
    show(
        rows,
        form,
        ("pipeline", "cron", "timezone", "missed", "next", "last", "became", "run"),
        empty="no schedules",
    )


def _schedules_of(item: LoadedPipeline) -> tuple[Schedule, ...]:
    return () if item.broken else item.pipeline.schedules


@click.group("sensitive-fields")
def sensitive_fields() -> None:
    """Fields of bodies that are never written, by environment."""


@sensitive_fields.command("add")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD")
@env_required
@pass_context
def sensitive_add(context: Context, fields: tuple[str, ...], environment: str) -> None:
    """Hide fields, by name at any depth (card_number) or by JSON Pointer (/card/number)."""
    fields_of_environment.add_fields(context.engine, context.actor, environment, fields)
    click.echo(f"hidden in {environment}: {', '.join(fields)}")


@sensitive_fields.command("remove")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD")
@env_required
@pass_context
def sensitive_remove(context: Context, fields: tuple[str, ...], environment: str) -> None:
    """Hide fields no more."""
    fields_of_environment.remove_fields(context.engine, context.actor, environment, fields)
    click.echo(f"not hidden in {environment} any more: {', '.join(fields)}")


@sensitive_fields.command("list")
@env_option
@format_option
@pass_context
def sensitive_list(context: Context, environment: str | None, form: str) -> None:
    """List hidden fields; passwords, tokens and keys by their usual names are hidden always."""
    show(
        fields_of_environment.list_fields(context.engine, environment),
        form,
        ("environment", "field"),
        empty="none beyond the usual",
    )


@click.group()
def callback() -> None:
    """Where the ends of durable runs may be told."""


@callback.command("allow")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("url")
@env_required
@click.option("--private", is_flag=True, help="It may be on a private network, and plain http.")
@pass_context
def callback_allow(
    context: Context, consumer_name: str, url: str, environment: str, private: bool
) -> None:
    """Let a consumer have callbacks sent below a URL; the secret that signs them is shown once."""
    secret = callbacks.allow_callbacks(
        context.engine, context.actor, consumer_name, environment, url, context.box, private=private
    )
    click.echo(
        f"callbacks of {consumer_name} may go below {url} in {environment}; they are signed with"
        f" this secret, shown this once:\n{secret}"
    )


@callback.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("url")
@env_required
@pass_context
def callback_remove(context: Context, consumer_name: str, url: str, environment: str) -> None:
    """Send a consumer no more callbacks below a URL."""
    callbacks.remove_callbacks(context.engine, context.actor, consumer_name, environment, url)
    click.echo(f"callbacks of {consumer_name} do not go below {url} in {environment} any more")


@callback.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def callback_list(
    context: Context, environment: str | None, consumer_name: str | None, form: str
) -> None:
    """List where callbacks may go."""
    rows = callbacks.list_callbacks(context.engine, environment=environment, consumer=consumer_name)
    show(rows, form, ("environment", "consumer", "prefix", "private"), empty="no callback targets")


COMMANDS = (runs, schedules, sensitive_fields, callback)
