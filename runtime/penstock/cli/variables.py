"""Commands that manage variables and secrets of environments."""

from __future__ import annotations

from datetime import timedelta

import click

from penstock.access import variables
from penstock.access.variables import ListedSecret, ListedVariable
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    pass_context,
    read_secret,
)
from penstock.cli.listings import Listing, listing_options, show_rows


def _cursor(row: ListedVariable | ListedSecret) -> str:
    return f"{row.environment}/{row.name}"


@click.group()
def variable() -> None:
    """Set, unset and list variables of an environment."""


@variable.command("set")
@click.argument("name")
@click.argument("value")
@env_required
@pass_context
def variable_set(context: Context, name: str, value: str, environment: str) -> None:
    """Set a variable of an environment."""
    context.host.evaluator.check_variable(context.engine, environment, context.box, name, value)
    before = variables.set_variable(context.engine, context.actor, environment, name, value)
    replaced = "" if before in {None, value} else "; another value was replaced, see the audit log"
    click.echo(f"variable {name} set in {environment}{replaced}")


@variable.command("unset")
@click.argument("name")
@env_required
@pass_context
def variable_unset(context: Context, name: str, environment: str) -> None:
    """Delete a variable. Pipelines that need it are blocked."""
    variables.unset_variable(context.engine, context.actor, environment, name)
    click.echo(f"variable {name} unset in {environment}")


@variable.command("list")
@env_option
@listing_options
@pass_context
def variable_list(context: Context, environment: str | None, listing: Listing) -> None:
    """List variables."""
    rows = variables.list_variables(context.engine, environment)
    columns = ("environment", "name", "value")
    show_rows(rows, listing, columns, _cursor, empty="no variables")


@click.group()
def secret() -> None:
    """Set, unset and list secrets (encrypted at rest)."""


@secret.command("set")
@click.argument("name")
@env_required
@click.option(
    "--expires",
    type=DURATION,
    help="Time until it expires; a warning is logged two weeks before. Default: never.",
)
@click.option(
    "--pipeline",
    "allowed",
    metavar="PIPELINE",
    multiple=True,
    help=(
        "Only this pipeline may read it: an id, or a name for all its major versions. May be"
        " repeated."
    ),
)
@pass_context
def secret_set(
    context: Context,
    name: str,
    environment: str,
    expires: timedelta | None,
    allowed: tuple[str, ...],
) -> None:
    """Set a secret. Its value is read from a prompt or from standard input."""
    value = read_secret(f"Value of {name}")
    offered = context.host.catalog.offered if allowed else {}
    stored = variables.set_secret(
        context.engine,
        context.actor,
        environment,
        name,
        value,
        context.box,
        expires=expires,
        pipelines=allowed,
        offered=offered,
    )
    click.echo(
        f"secret {name} set in {environment}"
        + (f", expires {stored.expires_at:%Y-%m-%d %H:%MZ}" if stored.expires_at else "")
        + ("; the value before was replaced" if stored.replaced else "")
    )


@secret.command("unset")
@click.argument("name")
@env_required
@pass_context
def secret_unset(context: Context, name: str, environment: str) -> None:
    """Delete a secret. Pipelines that need it are blocked."""
    variables.unset_secret(context.engine, context.actor, environment, name)
    click.echo(f"secret {name} unset in {environment}")


@secret.command("list")
@env_option
@listing_options
@pass_context
def secret_list(context: Context, environment: str | None, listing: Listing) -> None:
    """List secrets, without their values."""
    rows = variables.list_secrets(context.engine, environment)
    columns = ("environment", "name", "expires_at", "pipelines")
    show_rows(rows, listing, columns, _cursor, empty="no secrets")


COMMANDS = (variable, secret)
