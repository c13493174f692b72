"""Commands that manage rate limits and network rules of consumers."""

from __future__ import annotations

import click

from penstock.access import limits
from penstock.cli.base import (
    Context,
    env_option,
    env_required,
    format_option,
    pass_context,
    show,
)
from penstock.contracts.rates import Rate


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


COMMANDS = (limit, address)
