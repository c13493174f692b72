"""Commands that manage the targets of callbacks."""

from __future__ import annotations

import click

from penstock.access import callbacks
from penstock.cli.base import (
    Context,
    env_option,
    env_required,
    format_option,
    pass_context,
    show,
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


COMMANDS = (callback,)
