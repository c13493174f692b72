"""`penstock usage`: who called what, and how often."""

from __future__ import annotations

import time
from datetime import timedelta

import click

from penstock.cli.base import DURATION, Context, env_option, pass_context
from penstock.cli.listings import Listing, listing_options, show_page
from penstock.errors import UsageError
from penstock.execution.operations import identifiers
from penstock.execution.usage_queries import BY, UsageQuery, usage_of

COUNTED = ("calls", "succeeded", "client_errors", "rejected", "failed", "last")
COLUMNS = {
    "consumer": ("environment", "consumer", *COUNTED),
    "key": ("environment", "consumer", "key", "key_id", *COUNTED),
    "pipeline": ("environment", "pipeline", *COUNTED),
}


@click.command()
@click.option(
    "--by", type=click.Choice(BY), default="consumer", show_default=True, help="What is added up."
)
@env_option
@click.option("--consumer", metavar="NAME", help="Only calls of this consumer.")
@click.option("--key", metavar="ID", help="Only calls with the key of this ID.")
@click.option(
    "--pipeline",
    "pipeline_name",
    metavar="NAME",
    help="Only calls of this pipeline: orders, or v1/orders.",
)
@click.option(
    "--since", type=DURATION, default="7d", show_default=True, help="Only calls of that time."
)
@listing_options
@pass_context
def usage(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    by: str,
    environment: str | None,
    consumer: str | None,
    key: str | None,
    pipeline_name: str | None,
    since: timedelta,
    listing: Listing,
) -> None:
    """Add up calls by consumer, key or pipeline, the most first.

    Without --env: of all environments. Calls are counted by the hour; `last` is the hour of the
    last one. `--limit` takes the place of pages.
    """
    if listing.cursor is not None:
        raise UsageError("usage has no pages; raise --limit")
    asked = UsageQuery(
        environment=environment,
        consumer=consumer,
        key=key,
        pipelines=identifiers(lambda: context.host, context.engine, pipeline_name),
        since=time.time() - since.total_seconds(),
        search=listing.search,
    )
    rows = usage_of(context.engine, asked, by, limit=listing.limit)
    documents = [row.document() for row in rows]
    show_page(documents, listing, COLUMNS[by], lambda row: row["calls"], empty="no calls")


COMMANDS = (usage,)
