"""Sign in, sign out, and the account of the user: password and sessions."""

from __future__ import annotations

from datetime import timedelta

import structlog
from flask import Response, request, session, url_for
from wtforms import PasswordField, StringField

from penstock.access import sessions, users
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context
from penstock.console.forms import ConsoleForm, Required
from penstock.console.pages import ROOT, Scope, own, page, user
from penstock.console.responses import done, redirect_to, show_form
from penstock.errors import UsageError

WRONG_PASSWORD = "The user or the password is wrong, or the user may not sign in."  # noqa: S105  a message
MAX_NAME_LENGTH = 80


class SignInForm(ConsoleForm):
    """Signs in with a password."""

    name = StringField(  # as typed: `folded` alone decides which spaces belong to a name
        "User", [Required("Enter your user name.")], render_kw={"autocomplete": "username"}
    )
    password = PasswordField(
        "Password",
        [Required("Enter your password.")],
        render_kw={"autocomplete": "current-password"},
    )


class PasswordForm(ConsoleForm):
    """Changes the user's own password."""

    current = PasswordField(
        "Current password",
        [Required("Enter your current password.")],
        render_kw={"autocomplete": "current-password"},
    )
    new = PasswordField(
        "New password",
        [Required("Enter a new password.")],
        name="new_password",
        description="At least 12 characters, without your name. Your other sessions end.",
        render_kw={"autocomplete": "new-password"},
    )
    again = PasswordField(
        "Repeat new password",
        [Required("Repeat the new password.")],
        render_kw={"autocomplete": "new-password"},
    )


def begin_session(name: str, how: str) -> Response:
    """Begin a session of a user and redirect to the page that was asked for before.

    The session gets a new token, so that a planted cookie is of no use.
    """
    context = console_context()
    agent = request.headers.get("User-Agent", "")
    lifetime = timedelta(hours=context.settings.console_session)
    path = session.get("next")
    token = sessions.begin_session(
        context.engine,
        name,
        lifetime=lifetime,
        address=context.client.address(),
        agent=agent,
        how=how,
    )
    session.clear()
    session["token"] = token
    session["user"] = name  # whose form is kept when the session has ended
    safe = isinstance(path, str) and is_own_page(path)
    target = f"{request.script_root}{path}" if safe else url_for("console.overview")
    return Response(status=303, headers={"Location": target})


def is_own_page(path: str) -> bool:
    """Return whether a path leads to a page of this application and nowhere else."""
    own_page = path.startswith((f"{ROOT}/", "/-/help", "/-/docs", "/-/openapi.json"))
    return own_page and not any(sign in path for sign in "\\\r\n\t")


def show_sign_in(form: SignInForm) -> Response:
    """Return the sign-in page."""
    settings = console_context().settings
    return show_form("sign_in.html", form, oidc=settings.oidc, process=settings.environment)


@page("/sign-in", needs=None)
def sign_in() -> Response:
    """Show the form."""
    if (path := request.args.get("next")) and is_own_page(path):
        session["next"] = path
    return show_sign_in(SignInForm())


@page("/sign-in", needs=None, method="POST")
def sign_in_with_password() -> Response:
    """Sign in with user and password.

    Every guess is counted before the password is checked, and rejected above the limit.
    """
    context, form = console_context(), SignInForm()
    name = users.folded(form.name.data or "")[:MAX_NAME_LENGTH]
    address = context.client.address()
    with context.guessing(name, address) as guess:
        account = users.check_password(context.engine, name, form.password.data or "")
        guess.right = account is not None
    if account is None:
        structlog.get_logger("penstock").warning("sign-in failed", user=name, address=address)
        context.failed_sign_ins.note(context.engine, name, address, "password")
        form.add_fault("sign-in", WRONG_PASSWORD)
        return show_sign_in(form)
    return begin_session(account, "password")


@own("/sign-out")
def sign_out() -> Response:
    """End this session."""
    sessions.sign_out(console_context().engine, user())
    session.clear()
    return redirect_to(url_for("console.sign_in"))


@page("/account", needs=users.Role.VIEWER, scope=Scope.ANY)
def account() -> Response:
    """Show the user's own account and sessions."""
    return _show_account(PasswordForm())


def _show_account(form: PasswordForm) -> Response:
    context, name = console_context(), user().name
    row = next(row for row in users.list_users(context.engine) if row.name == name)
    rows = sessions.list_sessions(context.engine, name)
    return show_form("account.html", form, account=row, sessions=rows)


@own("/account/password")
def account_password() -> Response:
    """Change the user's own password, which ends the other sessions."""
    context, form, signed_in = console_context(), PasswordForm(), user()
    current, new = form.current.data or "", form.new.data or ""
    with context.guessing(signed_in.name, context.client.address()) as guess:
        account = users.check_password(context.engine, signed_in.name, current)
        guess.right = account is not None
    if not guess.right:
        form.add_fault("current", "This is not your password.")
    elif new != form.again.data:
        form.add_fault("again", "The two new passwords differ.")
    elif form.is_valid():
        with form.faults_at("new_password"):
            users.set_password(
                context.engine, signed_in.name, signed_in.name, new, keep=signed_in.session_id
            )
            return done("Password changed. Your other sessions ended.", "account")
    return _show_account(form)


@own("/account/sessions/<int:session_id>/end")
def account_session_end(session_id: int) -> Response:
    """End one of the user's own sessions."""
    signed_in = user()
    if session_id == signed_in.session_id:
        raise UsageError("this is your current session; sign out to end it")
    sessions.end_sessions(
        console_context().engine, signed_in.name, signed_in.name, session_id=session_id
    )
    return done("Session ended.", "account")


def _confirm_sessions_end() -> Confirmation:
    return Confirmation(
        "End all your sessions except this one?",
        verb="End other sessions",
        other="Keep sessions",
        back=url_for("console.account"),
    )


@own("/account/sessions/end", confirm=_confirm_sessions_end)
def account_sessions_end() -> Response:
    """End all of the user's own sessions but the current one."""
    signed_in = user()
    number = sessions.end_sessions(
        console_context().engine, signed_in.name, signed_in.name, keep=signed_in.session_id
    )
    return done(f"{number} other session{'s' if number != 1 else ''} ended.", "account")
