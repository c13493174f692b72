"""Commands that manage the targets of callbacks."""

from __future__ import annotations

import click

from penstock.access import callbacks
from penstock.cli.base import (
    Context,
    env_option,
    env_required,
    pass_context,
)
from penstock.cli.listings import Listing, listing_options, show_page


@click.group()
def callback() -> None:
    """Allow, remove and list callback URLs of consumers."""


@callback.command("allow")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("url")
@env_required
@click.option("--private", is_flag=True, help="Allow private networks and plain http.")
@pass_context
def callback_allow(
    context: Context, consumer_name: str, url: str, environment: str, private: bool
) -> None:
    """Allow callbacks of a consumer below a URL. The signing secret is shown only once."""
    allowed = callbacks.allow_callbacks(
        context.engine, context.actor, consumer_name, environment, url, context.box, private=private
    )
    click.echo(
        f"callbacks of {consumer_name} below {url} allowed in {environment}; they are signed with"
        f" this secret, which is shown only once:\n{allowed.secret}"
    )
    if allowed.replaced:
        click.echo("the secret of before no longer signs", err=True)


@callback.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("url")
@env_required
@pass_context
def callback_remove(context: Context, consumer_name: str, url: str, environment: str) -> None:
    """Stop sending callbacks of a consumer below a URL."""
    callbacks.remove_callbacks(context.engine, context.actor, consumer_name, environment, url)
    click.echo(f"callbacks of {consumer_name} below {url} no longer allowed in {environment}")


@callback.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer.")
@listing_options
@pass_context
def callback_list(
    context: Context, environment: str | None, consumer_name: str | None, listing: Listing
) -> None:
    """List allowed callback URLs."""
    rows = callbacks.list_callbacks(
        context.engine,
        environment=environment,
        consumer=consumer_name,
        search=listing.search,
        after=listing.number,
        limit=listing.fetched,
    )
    columns, empty = ("environment", "consumer", "prefix", "private"), "no callback URLs"
    show_page(rows, listing, columns, lambda row: row.id, empty=empty)


COMMANDS = (callback,)
