"""Settings of an environment: lifetimes and recording, sensitive fields, callback targets."""

from __future__ import annotations

from flask import Response, request, url_for

from penstock.access import callbacks, environments, sensitive_fields
from penstock.access.environments import EnvironmentChange
from penstock.access.seen import state_token
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import (
    LineField,
    NumberField,
    OptionsField,
    ReplacingForm,
)
from penstock.console.labels import RECORDED_LABELS
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, render, show_form
from penstock.console.settings import SensitiveFieldsForm, show_settings
from penstock.db.tables import EnvironmentRow
from penstock.errors import Outdated

MINUTE_S, DAY_S = 60, 86_400


class EnvironmentForm(ReplacingForm):
    """Changes the lifetimes of an environment, what runs record, and keys in the query string."""

    token_minutes = NumberField(
        "Max token lifetime, in minutes",
        "Enter a number of minutes.",
        unit=MINUTE_S,
        description="At most 1440. Applies to tokens issued from now on.",
    )
    run_days = NumberField(
        "Run retention, in days",
        "Enter a number of days.",
        unit=DAY_S,
        description="Older runs are deleted within moments. This can't be undone.",
    )
    record_bodies = OptionsField(
        "Bodies of runs that are recorded",
        [
            ("none", "None", "even where a pipeline asks for it"),
            ("failed", "Failed runs", "where the pipeline asks for it"),
            ("all", "All runs", "where the pipeline asks for it"),
        ],
    )
    keys_in_query = OptionsField(
        "API keys in the query string",
        [
            ("off", "Rejected", "keys can leak into proxy logs"),
            ("on", "Accepted", "for callers that can't send a header"),
        ],
    )
    second_approval = OptionsField(
        "Second approval",
        [
            ("off", "Off", "changes apply at once"),
            ("on", "On", "changes that widen access wait for another operator"),
        ],
        default="off",
    )


class CallbackForm(ReplacingForm):
    """Allows callbacks of a consumer."""

    consumer = LineField("Consumer", "Enter the name of a consumer.")
    url = LineField(
        "URL prefix",
        "Enter a URL.",
        description="For example https://erp.acme.example/hooks. A prefix that is already allowed"
        " gets a new secret.",
    )
    private = OptionsField(
        "Network of the host",
        [
            ("no", "Public", "HTTPS only"),
            ("yes", "Public or private", "plain HTTP is allowed too"),
        ],
        default="no",
    )


@page("/e/<env>/settings/environment", needs=Role.OPERATOR, scope=Scope.ONE)
def settings_environment() -> Response:
    """Show the form for an environment."""
    facts = _facts(current_environment())
    return _show_environment(
        EnvironmentForm(
            token_minutes=facts.token_lifetime,
            run_days=facts.run_retention,
            record_bodies=facts.record_bodies,
            keys_in_query="on" if facts.keys_in_query else "off",
            second_approval="on" if facts.second_approval else "off",
            seen=state_token(environments.settings_of(facts)),
        )
    )


def _facts(environment: str) -> EnvironmentRow:
    rows = console_context().environments()
    return next(row for row in rows if row.name == environment)


def _show_environment(form: EnvironmentForm) -> Response:
    return show_form("environment.html", form, env=current_environment())


@page("/e/<env>/settings/environment", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def settings_environment_set() -> Response:
    """Change what differs of an environment."""
    context, environment, form = console_context(), current_environment(), EnvironmentForm()
    if not form.is_valid():
        return _show_environment(form)
    facts = _facts(environment)
    lifetime, retention = form.token_minutes.data, form.run_days.data
    bodies, in_query = form.record_bodies.data, form.keys_in_query.data == "on"
    # A form that was opened before this field existed leaves the setting as it is.
    sent = request.form.get("second_approval")
    second = sent == "on" if sent else facts.second_approval
    change = EnvironmentChange(
        token_lifetime=lifetime if lifetime != facts.token_lifetime else None,
        run_retention=retention if retention != facts.run_retention else None,
        record_bodies=bodies if bodies != facts.record_bodies else None,
        keys_in_query=in_query if in_query != facts.keys_in_query else None,
        second_approval=second if second != facts.second_approval else None,
    )
    if change == EnvironmentChange():
        return done(f"Nothing changed in {environment}.", "settings", env=environment)
    for field, part in (
        ("token_minutes", EnvironmentChange(token_lifetime=change.token_lifetime)),
        ("run_days", EnvironmentChange(run_retention=change.run_retention)),
        ("record_bodies", EnvironmentChange(record_bodies=change.record_bodies)),
    ):
        with form.faults_at(field):
            part.check()
    if form.has_faults:
        return _show_environment(form)
    try:
        environments.change_environment(
            context.engine, user().name, environment, change, seen=form.seen_token
        )
    except Outdated:
        _show_saved(form, _facts(environment))
        return _show_environment(form)
    return done(f"Settings of {environment} saved.", "settings", env=environment)


def _show_saved(form: EnvironmentForm, facts: EnvironmentRow) -> None:
    """Put the settings that another user saved beside those that were typed."""
    form.add_conflict(
        [
            (form.token_minutes.label.text, f"{facts.token_lifetime / MINUTE_S:g}"),
            (form.run_days.label.text, f"{facts.run_retention / DAY_S:g}"),
            (form.record_bodies.label.text, RECORDED_LABELS[facts.record_bodies]),
            (form.keys_in_query.label.text, "Accepted" if facts.keys_in_query else "Rejected"),
            (form.second_approval.label.text, "On" if facts.second_approval else "Off"),
        ],
        state_token(environments.settings_of(facts)),
    )


@page("/e/<env>/settings/fields/add", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def settings_fields_add() -> Response:
    """Add sensitive fields."""
    context, environment, form = console_context(), current_environment(), SensitiveFieldsForm()
    if form.is_valid():
        with form.faults_at("fields"):
            fields = form.fields.data
            sensitive_fields.add_fields(context.engine, user().name, environment, fields)
            return done(
                f"Sensitive in {environment} from now on: {', '.join(fields)}.",
                "settings",
                env=environment,
            )
    return show_settings(form)


def _confirm_field_remove() -> Confirmation:
    field = request.args.get("field", "")
    return Confirmation(
        f"Remove {field} from the sensitive fields of {current_environment()}? Its values are"
        " stored from now on.",
        verb="Remove field",
        other="Keep field",
        back=url_for("console.settings"),
        fields={"field": field},
    )


@page(
    "/e/<env>/settings/fields/remove",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_field_remove,
)
def settings_fields_remove() -> Response:
    """Remove a sensitive field."""
    context, environment, form = console_context(), current_environment(), SensitiveFieldsForm()
    field = request.form.get("field", "")
    with form.faults_at("sensitive"):
        sensitive_fields.remove_fields(context.engine, user().name, environment, [field])
        return done(
            f"{field} is no longer sensitive in {environment}.", "settings", env=environment
        )
    return show_settings(form)


@page("/e/<env>/settings/callbacks/new", needs=Role.OPERATOR, scope=Scope.ONE)
def settings_callback_new() -> Response:
    """Show the form for a callback target."""
    return _show_callback(CallbackForm(seen=state_token(None)))


def _show_callback(form: CallbackForm) -> Response:
    return show_form("callback_new.html", form, env=current_environment())


@page("/e/<env>/settings/callbacks/new", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def settings_callback_allow() -> Response:
    """Allow callbacks of a consumer below a URL, and show their signing secret once."""
    context, environment, form = console_context(), current_environment(), CallbackForm()
    consumer, url = form.consumer.data, form.url.data
    if form.is_valid():
        with form.faults_at("url", consumer="consumer"):
            allowed = callbacks.allow_callbacks(
                context.engine,
                user().name,
                consumer,
                environment,
                url,
                context.box,
                private=form.private.data == "yes",
                seen=form.seen_token,
            )
            return Response(
                render(
                    "callback_secret.html",
                    env=environment,
                    consumer=consumer,
                    url=url,
                    secret=allowed.secret,
                )
            )
    return _show_callback(form)


def _confirm_callback_remove() -> Confirmation:
    consumer, url = request.args.get("consumer", ""), request.args.get("url", "")
    return Confirmation(
        f"Remove the callback target {url} of {consumer} in {current_environment()}? Its signing"
        " secret is deleted.",
        verb="Remove target",
        other="Keep target",
        back=url_for("console.settings"),
        fields={"consumer": consumer, "url": url},
    )


@page(
    "/e/<env>/settings/callbacks/remove",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_callback_remove,
)
def settings_callback_remove() -> Response:
    """Remove a callback target of a consumer."""
    context, environment, form = console_context(), current_environment(), SensitiveFieldsForm()
    consumer, url = request.form.get("consumer", ""), request.form.get("url", "")
    with form.faults_at("callbacks"):
        callbacks.remove_callbacks(context.engine, user().name, consumer, environment, url)
        return done(
            f"Callbacks of {consumer} to {url} removed in {environment}.",
            "settings",
            env=environment,
        )
    return show_settings(form)
