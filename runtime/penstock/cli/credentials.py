"""Commands that manage consumers' credentials other than API keys."""

from __future__ import annotations

import secrets
from datetime import timedelta

import click

from penstock.access import credentials
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    pass_context,
    read_secret,
)
from penstock.cli.listings import Listing, listing_options, show_page
from penstock.errors import UnknownName


@click.group()
def credential() -> None:
    """Manage passwords, signing secrets and certificates."""


@credential.command("add")
@click.argument("kind")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option(
    "--name",
    required=True,
    metavar="NAME",
    help="User name, certificate name, or a name that distinguishes secrets.",
)
@click.option("--generate", is_flag=True, help="Generate the secret and print it once.")
@click.option("--expires", type=DURATION, help="Time until it expires. Default: never.")
@click.option("--note", default="", help="Note, such as its purpose.")
@pass_context
def credential_add(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    kind: str,
    consumer_name: str,
    environment: str,
    name: str,
    generate: bool,
    expires: timedelta | None,
    note: str,
) -> None:
    """Add a credential. Its secret is read from a prompt or from standard input."""
    offered = {
        item.name: item for item in context.host.catalog.plugins.authenticators if item.enrols
    }
    if kind not in offered:
        raise UnknownName(
            "kind of credential",
            kind,
            offered,
            fix=f"there are: {', '.join(sorted(offered)) or 'none loaded'}",
        )
    authenticator = offered[kind]
    value = ""
    if authenticator.asks_for_secret:
        value = secrets.token_urlsafe(32) if generate else read_secret(f"Secret of {name}")
    identifier, name = credentials.add_credential(
        context.engine,
        context.actor,
        consumer_name,
        environment,
        kind=kind,
        name=name,
        secret=value,
        box=context.box,
        enrol=authenticator.enrol,
        most=authenticator.most,
        expires=expires,
        note=note,
    )
    click.echo(f"{identifier}: {kind} {name} of {consumer_name} in {environment}")
    if generate and value:
        click.echo(f"its secret is shown only once:\n{value}")


@credential.command("revoke")
@click.argument("credential_id", metavar="ID")
@pass_context
def credential_revoke(context: Context, credential_id: str) -> None:
    """Revoke a credential for good."""
    credentials.revoke_credential(context.engine, context.actor, credential_id)
    click.echo(f"credential {credential_id} revoked")


@credential.command("list")
@env_option
@click.option(
    "--consumer", "consumer_name", metavar="NAME", help="Only credentials of this consumer."
)
@listing_options
@pass_context
def credential_list(
    context: Context, environment: str | None, consumer_name: str | None, listing: Listing
) -> None:
    """List credentials, without their secrets."""
    rows = credentials.list_credentials(
        context.engine,
        environment=environment,
        consumer=consumer_name,
        search=listing.search,
        after=listing.cursor,
        limit=listing.fetched,
    )
    columns = ("id", "kind", "name", "consumer", "environment", "state", "expires_at", "note")
    show_page(rows, listing, columns, lambda row: row.id, empty="no credentials")


COMMANDS = (credential,)
