"""The command that shows the audit log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from penstock import audit
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    pass_context,
)
from penstock.cli.listings import Listing, listing_options, show_page


@click.command("audit")
@env_option
@click.option("--by", metavar="ACTOR", help="Only changes by this actor.")
@click.option(
    "--action",
    metavar="ACTION",
    help="Only this action (key:revoked), or this kind of object (key).",
)
@click.option("--subject", metavar="NAME", help="Only changes to this object.")
@click.option("--since", type=DURATION, help="Only the last hours or days: 2h, 7d.")
@click.option(
    "--export",
    type=click.Choice(["csv", "jsonl"]),
    help="Print all matching events as CSV or JSON lines.",
)
@listing_options
@pass_context
def audit_command(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    environment: str | None,
    by: str | None,
    action: str | None,
    subject: str | None,
    since: timedelta | None,
    export: str | None,
    listing: Listing,
) -> None:
    """Show the audit log: who changed what, newest first.

    The table has a sentence for each event; --format json has all its facts.
    """
    filters: dict[str, Any] = {
        "environment": environment,
        "actor": by,
        "action": action,
        "subject": subject,
        "text": listing.search or None,
        "since": datetime.now(UTC) - since if since else None,
    }
    if export:
        audit.record(context.engine, context.actor, audit.Action.AUDIT_EXPORTED, export, {})
        write = audit.as_csv if export == "csv" else audit.as_json_lines
        for line in write(audit.every_event(context.engine, **filters)):
            click.echo(line, nl=False)
        return
    events, more = audit.page_of_events(
        context.engine, limit=listing.limit, before=listing.number, **filters
    )
    if listing.form == "table":
        rows = [
            {"id": event.id, "at": event.at, "event": f"{event.actor} {event.act}"}
            for event in events
        ]
        show_page(rows, listing, ("id", "at", "event"), lambda row: row["id"])
    else:
        show_page(events, listing, audit.COLUMNS, lambda event: event.id)
    if more is not None:
        click.echo(f"next page: --cursor {more}", err=True)


COMMANDS = (audit_command,)
