"""Commands that manage rate limits and network rules of consumers."""

from __future__ import annotations

import time
from datetime import timedelta

import click

from penstock.access import limits
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    pass_context,
)
from penstock.cli.listings import Listing, listing_options, show_page, show_rows
from penstock.contracts.rates import Rate
from penstock.execution.rate_limits import pipeline_rates
from penstock.gate.rates import Limiter


@click.group()
def limit() -> None:
    """Set, remove and list rate limits of consumers."""


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
        "Limit for this pipeline only; it replaces the pipeline's own consumer and key rates. A"
        " name means all its major versions. Default: all pipelines together, in addition to their"
        " own rates."
    ),
)
@click.option(
    "--by",
    type=click.Choice(limits.BY),
    default="consumer",
    show_default=True,
    help="Calls that are counted together.",
)
@pass_context
def limit_set(
    context: Context, consumer_name: str, rate: str, environment: str, pipeline_name: str, by: str
) -> None:
    """Set a rate limit for a consumer: 100/second or 5000/12 hours.

    A limit with the same window and --by replaces the existing one. A limit with another window is
    added; all of them apply.
    """
    offered = context.host.catalog.offered if pipeline_name else {}
    limit = limits.set_limit(
        context.engine,
        context.actor,
        consumer_name,
        environment,
        Rate.of(rate, by),
        pipeline=pipeline_name,
        offered=offered,
    )
    click.echo(
        f"limit of {consumer_name} in {environment}: {rate} by {by} for"
        f" {', '.join(limit.pipelines) or 'all pipelines together'}"
    )
    if limit.replaced:
        click.echo(f"replaces the limit of before: {', '.join(limit.replaced)}")
    for identifier in limit.pipelines:
        own = context.host.catalog.own_rates(identifier)
        if own is None:
            continue
        click.echo(
            f"replaces these rates of {identifier}: {', '.join(own)}"
            if own
            else f"{identifier} has no rates that it replaces"
        )


@limit.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option(
    "--pipeline",
    "pipeline_name",
    metavar="PIPELINE",
    default="",
    help="Limits of this pipeline. Default: limits of all pipelines together.",
)
@pass_context
def limit_remove(
    context: Context, consumer_name: str, environment: str, pipeline_name: str
) -> None:
    """Remove rate limits of a consumer."""
    removed = limits.remove_limits(
        context.engine, context.actor, consumer_name, environment, pipeline=pipeline_name
    )
    number, left = removed.number, removed.left
    click.echo(
        f"{number} limit{'s' if number > 1 else ''} of {consumer_name} removed in {environment}"
    )
    if left:
        click.echo(f"still limited: {', '.join(left)}; --pipeline names the pipeline of a limit")


@limit.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer.")
@listing_options
@pass_context
def limit_list(
    context: Context, environment: str | None, consumer_name: str | None, listing: Listing
) -> None:
    """List rate limits of consumers."""
    rows = limits.list_limits(
        context.engine,
        environment=environment,
        consumer=consumer_name,
        search=listing.search,
        after=listing.number,
        limit=listing.fetched,
    )
    columns, empty = ("environment", "consumer", "pipeline", "rate", "by"), "no limits"
    show_page(rows, listing, columns, lambda row: row.id, empty=empty)


@limit.command("rates")
@env_option
@click.option(
    "--since", type=DURATION, default="24h", show_default=True, help="Time of the rejected calls."
)
@listing_options
@pass_context
def limit_rates(
    context: Context, environment: str | None, since: timedelta, listing: Listing
) -> None:
    """List the rates that pipelines bring, the calls counted now, and the calls rejected.

    Calls counted now are known where all processes count in one store.
    """
    settings, now = context.settings, time.time()
    rows = pipeline_rates(
        context.engine,
        context.host.catalog,
        Limiter(settings.rate_limit_url),
        context.environment(environment),
        now - since.total_seconds(),
        now,
    )
    columns = ("pipeline", "rate", "by", "used", "rejected")
    show_rows(rows, listing, columns, lambda row: f"{row.pipeline}:{row.rate}:{row.by}")


@click.group()
def address() -> None:
    """Allow, deny, remove and list networks of consumers."""


def _set_networks(
    context: Context,
    consumer_name: str,
    networks: tuple[str, ...],
    environment: str,
    *,
    allowed: bool,
) -> None:
    rules = limits.set_networks(
        context.engine, context.actor, consumer_name, environment, networks, allowed=allowed
    )
    click.echo(
        f"{consumer_name} may {'' if allowed else 'not '}call from {', '.join(rules.networks)} in"
        f" {environment}"
    )
    if rules.replaced:
        verb = "denied" if allowed else "allowed"
        click.echo(f"{verb} before: {', '.join(rules.replaced)}")


@address.command("allow")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_allow(
    context: Context, consumer_name: str, networks: tuple[str, ...], environment: str
) -> None:
    """Allow calls of a consumer from these networks only."""
    _set_networks(context, consumer_name, networks, environment, allowed=True)


@address.command("deny")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_deny(
    context: Context, consumer_name: str, networks: tuple[str, ...], environment: str
) -> None:
    """Reject calls of a consumer from these networks.

    A denied network is rejected even if it is allowed too.
    """
    _set_networks(context, consumer_name, networks, environment, allowed=False)


@address.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_remove(
    context: Context, consumer_name: str, networks: tuple[str, ...], environment: str
) -> None:
    """Remove networks from the lists of a consumer."""
    limits.remove_networks(context.engine, context.actor, consumer_name, environment, networks)
    click.echo(f"{', '.join(networks)} removed from the lists of {consumer_name} in {environment}")


@address.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer.")
@listing_options
@pass_context
def address_list(
    context: Context, environment: str | None, consumer_name: str | None, listing: Listing
) -> None:
    """List allowed and denied networks of consumers."""
    rows = limits.list_networks(
        context.engine,
        environment=environment,
        consumer=consumer_name,
        search=listing.search,
        after=listing.number,
        limit=listing.fetched,
    )
    columns, empty = ("environment", "consumer", "network", "allowed"), "no networks"
    show_page(rows, listing, columns, lambda row: row.id, empty=empty)


COMMANDS = (limit, address)
