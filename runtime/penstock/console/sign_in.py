"""Sign in, sign out, and one's own sessions."""

from __future__ import annotations

from datetime import timedelta

import structlog
from flask import Response, make_response, redirect, request, session, url_for

from penstock.access import sessions, users
from penstock.console.context import console_context
from penstock.console.pages import ROOT, Form, done, own, page, render, show_form, user
from penstock.errors import UsageError

WRONG = "The user or the password is wrong, or the user may not sign in."


def begin(name: str, how: str) -> Response:
    """Sign a user in.

    A session of a new name, whatever the browser had before, and on to the page that was wanted.
    """
    here = console_context()
    agent = request.headers.get("User-Agent", "")
    lifetime = timedelta(hours=here.settings.console_session)
    wanted = session.get("next")
    token = sessions.begin_session(
        here.engine, name, lifetime=lifetime, address=here.peer.address(), agent=agent, how=how
    )
    session.clear()
    session["token"] = token
    target = (
        request.script_root + wanted
        if isinstance(wanted, str) and is_ours(wanted)
        else url_for("console.overview")
    )
    return Response(status=303, headers={"Location": target})


def is_ours(path: str) -> bool:
    """Say whether a path leads to a page of ours, and nowhere else."""
    return path.startswith((f"{ROOT}/", "/-/help", "/-/docs", "/-/openapi.json")) and not any(
        sign in path for sign in "\\\r\n\t"
    )


@page("/sign-in", needs=None)
def sign_in() -> Response:
    """Show the form."""
    if (wanted := request.args.get("next")) and is_ours(wanted):
        session["next"] = wanted
    return show_form("sign_in.html", Form(), oidc=console_context().settings.oidc)


@page("/sign-in", needs=None, method="POST")
def sign_in_with_password() -> Response:
    """Sign in with user and password.

    Each guess is counted before the password is looked at, and refused where there were too many.
    """
    here, form = console_context(), Form()
    name, address = users.folded(form["name"])[:80], here.peer.address()
    with here.guessing(name, address) as look:
        found = users.check_password(here.engine, name, form["password"])
        look.right = found is not None
    if found is None:
        structlog.get_logger("penstock").warning("sign-in failed", user=name, address=address)
        form.errors["password"] = WRONG
        return show_form("sign_in.html", form, oidc=here.settings.oidc)
    return begin(found, "password")


@own("/sign-out")
def sign_out() -> Response:
    """End this session."""
    sessions.sign_out(console_context().engine, user())
    session.clear()
    return make_response(redirect(url_for("console.sign_in"), 303))


@page("/account", needs=users.Role.VIEWER)
def account() -> str:
    """Show who I am, and my sessions."""
    return _account(Form())


def _account(form: Form) -> str:
    here = console_context()
    mine = next(row for row in users.list_users(here.engine) if row["name"] == user().name)
    return render(
        "account.html",
        form=form,
        me=mine,
        sessions=sessions.list_sessions(here.engine, user().name),
    )


@own("/account/password")
def account_password() -> Response:
    """Change my password, which ends my other sessions."""
    here, form, me = console_context(), Form(), user()
    with here.guessing(me.name, here.peer.address()) as look:
        look.right = users.check_password(here.engine, me.name, form["current"]) is not None
    if not look.right:
        form.errors["current"] = "This is not your password."
    elif form["new"] != form["again"]:
        form.errors["again"] = "The two are not the same."
    else:
        with form.blaming("new"):
            users.set_password(here.engine, me.name, me.name, form["new"], keep=me.session_id)
    if form.errors:
        return Response(_account(form), 422)
    return done("Your password is changed, and your other sessions have ended.", "account")


@own("/account/sessions/<int:session_id>/end")
def account_session_end(session_id: int) -> Response:
    """End one of my sessions."""
    me = user()
    if session_id == me.session_id:
        raise UsageError("this is the session that you are in; sign out ends it")
    sessions.end_sessions(console_context().engine, me.name, me.name, session_id=session_id)
    return done("The session has ended.", "account")


@own("/account/sessions/end")
def account_sessions_end() -> Response:
    """End all my sessions but this one."""
    me = user()
    number = sessions.end_sessions(console_context().engine, me.name, me.name, keep=me.session_id)
    return done(f"{number} other session{'s have' if number != 1 else ' has'} ended.", "account")
