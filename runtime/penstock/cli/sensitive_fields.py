"""Commands that manage the fields that are never stored."""

from __future__ import annotations

import click

from penstock.access import sensitive_fields as fields_of_environment
from penstock.cli.base import (
    Context,
    env_option,
    env_required,
    pass_context,
)
from penstock.cli.listings import Listing, listing_options, show_rows


@click.group("sensitive-fields")
def sensitive_fields() -> None:
    """Add, remove and list fields that are never stored."""


@sensitive_fields.command("add")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD")
@env_required
@pass_context
def sensitive_add(context: Context, fields: tuple[str, ...], environment: str) -> None:
    """Add fields by name or by JSON Pointer.

    A name applies at any depth (card_number), a JSON Pointer at one place (/card/number).
    """
    fields_of_environment.add_fields(context.engine, context.actor, environment, fields)
    click.echo(f"never stored in {environment}: {', '.join(fields)}")


@sensitive_fields.command("remove")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD")
@env_required
@pass_context
def sensitive_remove(context: Context, fields: tuple[str, ...], environment: str) -> None:
    """Remove fields from the list."""
    fields_of_environment.remove_fields(context.engine, context.actor, environment, fields)
    click.echo(f"no longer sensitive in {environment}: {', '.join(fields)}")


@sensitive_fields.command("list")
@env_option
@listing_options
@pass_context
def sensitive_list(context: Context, environment: str | None, listing: Listing) -> None:
    """List sensitive fields. Usual names of passwords, tokens and keys are always included."""
    show_rows(
        fields_of_environment.list_fields(context.engine, environment),
        listing,
        ("environment", "field"),
        lambda row: f"{row.environment}:{row.field}",
        empty="no extra fields",
    )


COMMANDS = (sensitive_fields,)
