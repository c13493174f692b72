"""Users: the list, one user with role and sessions, and new passwords."""

from __future__ import annotations

from flask import Response, url_for
from wtforms import StringField

from penstock.access import passwords, sessions
from penstock.access import users as access
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context
from penstock.console.forms import ChoiceField, ConsoleForm, OptionsField, ReplacingForm, Required
from penstock.console.pages import page, user
from penstock.console.responses import done, render, show_form
from penstock.errors import UnknownName


class NewUserForm(ConsoleForm):
    """Creates a user."""

    name = StringField(  # as typed: the domain decides which spaces belong to a name
        "Name",
        [Required("Enter a name.")],
        description="A short name, or the address that the identity provider returns for this"
        " person.",
    )
    role = OptionsField(
        "Role",
        [
            ("viewer", "Viewer", "reads everything, changes nothing"),
            ("operator", "Operator", "changes access: consumers, keys, policies, pipelines"),
            ("admin", "Admin", "also manages users"),
        ],
        default="viewer",
    )
    environment = ChoiceField(
        "Environment",
        checked_by_domain=True,
        default="",
        description="Where the role applies. Further environments are on the page of the user.",
    )
    how = OptionsField(
        "Signs in with",
        [
            ("generated", "Password", "generated and shown once; the user can change it"),
            ("provider", "Identity provider", "only; needs PENSTOCK_CONSOLE_OIDC_ISSUER"),
        ],
        default="generated",
    )


ROLES = [(role.value, role.value) for role in Role] + [(access.NO_ROLE, access.NO_ROLE)]


class RoleForm(ReplacingForm):
    """Changes the role of a user, in all environments or in one."""

    environment = ChoiceField("Environment", checked_by_domain=True, default="")
    role = ChoiceField("Role", ROLES)

    def offer_environments(self) -> None:
        """Offer all environments together, and each."""
        names = console_context().environment_names()
        self.environment.offer([("", "all environments"), *((name, name) for name in names)])


@page("/users", needs=Role.ADMIN)
def users() -> str:
    """List users."""
    return render("users.html", users=access.list_users(console_context().engine))


@page("/users/new", needs=Role.ADMIN)
def users_new() -> Response:
    """Show the form for a user."""
    return _show_new(NewUserForm())


def _show_new(form: NewUserForm) -> Response:
    names = console_context().environment_names()
    form.environment.offer([("", "all environments"), *((name, name) for name in names)])
    return show_form("user_new.html", form)


@page("/users/new", needs=Role.ADMIN, method="POST")
def users_create() -> Response:
    """Create a user; a generated password is shown once."""
    form = NewUserForm()
    if form.is_valid():
        password = (
            None if form.how.data == "provider" else passwords.generate_password(form.name.data)
        )
        environment = form.environment.data
        with form.faults_at("name", environment="environment"):
            name = access.create_user(
                console_context().engine,
                user().name,
                form.name.data,
                Role(form.role.data),
                password,
                environments=[environment] if environment else [],
            )
            if password is not None:
                return _show_password(name, password, f"{name} created")
            return done(f"{name} created. Signs in with the identity provider.", "users")
    return _show_new(form)


def _show_password(name: str, password: str, title: str) -> Response:
    return Response(render("user_password.html", name=name, password=password, title=title))


def _row(name: str) -> access.ListedUser:
    rows = access.list_users(console_context().engine)
    for row in rows:
        if row.name == name:
            return row
    raise UnknownName("user", name, (row.name for row in rows))


@page("/users/<name>", needs=Role.ADMIN)
def users_one(name: str) -> Response:
    """Show a user."""
    return _show_user(name, _role_form(name))


def _role_form(name: str) -> RoleForm:
    row = _row(name)
    return RoleForm(role=row.role, seen=access.roles_token(row))


def _show_user(name: str, form: RoleForm) -> Response:
    form.offer_environments()
    return show_form(
        "user.html",
        form,
        account=_row(name),
        sessions=sessions.list_sessions(console_context().engine, name),
    )


@page("/users/<name>/role", needs=Role.ADMIN, method="POST")
def users_role(name: str) -> Response:
    """Change the role of a user in all environments or in one."""
    form = RoleForm()
    if form.is_valid():
        environment = form.environment.data or None
        with form.faults_at("role", environment="environment"):
            role = None if form.role.data == access.NO_ROLE else Role(form.role.data)
            access.set_role(
                console_context().engine,
                user().name,
                name,
                role,
                environment=environment,
                seen=form.seen_token,
            )
            where = f" in {environment}" if environment else ""
            return done(
                f"Role of {name} changed to {form.role.data}{where}.", "users_one", name=name
            )
    return _show_user(name, form)


def _confirm_password(name: str) -> Confirmation:
    return Confirmation(
        f"Reset the password of {name}? All sessions of this user end.",
        verb="Reset password",
        other="Keep password",
        back=url_for("console.users_one", name=name),
    )


@page(
    "/users/<name>/password",
    needs=Role.ADMIN,
    method="POST",
    confirm=_confirm_password,
)
def users_password(name: str) -> Response:
    """Set a new password of a user, show it once, and end the user's sessions."""
    password = passwords.generate_password(name)
    access.set_password(
        console_context().engine,
        user().name,
        name,
        password,
        keep=user().session_id if name == user().name else None,
    )
    return _show_password(name, password, f"New password of {name}")


def _confirm_disable(name: str) -> Confirmation:
    return Confirmation(
        f"Disable {name}? All sessions of this user end.",
        verb="Disable user",
        other="Keep active",
        back=url_for("console.users_one", name=name),
    )


@page(
    "/users/<name>/disable",
    needs=Role.ADMIN,
    method="POST",
    confirm=_confirm_disable,
)
def users_disable(name: str) -> Response:
    """Disable a user."""
    form = _role_form(name)
    with form.faults_at("state"):
        access.set_user_enabled(console_context().engine, user().name, name, enabled=False)
        return done(f"{name} disabled. All sessions of {name} ended.", "users_one", name=name)
    return _show_user(name, form)


@page("/users/<name>/enable", needs=Role.ADMIN, method="POST")
def users_enable(name: str) -> Response:
    """Enable a user."""
    access.set_user_enabled(console_context().engine, user().name, name, enabled=True)
    return done(f"{name} enabled.", "users_one", name=name)


def _confirm_sessions_end(name: str) -> Confirmation:
    return Confirmation(
        f"End all sessions of {name}?",
        verb="End all sessions",
        other="Keep sessions",
        back=url_for("console.users_one", name=name),
    )


@page(
    "/users/<name>/sessions/end",
    needs=Role.ADMIN,
    method="POST",
    confirm=_confirm_sessions_end,
)
def users_sessions_end(name: str) -> Response:
    """End all sessions of a user."""
    number = sessions.end_sessions(console_context().engine, user().name, name)
    return done(
        f"{number} session{'s' if number != 1 else ''} of {name} ended.", "users_one", name=name
    )


@page("/users/<name>/sessions/<int:session_id>/end", needs=Role.ADMIN, method="POST")
def users_session_end(name: str, session_id: int) -> Response:
    """End one session of a user."""
    sessions.end_sessions(console_context().engine, user().name, name, session_id=session_id)
    return done(f"Session of {name} ended.", "users_one", name=name)
