"""Commands that show rejected calls."""

from __future__ import annotations

import time
from datetime import timedelta

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.cli.base import DURATION, Context, env_option, format_option, pass_context, show_json
from penstock.cli.listings import Listing, listing_options, show_page
from penstock.errors import UsageError, quoted
from penstock.execution.operations import identifiers
from penstock.execution.rejected_queries import (
    RejectedQuery,
    RejectedView,
    find_rejected,
    list_rejected,
)
from penstock.runs.ids import is_run_id

COLUMNS = ("id", "at", "environment", "reason", "pipeline", "route", "consumer", "key", "address")
SHOWN = (
    "environment",
    "pipeline",
    "route",
    "cause",
    "detail",
    "consumer",
    "key",
    "key_id",
    "scopes",
    "address",
    "request_id",
)


@click.group()
def rejected() -> None:
    """List and show calls that were rejected before their handler began."""


@rejected.command("list")
@env_option
@click.option("--reason", metavar="TYPE", help="Only this problem type: invalid-api-key.")
@click.option("--consumer", metavar="NAME", help="Only calls of this consumer.")
@click.option("--key", metavar="ID", help="Only calls with the key of this ID.")
@click.option(
    "--pipeline",
    "pipeline_name",
    metavar="NAME",
    help="Only calls of this pipeline: orders, or v1/orders.",
)
@click.option("--address", metavar="IP", help="Only calls from this network address.")
@click.option("--request-id", metavar="ID", help="Only calls with this X-Request-Id.")
@click.option("--since", type=DURATION, help="Only calls of the last hours or days: 2h, 7d.")
@listing_options
@pass_context
def rejected_list(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    environment: str | None,
    reason: str | None,
    consumer: str | None,
    key: str | None,
    pipeline_name: str | None,
    address: str | None,
    request_id: str | None,
    since: timedelta | None,
    listing: Listing,
) -> None:
    """List rejected calls, newest first.

    Those of known consumers are all kept, up to 100 in a minute; those of unauthenticated clients
    are samples.
    """
    if listing.cursor is not None and not is_run_id(listing.cursor):
        raise UsageError(f"--cursor {quoted(listing.cursor)} is not the id of a call")
    asked = RejectedQuery(
        environment=environment,
        reason=reason,
        consumer=consumer,
        key=key,
        pipelines=identifiers(lambda: context.host, context.engine, pipeline_name),
        address=address,
        request_id=request_id,
        since=time.time() - since.total_seconds() if since else None,
        search=listing.search,
    )
    calls = list_rejected(context.engine, asked, before=listing.cursor, limit=listing.fetched)
    documents = [call.document() for call in calls]
    show_page(documents, listing, COLUMNS, lambda row: row["id"], empty="no rejected calls")


@rejected.command("show")
@click.argument("call", metavar="ID")
@format_option
@pass_context
def rejected_show(context: Context, call: str, form: str) -> None:
    """Show a rejected call by the ID in its reply (`run`).

    `penstock explain ID` says what would let it pass.
    """
    found = find_rejected(context.engine, call)
    if form == "json":
        show_json(found.document())
    else:
        print_rejected(found)


def print_rejected(call: RejectedView) -> None:
    """Print a rejected call for people."""
    head = Table.grid(padding=(0, 2))
    status = Text(f"rejected: {call.reason}", style="yellow")
    if call.http_status:
        status.append(f" ({call.http_status})", style="dim")
    rows: list[tuple[str, object]] = [
        ("call", call.id),
        ("status", status),
        ("received", f"{call.at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"),
        ("request", f"{call.method} {call.path}" if call.method else None),
        *((name.replace("_", " "), getattr(call, name)) for name in SHOWN),
    ]
    if call.left_out:
        rows.append(("not kept", f"{call.left_out} later calls of the consumer in that minute"))
    for name, value in rows:
        if value:
            shown = value if isinstance(value, Text) else Text(str(value))
            head.add_row(Text(name, style="dim"), shown)
    Console(highlight=False).print(head)


COMMANDS = (rejected,)
