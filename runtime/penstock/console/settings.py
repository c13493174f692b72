"""What an environment gives its pipelines and keeps from records.

Variables, secrets, sensitive fields; and where callbacks may go.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from flask import Response, request

from penstock.access import callbacks, environments, sensitive_fields, variables
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import Form, done, environment, page, render, show_form, user
from penstock.contracts.masks import DEFAULT_SENSITIVE_NAMES
from penstock.errors import UsageError

PER_PAGE = 50
LONGEST_DAYS = 36_500
DAY = 86_400
NUMBER = re.compile(r"\d{1,9}(\.\d{1,6})?", re.ASCII)


def _show(form: Form) -> Response:
    here, name = console_context(), environment()
    after = request.args.get("after", "")
    number = int(after[:18]) if after.isascii() and after.isdigit() else None
    targets = callbacks.list_callbacks(
        here.engine, environment=name, after=number, limit=PER_PAGE + 1
    )
    return show_form(
        "settings.html",
        form,
        env=name,
        environments=here.environments(),
        own=next(row for row in here.environments() if row["name"] == name),
        variables=variables.list_variables(here.engine, name),
        secrets=variables.list_secrets(here.engine, name),
        fields=sensitive_fields.list_fields(here.engine, name),
        always=sorted(DEFAULT_SENSITIVE_NAMES),
        targets=targets[:PER_PAGE],
        last=targets[PER_PAGE - 1]["id"] if len(targets) > PER_PAGE else None,
        later=number is not None,
    )


@page("/settings", needs=Role.VIEWER)
def settings() -> Response:
    """Show variables, secrets without their values, sensitive fields and callback targets."""
    return _show(Form())


def _own(name: str) -> dict[str, Any]:
    """Return what is set of an environment itself, as its form shows it."""
    row = next(row for row in console_context().environments() if row["name"] == name)
    return {
        "token_minutes": f"{row['token_lifetime'] / 60:g}",
        "run_days": f"{row['run_retention'] / DAY:g}",
        "record_bodies": row["record_bodies"],
        "keys_in_query": "on" if row["keys_in_query"] else "off",
    }


@page("/settings/environment", needs=Role.OPERATOR)
def settings_environment() -> Response:
    """Show the form for what is set of the environment itself."""
    env = environment()
    return _show_environment(Form(**_own(env)))


def _show_environment(form: Form) -> Response:
    return show_form("environment.html", form, env=environment())


@page("/settings/environment", needs=Role.OPERATOR, method="POST")
def settings_environment_set() -> Response:
    """Change what differs of it."""
    here, env, form = console_context(), environment(), Form()
    before = _own(env)
    changed: dict[str, Any] = {
        name: form[name].strip() for name, value in before.items() if form[name].strip() != value
    }
    values: dict[str, Any] = {
        name: value for name, value in changed.items() if name == "record_bodies"
    }
    if "keys_in_query" in changed:
        values["keys_in_query"] = changed["keys_in_query"] == "on"
    for name, argument, unit in (
        ("token_minutes", "token_lifetime", 60),
        ("run_days", "run_retention", DAY),
    ):
        if name in changed:
            with form.blaming(name):
                values[argument] = _seconds(changed[name], unit)
    if form.errors:
        return _show_environment(form)
    if not values:
        return done(f"Nothing of {env} was changed.", "settings", env=env)
    for argument, value in values.items():
        field = {"token_lifetime": "token_minutes", "run_retention": "run_days"}.get(
            argument, argument
        )
        with form.blaming(field):
            environments.EnvironmentChange(**{argument: value}).check()
    if form.errors:
        return _show_environment(form)
    environments.change_environment(
        here.engine, user().name, env, environments.EnvironmentChange(**values)
    )
    return done(f"{env} is changed.", "settings", env=env)


def _seconds(text: str, unit: int) -> int:
    """Return so many minutes or days in seconds. Raises UsageError."""
    if not NUMBER.fullmatch(text):
        raise UsageError(f"{text!r} is no number")
    return round(float(text) * unit)


@page("/settings/variables/new", needs=Role.OPERATOR)
def settings_variable_new() -> Response:
    """Show the form for a variable, filled where it is set already."""
    name = request.args.get("name", "")
    known = {
        str(row["name"]): str(row["value"])
        for row in variables.list_variables(console_context().engine, environment())
    }
    return show_form(
        "variable_new.html", Form(name=name, value=known.get(name, "")), env=environment()
    )


@page("/settings/variables/new", needs=Role.OPERATOR, method="POST")
def settings_variable_set() -> Response:
    """Set a variable."""
    here, env, form = console_context(), environment(), Form()
    name, value = form["name"].strip(), _text(form["value"])
    with form.blaming("value"):
        here.host.evaluator.check_variable(here.engine, env, here.box, name, value)
    if form.errors:
        return show_form("variable_new.html", form, env=env)
    with form.blaming("name"):
        variables.set_variable(here.engine, user().name, env, name, value)
        return done(f"{name} is set in {env}.", "settings", env=env)
    return show_form("variable_new.html", form, env=env)


def _text(text: str) -> str:
    """Return a text as it was typed: browsers send a line's end as two characters."""
    return text.replace("\r\n", "\n")


@page("/settings/variables/<name>/unset", needs=Role.OPERATOR, method="POST")
def settings_variable_unset(name: str) -> Response:
    """Take a variable away."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("variables"):
        variables.unset_variable(here.engine, user().name, env, name)
        return done(
            f"{name} is unset in {env}; pipelines that need it are refused.", "settings", env=env
        )
    return _show(form)


@page("/settings/secrets/new", needs=Role.OPERATOR)
def settings_secret_new() -> Response:
    """Show the form for a secret; its value is never shown again."""
    name = request.args.get("name", "")
    known = next(
        (
            row
            for row in variables.list_secrets(console_context().engine, environment())
            if row["name"] == name
        ),
        None,
    )
    allowed = known["pipelines"] if known is not None else None
    return _show_secret(
        Form(name=name, pipelines=" ".join(allowed) if isinstance(allowed, list) else ""),
        again=known is not None,
    )


def _show_secret(form: Form, *, again: bool = False) -> Response:
    return show_form("secret_new.html", form, env=environment(), again=again)


@page("/settings/secrets/new", needs=Role.OPERATOR, method="POST")
def settings_secret_set() -> Response:
    """Keep a secret, sealed."""
    here, env, form = console_context(), environment(), Form()
    name, days, allowed = (
        form["name"].strip(),
        form["days"].strip(),
        form["pipelines"].replace(",", " ").split(),
    )
    expires = None
    with form.blaming("days"):
        if days:
            if not (days.isascii() and days.isdigit() and 1 <= int(days[:9]) <= LONGEST_DAYS):
                raise UsageError(
                    f"{days!r} is no number of days; write one from 1 to {LONGEST_DAYS}, or nothing"
                )
            expires = timedelta(days=int(days))
    if not form["value"]:
        form.errors["value"] = "A secret has a value."
    if form.errors:
        return _show_secret(form)
    with form.blaming("name", pipeline="pipelines"):
        value, offered = _text(form["value"]), here.host.catalog.offered
        variables.set_secret(
            here.engine,
            user().name,
            env,
            name,
            value,
            here.box,
            expires=expires,
            pipelines=allowed,
            offered=offered,
        )
        return done(
            f"{name} is set in {env}. Its value is sealed, and shown nowhere again.",
            "settings",
            env=env,
        )
    return _show_secret(form)


@page("/settings/secrets/<name>/unset", needs=Role.OPERATOR, method="POST")
def settings_secret_unset(name: str) -> Response:
    """Wipe a secret."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("secrets"):
        variables.unset_secret(here.engine, user().name, env, name)
        return done(
            f"{name} is wiped in {env}; pipelines that need it are refused.", "settings", env=env
        )
    return _show(form)


@page("/settings/fields/add", needs=Role.OPERATOR, method="POST")
def settings_fields_add() -> Response:
    """Hide fields of bodies from now on."""
    here, env, form = console_context(), environment(), Form()
    fields = [line.strip() for line in form["fields"].splitlines() if line.strip()]
    if not fields:
        form.errors["fields"] = "Name at least one field."
        return _show(form)
    with form.blaming("fields"):
        sensitive_fields.add_fields(here.engine, user().name, env, fields)
        return done(f"Hidden in {env} from now on: {', '.join(fields)}.", "settings", env=env)
    return _show(form)


@page("/settings/fields/remove", needs=Role.OPERATOR, method="POST")
def settings_fields_remove() -> Response:
    """Hide a field no more."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("sensitive"):
        sensitive_fields.remove_fields(here.engine, user().name, env, [form["field"]])
        return done(f"{form['field']} is not hidden in {env} any more.", "settings", env=env)
    return _show(form)


@page("/settings/callbacks/new", needs=Role.OPERATOR)
def settings_callback_new() -> Response:
    """Show the form for a callback target."""
    return show_form("callback_new.html", Form(private="no"), env=environment())


@page("/settings/callbacks/new", needs=Role.OPERATOR, method="POST")
def settings_callback_allow() -> Response:
    """Let a consumer have callbacks sent below a URL.

    The secret that signs them is shown this once.
    """
    here, env, form = console_context(), environment(), Form()
    consumer, url = form["consumer"].strip(), form["url"].strip()
    with form.blaming("url", consumer="consumer"):
        secret = callbacks.allow_callbacks(
            here.engine, user().name, consumer, env, url, here.box, private=form["private"] == "yes"
        )
        return Response(
            render("callback_secret.html", env=env, consumer=consumer, url=url, secret=secret)
        )
    return show_form("callback_new.html", form, env=env)


@page("/settings/callbacks/remove", needs=Role.OPERATOR, method="POST")
def settings_callback_remove() -> Response:
    """Send a consumer no more callbacks below a URL."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("callbacks"):
        callbacks.remove_callbacks(here.engine, user().name, form["consumer"], env, form["url"])
        return done(
            f"Callbacks of {form['consumer']} do not go below {form['url']} in {env} any more.",
            "settings",
            env=env,
        )
    return _show(form)
