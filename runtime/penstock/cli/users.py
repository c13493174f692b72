"""Commands that manage users of the console."""

from __future__ import annotations

import click

from penstock.access import passwords, users
from penstock.access.users import ListedUser, Role
from penstock.cli.base import Context, pass_context, read_password
from penstock.cli.listings import Listing, listing_options, show_rows

ROLE = click.Choice([role.value for role in Role])
ROLE_OR_NONE = click.Choice([*(role.value for role in Role), users.NO_ROLE])


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
@click.option(
    "--env",
    "environments",
    metavar="E",
    multiple=True,
    help="Environment that the role is limited to; repeatable. Default: all environments.",
)
@click.option("--generate", is_flag=True, help="Generate a password and print it once.")
@click.option(
    "--no-password",
    is_flag=True,
    help="No password: the user signs in with the identity provider only.",
)
@pass_context
def user_create(
    context: Context,
    name: str,
    role: str,
    environments: tuple[str, ...],
    generate: bool,
    no_password: bool,
) -> None:
    """Create a user. The password is read from a prompt or from standard input."""
    if generate and no_password:
        raise click.UsageError("--generate and --no-password exclude each other")
    password = (
        None if no_password else passwords.generate_password(name) if generate else read_password()
    )
    name = users.create_user(
        context.engine, context.actor, name, Role(role), password, environments=environments
    )
    where = f" in {', '.join(environments)}" if environments else ""
    shown = "; the password is shown only once:" if generate else ""
    click.echo(f"user {name} created, {role}{where}{shown}")
    if generate:
        click.echo(password)


@user.command("list")
@listing_options
@pass_context
def user_list(context: Context, listing: Listing) -> None:
    """List users."""
    rows = [
        {
            **{name: getattr(row, name) for name in ListedUser.__slots__},
            "roles": [f"{name}: {role}" for name, role in row.roles.items()]
            if listing.form == "table"
            else row.roles,
        }
        for row in users.list_users(context.engine)
    ]
    columns = ("name", "role", "state", "password", "created_at", "signed_in_at", "roles")
    show_rows(rows, listing, columns, lambda row: row["name"])


@user.command("role")
@click.argument("name")
@click.argument("role", type=ROLE_OR_NONE)
@click.option("--env", "environment", metavar="E", help="Only in this environment.")
@pass_context
def user_role(context: Context, name: str, role: str, environment: str | None) -> None:
    """Set the role of a user in all environments or in one, from the next request on.

    "none" withdraws the role. A role in all environments includes each of them.
    """
    given = None if role == users.NO_ROLE else Role(role)
    before = users.set_role(context.engine, context.actor, name, given, environment=environment)
    where = f" in {environment}" if environment else ""
    click.echo(f"user {name}: role {role}{where}, before: {before}")


@user.command("password")
@click.argument("name")
@click.option("--generate", is_flag=True, help="Generate a password and print it once.")
@pass_context
def user_password(context: Context, name: str, generate: bool) -> None:
    """Set the password of a user, and end all sessions of the user."""
    password = passwords.generate_password(name) if generate else read_password()
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
