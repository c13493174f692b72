"""Settings of an environment: the page, and its variables and secrets."""

from __future__ import annotations

import time
from datetime import timedelta

from flask import Response, request, url_for

from penstock.access import callbacks, sensitive_fields, variables
from penstock.access.pipelines import in_order
from penstock.access.seen import state_token
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import (
    ConsoleForm,
    CountField,
    HiddenTextField,
    LineField,
    LinesField,
    ReplacingForm,
    TextField,
    WordsField,
)
from penstock.console.limits import row_after
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, show_form
from penstock.contracts.masks import DEFAULT_SENSITIVE_NAMES
from penstock.contracts.variables import SecretNeed
from penstock.gate.needs import EXPIRY_WARNING_S

PER_PAGE = 50
MAX_SECRET_DAYS = 36_500
NAME_HINT = (
    "Lower-case letters, digits and underscores. An existing value of this name is replaced."
)


class SensitiveFieldsForm(ConsoleForm):
    """Adds fields of bodies that are never stored."""

    fields = LinesField(
        "Fields",
        "Enter at least one field.",
        description="One per line: a name such as card_number, or a JSON Pointer such as"
        " /card/number.",
    )


class VariableForm(ReplacingForm):
    """Sets a variable."""

    name = LineField("Name", "Enter a name.", description=NAME_HINT)
    value = TextField("Value")


class SecretForm(ReplacingForm):
    """Sets a secret."""

    name = LineField("Name", "Enter a name.", description=NAME_HINT)
    value = HiddenTextField(
        "Value",
        "Enter the value of the secret.",
        name="secret",
        description="Encrypted at rest; can't be viewed again.",
    )
    days = CountField(
        "Expires after days",
        low=1,
        high=MAX_SECRET_DAYS,
        unit="number of days",
        description="Empty: never. Pipelines that need the secret warn two weeks before it"
        " expires.",
    )
    pipelines = WordsField(
        "Only for these pipelines",
        description="IDs such as v1/orders, separated by spaces; a name means all its major"
        " versions. Empty: all pipelines.",
    )


def show_settings(form: SensitiveFieldsForm) -> Response:
    """Return the settings page of the current environment."""
    context, environment = console_context(), current_environment()
    after = row_after("after")
    targets = callbacks.list_callbacks(
        context.engine, environment=environment, after=after, limit=PER_PAGE + 1
    )
    environments = context.environments()
    secrets = variables.list_secrets(context.engine, environment)
    return show_form(
        "settings.html",
        form,
        env=environment,
        environments=context.environment_names(),
        facts=next(row for row in environments if row.name == environment),
        variables=variables.list_variables(context.engine, environment),
        secrets=secrets,
        expiry={row.name: _expiry(row) for row in secrets},
        users_of=_users(),
        fields=sensitive_fields.list_fields(context.engine, environment),
        always=sorted(DEFAULT_SENSITIVE_NAMES),
        targets=targets[:PER_PAGE],
        last=targets[PER_PAGE - 1].id if len(targets) > PER_PAGE else None,
        later=after is not None,
    )


def _expiry(secret: variables.ListedSecret) -> str:
    """Return a word where a secret has expired or expires soon, else an empty text."""
    if secret.expires_at is None:
        return ""
    left = secret.expires_at.timestamp() - time.time()
    return "expired" if left <= 0 else "expires soon" if left <= EXPIRY_WARNING_S else ""


def _users() -> dict[tuple[str, str], list[str]]:
    """Return the pipelines that need each variable and secret, by kind and name."""
    users: dict[tuple[str, str], list[str]] = {}
    loaded = console_context().host.catalog.loaded
    for identifier in in_order(loaded):
        for need in loaded[identifier].pipeline.needs:
            key = ("secret", need.name) if isinstance(need, SecretNeed) else ("variable", need)
            users.setdefault(key, []).append(identifier)
    return users


@page("/e/<env>/settings", needs=Role.VIEWER, scope=Scope.ONE)
def settings() -> Response:
    """Show the settings of an environment; values of secrets are never shown."""
    return show_settings(SensitiveFieldsForm())


@page("/e/<env>/settings/variables/new", needs=Role.OPERATOR, scope=Scope.ONE)
def settings_variable_new() -> Response:
    """Show the form for a variable, with its current value."""
    name, environment = request.args.get("name", ""), current_environment()
    value = _value_of(environment, name)
    return _show_variable(VariableForm(name=name, value=value or "", seen=state_token(value)))


def _value_of(environment: str, name: str) -> str | None:
    rows = variables.list_variables(console_context().engine, environment)
    return next((row.value for row in rows if row.name == name), None)


def _show_variable(form: VariableForm) -> Response:
    return show_form("variable_new.html", form, env=current_environment())


@page("/e/<env>/settings/variables/new", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def settings_variable_set() -> Response:
    """Set a variable."""
    context, environment, form = console_context(), current_environment(), VariableForm()
    name, value = form.name.data, form.value.data
    if form.is_valid():
        with form.faults_at("value"):
            context.host.evaluator.check_variable(
                context.engine, environment, context.box, name, value
            )
    if not form.has_faults:
        with form.faults_at("name"):
            variables.set_variable(
                context.engine, user().name, environment, name, value, seen=form.seen_token
            )
            return done(f"Variable {name} set in {environment}.", "settings", env=environment)
    return _show_variable(form)


def _confirm_variable_unset(name: str) -> Confirmation:
    return Confirmation(
        f"Delete variable {name} in {current_environment()}? Pipelines that need the variable are"
        " blocked.",
        verb="Delete variable",
        other="Keep variable",
        back=url_for("console.settings"),
    )


@page(
    "/e/<env>/settings/variables/<name>/unset",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_variable_unset,
)
def settings_variable_unset(name: str) -> Response:
    """Delete a variable."""
    context, environment, form = console_context(), current_environment(), SensitiveFieldsForm()
    with form.faults_at("variables"):
        variables.unset_variable(context.engine, user().name, environment, name)
        return done(
            f"Variable {name} deleted in {environment}. Pipelines that need the variable are"
            " blocked.",
            "settings",
            env=environment,
        )
    return show_settings(form)


@page("/e/<env>/settings/secrets/new", needs=Role.OPERATOR, scope=Scope.ONE)
def settings_secret_new() -> Response:
    """Show the form for a secret."""
    name, environment = request.args.get("name", ""), current_environment()
    rows = variables.list_secrets(console_context().engine, environment)
    row = next((row for row in rows if row.name == name), None)
    allowed = row.pipelines if row is not None else None
    token = variables.secret_token(console_context().engine, environment, name)
    form = SecretForm(name=name, pipelines=allowed or [], seen=token)
    return _show_secret(form, replaces=row is not None)


def _show_secret(form: SecretForm, *, replaces: bool = False) -> Response:
    return show_form("secret_new.html", form, env=current_environment(), replaces=replaces)


@page("/e/<env>/settings/secrets/new", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def settings_secret_set() -> Response:
    """Set a secret, encrypted."""
    context, environment, form = console_context(), current_environment(), SecretForm()
    if not form.is_valid():
        return _show_secret(form)
    name, days = form.name.data, form.days.data
    with form.faults_at("name", pipeline="pipelines"):
        variables.set_secret(
            context.engine,
            user().name,
            environment,
            name,
            form.value.data,
            context.box,
            expires=timedelta(days=days) if days else None,
            pipelines=form.pipelines.data,
            offered=context.host.catalog.offered,
            seen=form.seen_token,
        )
        return done(
            f"Secret {name} set in {environment}. Its value can't be viewed again.",
            "settings",
            env=environment,
        )
    return _show_secret(form)


def _confirm_secret_unset(name: str) -> Confirmation:
    return Confirmation(
        f"Delete secret {name} in {current_environment()}? Pipelines that need the secret are"
        " blocked.",
        verb="Delete secret",
        other="Keep secret",
        back=url_for("console.settings"),
    )


@page(
    "/e/<env>/settings/secrets/<name>/unset",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_secret_unset,
)
def settings_secret_unset(name: str) -> Response:
    """Delete a secret."""
    context, environment, form = console_context(), current_environment(), SensitiveFieldsForm()
    with form.faults_at("secrets"):
        variables.unset_secret(context.engine, user().name, environment, name)
        return done(
            f"Secret {name} deleted in {environment}. Pipelines that need the secret are blocked.",
            "settings",
            env=environment,
        )
    return show_settings(form)
