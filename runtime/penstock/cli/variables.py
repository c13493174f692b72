"""Steer what pipelines get from their environment: variables and secrets."""

from __future__ import annotations

from datetime import timedelta

import click

from penstock.access import variables
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    format_option,
    pass_context,
    read_secret,
    show,
)


@click.group()
def variable() -> None:
    """Plain values for pipelines, by environment."""


@variable.command("set")
@click.argument("name")
@click.argument("value")
@env_required
@pass_context
def variable_set(context: Context, name: str, value: str, environment: str) -> None:
    """Set a variable of an environment."""
    context.host.evaluator.check_variable(context.engine, environment, context.box, name, value)
    variables.set_variable(context.engine, context.actor, environment, name, value)
    click.echo(f"variable {name} set in {environment}")


@variable.command("unset")
@click.argument("name")
@env_required
@pass_context
def variable_unset(context: Context, name: str, environment: str) -> None:
    """Take a variable away; pipelines that need it are refused."""
    variables.unset_variable(context.engine, context.actor, environment, name)
    click.echo(f"variable {name} unset in {environment}")


@variable.command("list")
@env_option
@format_option
@pass_context
def variable_list(context: Context, environment: str | None, form: str) -> None:
    """List variables."""
    show(
        variables.list_variables(context.engine, environment),
        form,
        ("environment", "name", "value"),
        empty="no variables",
    )


@click.group()
def secret() -> None:
    """Secrets for pipelines, by environment, sealed at rest."""


@secret.command("set")
@click.argument("name")
@env_required
@click.option(
    "--expires",
    type=DURATION,
    help="How long it is good; warned about two weeks before. Default for ever.",
)
@click.option(
    "--pipeline",
    "allowed",
    metavar="PIPELINE",
    multiple=True,
    help=(
        "Only this pipeline may have it (an id, or a name for all its major versions); give several"
        " times for several."
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
    """Keep a secret; its value is read from standard input, or asked for."""
    value = read_secret(f"Value of {name}")
    offered = context.host.catalog.offered if allowed else {}
    ends = variables.set_secret(
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
        + (f", good until {ends:%Y-%m-%d %H:%MZ}" if ends else "")
    )


@secret.command("unset")
@click.argument("name")
@env_required
@pass_context
def secret_unset(context: Context, name: str, environment: str) -> None:
    """Wipe a secret; pipelines that need it are refused."""
    variables.unset_secret(context.engine, context.actor, environment, name)
    click.echo(f"secret {name} unset in {environment}")


@secret.command("list")
@env_option
@format_option
@pass_context
def secret_list(context: Context, environment: str | None, form: str) -> None:
    """List secrets, without their values."""
    show(
        variables.list_secrets(context.engine, environment),
        form,
        ("environment", "name", "expires_at", "pipelines"),
        empty="no secrets",
    )


COMMANDS = (variable, secret)
