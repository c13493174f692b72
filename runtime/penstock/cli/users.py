"""Commands that manage users of the console."""

from __future__ import annotations

import click

from penstock.access import passwords, users
from penstock.access.users import Role
from penstock.cli.base import Context, pass_context, read_secret
from penstock.cli.listings import Listing, listing_options, show_rows

ROLE = click.Choice([role.value for role in Role])


@click.group()
def user() -> None:
    """Create, list, edit and disable users of the console."""


@user.command("create")
@click.argument("name")
@click.option(
    "--role",
    type=ROLE,
    required=True,
    help="viewer reads, operator changes access, admin also manages users.",
)
@click.option("--generate", is_flag=True, help="Generate a password and print it once.")
@click.option(
    "--no-password",
    is_flag=True,
    help="No password: the user signs in with the identity provider only.",
)
@pass_context
def user_create(context: Context, name: str, role: str, generate: bool, no_password: bool) -> None:
    """Create a user. The password is read from a prompt or from standard input."""
    if generate and no_password:
        raise click.UsageError("--generate and --no-password exclude each other")
    password = (
        None
        if no_password
        else passwords.generate_password()
        if generate
        else read_secret("Password")
    )
    name = users.create_user(context.engine, context.actor, name, Role(role), password)
    click.echo(
        f"user {name} created, {role}" + ("; the password is shown only once:" if generate else "")
    )
    if generate:
        click.echo(password)


@user.command("list")
@listing_options
@pass_context
def user_list(context: Context, listing: Listing) -> None:
    """List users."""
    columns = ("name", "role", "state", "password", "created_at", "signed_in_at")
    show_rows(users.list_users(context.engine), listing, columns, lambda row: row.name)


@user.command("role")
@click.argument("name")
@click.argument("role", type=ROLE)
@pass_context
def user_role(context: Context, name: str, role: str) -> None:
    """Change the role of a user, from the next request on."""
    users.set_role(context.engine, context.actor, name, Role(role))
    click.echo(f"user {name}: role {role}")


@user.command("password")
@click.argument("name")
@click.option("--generate", is_flag=True, help="Generate a password and print it once.")
@pass_context
def user_password(context: Context, name: str, generate: bool) -> None:
    """Set the password of a user, and end all sessions of the user."""
    password = passwords.generate_password() if generate else read_secret("Password")
    users.set_password(context.engine, context.actor, name, password)
    click.echo(
        f"password of user {name} changed" + ("; it is shown only once:" if generate else "")
    )
    if generate:
        click.echo(password)


@user.command("disable")
@click.argument("name")
@pass_context
def user_disable(context: Context, name: str) -> None:
    """Disable a user, and end all sessions of the user."""
    users.set_user_enabled(context.engine, context.actor, name, enabled=False)
    click.echo(f"user {name} disabled")


@user.command("enable")
@click.argument("name")
@pass_context
def user_enable(context: Context, name: str) -> None:
    """Enable a disabled user."""
    users.set_user_enabled(context.engine, context.actor, name, enabled=True)
    click.echo(f"user {name} enabled")


COMMANDS = (user,)
