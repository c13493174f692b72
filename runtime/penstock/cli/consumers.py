"""Steer who calls: consumers, their keys and other credentials, and what bounds them."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import timedelta

import click

from penstock.access import api_keys, consumers, credentials, limits
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    format_option,
    pass_context,
    read_secret,
    show,
    show_json,
)
from penstock.contracts.rates import Rate
from penstock.errors import UnknownName


@click.group()
def consumer() -> None:
    """Consumers: the callers we know."""


@consumer.command("create")
@click.argument("name")
@click.option("--description", default="", help="Who that is.")
@pass_context
def consumer_create(context: Context, name: str, description: str) -> None:
    """Make a consumer."""
    consumers.create_consumer(context.engine, context.actor, name, description)
    click.echo(f"consumer {name} created")


@consumer.command("list")
@format_option
@pass_context
def consumer_list(context: Context, form: str) -> None:
    """List consumers."""
    show(
        consumers.list_consumers(context.engine),
        form,
        ("name", "description", "enabled", "created_at"),
    )


@consumer.command("show")
@click.argument("name")
@format_option
@pass_context
def consumer_show(context: Context, name: str, form: str) -> None:
    """Show a consumer with its associations and keys."""
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


@consumer.command("disable")
@click.argument("name")
@pass_context
def consumer_disable(context: Context, name: str) -> None:
    """Keep a consumer out everywhere."""
    consumers.set_consumer_enabled(context.engine, context.actor, name, enabled=False)
    click.echo(f"consumer {name} disabled")


@consumer.command("enable")
@click.argument("name")
@pass_context
def consumer_enable(context: Context, name: str) -> None:
    """Let a consumer in again."""
    consumers.set_consumer_enabled(context.engine, context.actor, name, enabled=True)
    click.echo(f"consumer {name} enabled")


@consumer.command("associate")
@click.argument("name")
@click.argument("pipelines", nargs=-1, metavar="PIPELINE")
@env_required
@click.option(
    "--new-pipelines",
    type=click.Choice(["on", "off"]),
    help="Whether it is associated with pipelines that appear later.",
)
@pass_context
def consumer_associate(
    context: Context,
    name: str,
    pipelines: tuple[str, ...],
    environment: str,
    new_pipelines: str | None,
) -> None:
    """Let a consumer call pipelines in an environment, by id or by name.

    An id is v1/orders; a name, orders, means all its major versions.
    """
    fresh = new_pipelines == "on" if new_pipelines else None
    found = consumers.associate(
        context.engine,
        context.actor,
        name,
        pipelines,
        environment,
        context.host.catalog.offered,
        new_pipelines=fresh,
    )
    click.echo(
        f"consumer {name} associated in {environment}:"
        f" {', '.join(found) or 'new pipelines ' + str(new_pipelines)}"
    )


@consumer.command("dissociate")
@click.argument("name")
@click.argument("pipelines", nargs=-1, required=True, metavar="PIPELINE")
@env_required
@pass_context
def consumer_dissociate(
    context: Context, name: str, pipelines: tuple[str, ...], environment: str
) -> None:
    """Keep a consumer out of pipelines in an environment, by id or by name.

    An id is v1/orders; a name, orders, means all its major versions.
    """
    found = consumers.dissociate(context.engine, context.actor, name, pipelines, environment)
    click.echo(f"consumer {name} dissociated in {environment}: {', '.join(found)}")


@click.group()
def key() -> None:
    """Make, list and end API keys."""


def _show_key(made: api_keys.NewKey, form: str, more: str = "") -> None:
    if form == "json":
        show_json(
            {
                name: getattr(made, name)
                for name in ("id", "key", "consumer", "environment", "expires_at")
            }
        )
    else:
        click.echo(
            f"{made.id} for {made.consumer} in {made.environment}; it is shown this"
            f" once:\n{made.key}{more}"
        )


@key.command("create")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option("--expires", type=DURATION, help="How long it works; default for ever.")
@click.option("--note", default="", help="What it is for.")
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
    """Make an API key; it is shown once."""
    _show_key(
        api_keys.create_key(
            context.engine, context.actor, consumer_name, environment, expires=expires, note=note
        ),
        form,
    )


@key.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def key_list(
    context: Context, environment: str | None, consumer_name: str | None, form: str
) -> None:
    """List keys."""
    rows = api_keys.list_keys(context.engine, environment=environment, consumer=consumer_name)
    show(
        rows,
        form,
        (
            "id",
            "consumer",
            "environment",
            "shown_as",
            "state",
            "expires_at",
            "last_used_at",
            "note",
        ),
    )


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@pass_context
def key_revoke(context: Context, key_id: str) -> None:
    """End a key for good."""
    api_keys.revoke_key(context.engine, context.actor, key_id)
    click.echo(f"key {key_id} revoked")


@key.command("disable")
@click.argument("key_id", metavar="ID")
@pass_context
def key_disable(context: Context, key_id: str) -> None:
    """Switch a key off."""
    api_keys.set_key_enabled(context.engine, context.actor, key_id, enabled=False)
    click.echo(f"key {key_id} disabled")


@key.command("enable")
@click.argument("key_id", metavar="ID")
@pass_context
def key_enable(context: Context, key_id: str) -> None:
    """Switch a key on again."""
    api_keys.set_key_enabled(context.engine, context.actor, key_id, enabled=True)
    click.echo(f"key {key_id} enabled")


@key.command("rotate")
@click.argument("key_id", metavar="ID")
@click.option(
    "--grace", type=DURATION, default="7d", show_default=True, help="How long the old one goes on."
)
@format_option
@pass_context
def key_rotate(context: Context, key_id: str, grace: timedelta, form: str) -> None:
    """Make a key's successor; the old one ends by itself."""
    made, ends = api_keys.rotate_key(context.engine, context.actor, key_id, grace)
    _show_key(made, form, f"\n{key_id} ends {ends:%Y-%m-%d %H:%MZ}")


@click.group()
def credential() -> None:
    """Enrol consumers' credentials besides API keys.

    They are passwords, signing secrets and certificates.
    """


@credential.command("add")
@click.argument("kind")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option(
    "--name",
    required=True,
    metavar="NAME",
    help="The user's name, the certificate's, or one to tell secrets apart.",
)
@click.option("--generate", is_flag=True, help="Make the secret; it is shown once.")
@click.option("--expires", type=DURATION, help="How long it is good; default for ever.")
@click.option("--note", default="", help="What it is for.")
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
    """Enrol a credential; its secret is read from standard input, or asked for."""
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
        click.echo(f"its secret is shown this once:\n{value}")


@credential.command("revoke")
@click.argument("credential_id", metavar="ID")
@pass_context
def credential_revoke(context: Context, credential_id: str) -> None:
    """End a credential for good."""
    credentials.revoke_credential(context.engine, context.actor, credential_id)
    click.echo(f"credential {credential_id} revoked")


@credential.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def credential_list(
    context: Context, environment: str | None, consumer_name: str | None, form: str
) -> None:
    """List credentials, without their secrets."""
    rows = credentials.list_credentials(
        context.engine, environment=environment, consumer=consumer_name
    )
    show(
        rows,
        form,
        ("id", "kind", "name", "consumer", "environment", "state", "expires_at", "note"),
        empty="no credentials",
    )


@click.group()
def limit() -> None:
    """How often a consumer may call."""


@limit.command("set")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("rate")
@env_required
@click.option(
    "--pipeline",
    "pipeline_name",
    metavar="PIPELINE",
    default="",
    help=(
        "Only there, in place of all of its own rates by consumer and by key; a name means all its"
        " major versions. Default: all pipelines together, beside their own."
    ),
)
@click.option(
    "--by",
    type=click.Choice(limits.BY),
    default="consumer",
    show_default=True,
    help="What is counted together.",
)
@pass_context
def limit_set(
    context: Context, consumer_name: str, rate: str, environment: str, pipeline_name: str, by: str
) -> None:
    """Set a rate limit for a consumer, such as 100/second or 5000/12 hours.

    A limit with the same window and --by replaces the one before; one with another window is added
    beside it, and all of them hold.
    """
    offered = context.host.catalog.offered if pipeline_name else {}
    found = limits.set_limit(
        context.engine,
        context.actor,
        consumer_name,
        environment,
        Rate.of(rate, by),
        pipeline=pipeline_name,
        offered=offered,
    )
    click.echo(
        f"{consumer_name} may call {', '.join(found) or 'all pipelines together'} {rate} by {by} in"
        f" {environment}"
    )
    for identifier in found:
        own = context.host.catalog.own_rates(identifier)
        if own is None:
            continue
        click.echo(
            f"in place of {identifier}'s own rates: {', '.join(own)}"
            if own
            else f"{identifier} has no rates that it stands in for"
        )


@limit.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option(
    "--pipeline",
    "pipeline_name",
    metavar="PIPELINE",
    default="",
    help="Those of this pipeline; default those over all together.",
)
@pass_context
def limit_remove(
    context: Context, consumer_name: str, environment: str, pipeline_name: str
) -> None:
    """Take a consumer's limits away."""
    number = limits.remove_limits(
        context.engine, context.actor, consumer_name, environment, pipeline=pipeline_name
    )
    click.echo(
        f"{number} limit{'s' if number > 1 else ''} of {consumer_name} removed in {environment}"
    )


@limit.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def limit_list(
    context: Context, environment: str | None, consumer_name: str | None, form: str
) -> None:
    """List limits."""
    rows = limits.list_limits(context.engine, environment=environment, consumer=consumer_name)
    show(rows, form, ("environment", "consumer", "pipeline", "rate", "by"), empty="no limits")


@click.group()
def address() -> None:
    """Where a consumer may call from."""


def _put_networks(
    context: Context,
    consumer_name: str,
    networks: tuple[str, ...],
    environment: str,
    *,
    allowed: bool,
) -> None:
    kept = limits.set_networks(
        context.engine, context.actor, consumer_name, environment, networks, allowed=allowed
    )
    click.echo(
        f"{consumer_name} may {'' if allowed else 'not '}call from {', '.join(kept)} in"
        f" {environment}"
    )


@address.command("allow")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_allow(
    context: Context, consumer_name: str, networks: tuple[str, ...], environment: str
) -> None:
    """Take a consumer's calls from networks that are allowed, and from no others."""
    _put_networks(context, consumer_name, networks, environment, allowed=True)


@address.command("deny")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_deny(
    context: Context, consumer_name: str, networks: tuple[str, ...], environment: str
) -> None:
    """Take no calls of a consumer from these networks, whatever is allowed."""
    _put_networks(context, consumer_name, networks, environment, allowed=False)


@address.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_remove(
    context: Context, consumer_name: str, networks: tuple[str, ...], environment: str
) -> None:
    """Take networks off a consumer's lists."""
    limits.remove_networks(context.engine, context.actor, consumer_name, environment, networks)
    click.echo(f"{', '.join(networks)} removed from the lists of {consumer_name} in {environment}")


@address.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def address_list(
    context: Context, environment: str | None, consumer_name: str | None, form: str
) -> None:
    """List consumers' networks."""
    rows = limits.list_networks(context.engine, environment=environment, consumer=consumer_name)
    show(rows, form, ("environment", "consumer", "network", "allowed"), empty="no networks")


COMMANDS = (consumer, key, credential, limit, address)
