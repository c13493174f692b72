"""Commands that manage consumers and their API keys."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta

import click

from penstock.access import api_keys, consumers
from penstock.cli.base import (
    DURATION,
    Context,
    env_required,
    format_option,
    pass_context,
    show,
    show_json,
)
from penstock.cli.key_changes import BULK, key_filters
from penstock.cli.listings import Listing, listing_options, show_page


@click.group()
def consumer() -> None:
    """Manage consumers, and grant them access."""


@consumer.command("create")
@click.argument("name")
@click.option("--description", default="", help="Description.")
@pass_context
def consumer_create(context: Context, name: str, description: str) -> None:
    """Create a consumer."""
    consumers.create_consumer(context.engine, context.actor, name, description)
    click.echo(f"consumer {name} created")


@consumer.command("list")
@listing_options
@pass_context
def consumer_list(context: Context, listing: Listing) -> None:
    """List consumers by name."""
    rows = consumers.list_consumers(
        context.engine, search=listing.search, after=listing.cursor, limit=listing.fetched
    )
    columns = ("name", "description", "enabled", "created_at")
    show_page(rows, listing, columns, lambda row: row.name)


@consumer.command("show")
@click.argument("name")
@format_option
@pass_context
def consumer_show(context: Context, name: str, form: str) -> None:
    """Show a consumer with its access and its keys."""
    details = consumers.show_consumer(context.engine, name)
    if form == "json":
        show_json(asdict(details))
        return
    click.echo(
        f"{details.name}: {details.description or 'no description'}"
        f" ({'enabled' if details.enabled else 'disabled'})"
    )
    for environment, names in details.associations.items():
        click.echo(f"  {environment}: {', '.join(names)}")
    show(
        details.keys,
        form,
        ("id", "environment", "shown_as", "state", "expires_at", "last_used_at", "note"),
        empty="no keys",
    )


@consumer.command("describe")
@click.argument("name")
@click.argument("description")
@pass_context
def consumer_describe(context: Context, name: str, description: str) -> None:
    """Replace the description of a consumer."""
    consumers.describe_consumer(context.engine, context.actor, name, description)
    click.echo(f"description of consumer {name} changed")


@consumer.command("disable")
@click.argument("name")
@pass_context
def consumer_disable(context: Context, name: str) -> None:
    """Disable a consumer in every environment. Its calls are rejected."""
    consumers.set_consumer_enabled(context.engine, context.actor, name, enabled=False)
    click.echo(f"consumer {name} disabled")


@consumer.command("enable")
@click.argument("name")
@pass_context
def consumer_enable(context: Context, name: str) -> None:
    """Enable a disabled consumer."""
    consumers.set_consumer_enabled(context.engine, context.actor, name, enabled=True)
    click.echo(f"consumer {name} enabled")


@consumer.command("associate")
@click.argument("name")
@click.argument("pipelines", nargs=-1, metavar="PIPELINE")
@env_required
@click.option(
    "--new-pipelines",
    type=click.Choice(["on", "off"]),
    help="Whether it gets access to new pipelines automatically.",
)
@pass_context
def consumer_associate(
    context: Context,
    name: str,
    pipelines: tuple[str, ...],
    environment: str,
    new_pipelines: str | None,
) -> None:
    """Grant a consumer access to pipelines in an environment.

    Name a pipeline by its id (v1/orders), or by its name (orders) for all its major versions.
    """
    identifiers = consumers.associate(
        context.engine,
        context.actor,
        name,
        pipelines,
        environment,
        context.host.catalog.offered,
        new_pipelines=new_pipelines == "on" if new_pipelines else None,
    )
    click.echo(
        f"consumer {name} associated in {environment}:"
        f" {', '.join(identifiers) or 'new pipelines ' + str(new_pipelines)}"
    )


@consumer.command("dissociate")
@click.argument("name")
@click.argument("pipelines", nargs=-1, required=True, metavar="PIPELINE")
@env_required
@pass_context
def consumer_dissociate(
    context: Context, name: str, pipelines: tuple[str, ...], environment: str
) -> None:
    """Remove access to pipelines in an environment.

    Name a pipeline by its id (v1/orders), or by its name (orders) for all its major versions.
    """
    identifiers = consumers.dissociate(context.engine, context.actor, name, pipelines, environment)
    click.echo(f"consumer {name} dissociated in {environment}: {', '.join(identifiers)}")


KEY_COLUMNS = (
    "id",
    "consumer",
    "environment",
    "shown_as",
    "state",
    "created_at",
    "expires_at",
    "last_used_at",
    "note",
)


@click.group()
def key() -> None:
    """Create, list, rotate, disable and revoke API keys."""


def _show_key(key: api_keys.NewKey, form: str, more: str = "") -> None:
    if form == "json":
        show_json(
            {
                name: getattr(key, name)
                for name in ("id", "key", "consumer", "environment", "expires_at")
            }
        )
    else:
        click.echo(
            f"key {key.id} of {key.consumer} in {key.environment}; it is shown only"
            f" once:\n{key.key}{more}"
        )


@key.command("create")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option("--expires", type=DURATION, help="Time until it expires. Default: never.")
@click.option("--note", default="", help="Note, such as its purpose.")
@format_option
@pass_context
def key_create(
    context: Context,
    consumer_name: str,
    environment: str,
    expires: timedelta | None,
    note: str,
    form: str,
) -> None:
    """Create an API key. It is shown only once."""
    _show_key(
        api_keys.create_key(
            context.engine, context.actor, consumer_name, environment, expires=expires, note=note
        ),
        form,
    )


@click.command()
@key_filters
@listing_options
@pass_context
def keys(context: Context, query: api_keys.KeyQuery, listing: Listing) -> None:
    """List API keys of all consumers, oldest first.

    Several filters leave the keys that match all of them. --unused and the filters after it leave
    out keys that are revoked or have expired.
    """
    query = replace(query, search=listing.search)
    rows = api_keys.list_keys(context.engine, query, after=listing.cursor, limit=listing.fetched)
    show_page(rows, listing, KEY_COLUMNS, lambda row: row.id)


key.add_command(keys, "list")
for command in BULK:
    key.add_command(command)


@key.command("enable")
@click.argument("key_id", metavar="ID")
@pass_context
def key_enable(context: Context, key_id: str) -> None:
    """Enable a disabled key."""
    api_keys.set_key_enabled(context.engine, context.actor, key_id, enabled=True)
    click.echo(f"key {key_id} enabled")


@key.command("rotate")
@click.argument("key_id", metavar="ID")
@click.option(
    "--grace",
    type=DURATION,
    default="7d",
    show_default=True,
    help="Time for which the old key keeps working.",
)
@format_option
@pass_context
def key_rotate(context: Context, key_id: str, grace: timedelta, form: str) -> None:
    """Create the successor of a key. The old key expires after the grace period."""
    new, expires = api_keys.rotate_key(context.engine, context.actor, key_id, grace)
    _show_key(new, form, f"\nkey {key_id} expires {expires:%Y-%m-%d %H:%MZ}")


COMMANDS = (consumer, key, keys)
