"""Users: who they are, what they may do, and their sessions."""

from __future__ import annotations

from flask import Response

from penstock.access import passwords, sessions
from penstock.access import users as access
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import Form, done, page, render, show_form, user
from penstock.errors import UnknownName, UsageError


@page("/users", needs=Role.ADMIN)
def users() -> str:
    """List users."""
    return render("users.html", users=access.list_users(console_context().engine))


@page("/users/new", needs=Role.ADMIN)
def users_new() -> Response:
    """Show the form for a user."""
    return show_form("user_new.html", Form(role=Role.VIEWER, how="generated"), roles=list(Role))


@page("/users/new", needs=Role.ADMIN, method="POST")
def users_create() -> Response:
    """Make a user; a password that was made here is shown this once."""
    form = Form()
    password = None if form["how"] == "provider" else passwords.generate_password()
    with form.blaming("name"):
        role = _role(form["role"])
        name = access.create_user(
            console_context().engine, user().name, form["name"], role, password
        )
        if password is not None:
            return _once(name, password, "is made")
        return done(f"{name} is made, and signs in through the identity provider.", "users")
    return show_form("user_new.html", form, roles=list(Role))


def _once(name: str, password: str, what: str) -> Response:
    return Response(render("user_password.html", name=name, password=password, what=what))


def _role(text: str) -> Role:
    if text not in set(Role):
        raise UsageError(f"{text!r} is no role; choose one of {', '.join(Role)}")
    return Role(text)


def _found(name: str) -> access.ListedUser:
    rows = access.list_users(console_context().engine)
    for row in rows:
        if row.name == name:
            return row
    raise UnknownName("user", name, (row.name for row in rows))


@page("/users/<name>", needs=Role.ADMIN)
def users_one(name: str) -> str:
    """Show a user."""
    return _one(name, Form())


def _one(name: str, form: Form) -> str:
    found = _found(name)
    return render(
        "user.html",
        form=form,
        one=found,
        roles=list(Role),
        sessions=sessions.list_sessions(console_context().engine, name),
    )


@page("/users/<name>/role", needs=Role.ADMIN, method="POST")
def users_role(name: str) -> Response:
    """Change what a user may do."""
    form = Form()
    with form.blaming("role"):
        role = _role(form["role"])
        access.set_role(console_context().engine, user().name, name, role)
        return done(f"{name} is {role} now.", "users_one", name=name)
    return Response(_one(name, form), 422)


@page("/users/<name>/password", needs=Role.ADMIN, method="POST")
def users_password(name: str) -> Response:
    """Give a user another password, which is shown this once, and end their sessions."""
    password = passwords.generate_password()
    access.set_password(
        console_context().engine,
        user().name,
        name,
        password,
        keep=user().session_id if name == user().name else None,
    )
    return _once(name, password, "has another password, and their sessions have ended")


@page("/users/<name>/disable", needs=Role.ADMIN, method="POST")
def users_disable(name: str) -> Response:
    """Keep a user out."""
    form = Form()
    with form.blaming("state"):
        access.set_user_enabled(console_context().engine, user().name, name, enabled=False)
        return done(f"{name} is kept out, and their sessions have ended.", "users_one", name=name)
    return Response(_one(name, form), 422)


@page("/users/<name>/enable", needs=Role.ADMIN, method="POST")
def users_enable(name: str) -> Response:
    """Let a user in again."""
    access.set_user_enabled(console_context().engine, user().name, name, enabled=True)
    return done(f"{name} may sign in again.", "users_one", name=name)


@page("/users/<name>/sessions/end", needs=Role.ADMIN, method="POST")
def users_sessions_end(name: str) -> Response:
    """End all sessions of a user."""
    number = sessions.end_sessions(console_context().engine, user().name, name)
    return done(
        f"{number} session{'s have' if number != 1 else ' has'} ended.", "users_one", name=name
    )


@page("/users/<name>/sessions/<int:session_id>/end", needs=Role.ADMIN, method="POST")
def users_session_end(name: str, session_id: int) -> Response:
    """End one session of a user."""
    sessions.end_sessions(console_context().engine, user().name, name, session_id=session_id)
    return done("The session has ended.", "users_one", name=name)
