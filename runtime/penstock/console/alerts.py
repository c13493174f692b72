"""Alert rules of an environment: their states, their last messages, and the forms that change them.

The URL and the secret of a webhook are shown nowhere; an empty field leaves the webhook as it is.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from flask import Response, url_for

from penstock.access.durations import read_duration
from penstock.access.users import Role
from penstock.alerts import changes, rules
from penstock.alerts.kinds import (
    Kind,
    read_kind,
    read_threshold,
    written_duration,
    written_threshold,
)
from penstock.alerts.messages import messages_of, queue_test
from penstock.alerts.rounds import LEASE
from penstock.alerts.rules import Rule, RuleSettings, with_emails
from penstock.clock import utc_now
from penstock.console.confirmation import Confirmation
from penstock.console.context import ConsoleContext, console_context, current_environment
from penstock.console.forms import (
    ChoiceField,
    CountField,
    LineField,
    OptionsField,
    ReplacingForm,
    WordsField,
)
from penstock.console.menu import Count, menu_count
from penstock.console.pages import page, user
from penstock.console.responses import done, render, show_form
from penstock.db import alerts as stored
from penstock.db import leases
from penstock.db.engine import reading
from penstock.errors import Outdated, UsageError

MUTED_FOR = timedelta(hours=1)
STATE_KINDS = {"ok": "good", "pending": "warn", "firing": "bad"}


@menu_count("alerts")
def _firing(context: ConsoleContext, environment: str) -> Count:
    """Return how many rules of an environment fire."""
    environment_id = context.view(environment).access.environment.id
    with reading(context.engine) as connection:
        number = stored.count_firing(connection, environment_id)
    return Count(number, "bad", "alert rule fires" if number == 1 else "alert rules fire")


class RuleForm(ReplacingForm):
    """Creates or changes a rule."""

    name = LineField(
        "Name", description="Lower-case letters, digits and dashes, for example order-errors."
    )
    kind = ChoiceField("Kind", [(kind.value, kind.value.replace("-", " ")) for kind in Kind])
    threshold = LineField(
        "Threshold",
        description="5% of calls, 500ms, 100 calls or 14d, as the kind has it. Empty: its default.",
    )
    hold = LineField("Must hold for", description="For example 2m; 0: fires at once.")
    over = LineField("Count calls over", description="1m to 1h, for rates and latency.")
    minimum = CountField(
        "Least number of calls",
        low=0,
        high=rules.MAX_MINIMUM,
        unit="number of calls",
        description="Below it no error rate and no latency counts.",
    )
    pipeline = LineField("Only pipeline", description="An ID such as v1/orders. Empty: all.")
    reason = LineField(
        "Only reason",
        description="A problem type such as invalid-api-key, for rejections. Empty: all.",
    )
    emails = WordsField("E-mail addresses", description="Separated by spaces; 10 at most.")
    webhook = LineField(
        "Webhook URL",
        description="Can't be viewed again. A new URL gets a new signing secret; empty: no change.",
    )
    private = OptionsField(
        "Network of the webhook",
        [
            ("no", "Public", "HTTPS only"),
            ("yes", "Public or private", "plain HTTP is allowed too"),
        ],
        default="no",
    )

    def settings(self, base: RuleSettings) -> RuleSettings:
        """Return settings with the fields of the form; their faults are at the fields."""
        kind, result = base.kind, base
        with self.faults_at("threshold"):
            text = self.threshold.data
            result = replace(
                result, threshold=read_threshold(kind, text) if text else base.threshold
            )
        with self.faults_at("hold"):
            result = replace(result, hold_s=_seconds(self.hold.data, base.hold_s))
        with self.faults_at("over"):
            result = replace(result, window_s=_seconds(self.over.data, base.window_s))
        minimum = self.minimum.data
        result = replace(
            result,
            minimum=base.minimum if minimum is None else minimum,
            pipeline=self.pipeline.data,
            reason=self.reason.data,
        )
        return with_emails(result, self.emails.data or ())

    def hook(self) -> changes.Webhook | None:
        """Return the new webhook, None where the field is empty."""
        url = self.webhook.data
        return changes.Webhook(url, self.private.data == "yes") if url else None


def _seconds(text: str, default: int) -> int:
    if text == "0":
        return 0
    return int(read_duration(text).total_seconds()) if text else default


def _form_of(rule: Rule) -> RuleForm:
    settings = rule.settings
    return RuleForm(
        name=rule.name,
        kind=rule.kind.value,
        threshold=written_threshold(rule.kind, settings.threshold),
        hold=written_duration(settings.hold_s) if settings.hold_s else "0",
        over=written_duration(settings.window_s),
        minimum=settings.minimum,
        pipeline=settings.pipeline,
        reason=settings.reason,
        emails=list(settings.emails),
        private="yes" if rule.private else "no",
        seen=settings.token,
    )


def _rule(name: str) -> Rule:
    return rules.find_rule(console_context().engine, current_environment(), name)


@page("/e/<env>/alerts", needs=Role.VIEWER)
def alerts() -> str:
    """List the rules of an environment; those that fire come first."""
    context, environment = console_context(), current_environment()
    rows = rules.list_rules(context.engine, environment)
    rows.sort(key=lambda rule: ("firing", "pending", "ok").index(rule.status))
    with reading(context.engine) as connection:
        sent = stored.last_sent(connection, [rule.id for rule in rows if rule.id is not None])
    return render(
        "alerts.html",
        env=environment,
        rules=rows,
        sent=sent,
        kinds=STATE_KINDS,
        evaluated_at=leases.renewed_at(context.engine, LEASE),
    )


@page("/e/<env>/alerts/rules/<rule>", needs=Role.VIEWER)
def alerts_one(rule: str) -> str:
    """Show a rule, what it fires for, and its last messages."""
    chosen = _rule(rule)
    return render(
        "alert.html",
        env=current_environment(),
        rule=chosen,
        kinds=STATE_KINDS,
        messages=messages_of(console_context().engine, [chosen]),
    )


@page("/e/<env>/alerts/new", needs=Role.OPERATOR)
def alerts_new() -> Response:
    """Show the form for a rule."""
    return _show(RuleForm(hold=""), None)


def _show(form: RuleForm, rule: Rule | None) -> Response:
    return show_form("alert_edit.html", form, env=current_environment(), rule=rule)


@page("/e/<env>/alerts/new", needs=Role.OPERATOR, method="POST")
def alerts_create() -> Response:
    """Create a rule, and show the secret of its webhook once."""
    context, environment, form = console_context(), current_environment(), RuleForm()
    if not form.is_valid():
        return _show(form, None)
    name = form.name.data
    settings = form.settings(RuleSettings.of(read_kind(form.kind.data)))
    if not form.has_faults:
        with form.faults_at("name", reason="reason"):
            secret = changes.create_rule(
                context.engine, user().name, environment, name, settings, context.box, form.hook()
            )
            return _saved(f"Rule {name} created in {environment}.", name, secret)
    return _show(form, None)


def _saved(message: str, name: str, secret: str | None) -> Response:
    if secret is None:
        return done(message, "alerts_one", env=current_environment(), rule=name)
    return Response(
        render("alert_secret.html", env=current_environment(), name=name, secret=secret)
    )


@page("/e/<env>/alerts/rules/<rule>/edit", needs=Role.OPERATOR)
def alerts_edit(rule: str) -> Response:
    """Show the form for a rule, with its settings."""
    chosen = _rule(rule)
    return _show(_form_of(chosen), chosen)


@page("/e/<env>/alerts/rules/<rule>/edit", needs=Role.OPERATOR, method="POST")
def alerts_set(rule: str) -> Response:
    """Change a rule."""
    context, environment, form = console_context(), current_environment(), RuleForm()
    chosen = _rule(rule)
    form.name.data, form.kind.data = chosen.name, chosen.kind.value  # neither changes
    if not form.is_valid():
        return _show(form, chosen)
    settings = form.settings(chosen.settings)
    if not form.has_faults:
        with form.faults_at("webhook" if form.webhook.data else "threshold", reason="reason"):
            try:
                secret = changes.set_rule(
                    context.engine,
                    user().name,
                    environment,
                    rule,
                    settings,
                    context.box,
                    form.hook(),
                    seen=form.seen_token,
                )
            except Outdated:
                saved = _rule(rule).settings
                values = [(name, str(value)) for name, value in saved.document().items()]
                form.add_conflict(values, saved.token)
                return _show(form, chosen)
            return _saved(f"Rule {rule} saved in {environment}.", rule, secret)
    return _show(form, chosen)


@page("/e/<env>/alerts/rules/<rule>/test", needs=Role.OPERATOR, method="POST")
def alerts_test(rule: str) -> Response:
    """Queue a test message to each receiver of a rule."""
    context, environment = console_context(), current_environment()
    if not _rule(rule).receivers:
        raise UsageError(f"rule {rule} has no receiver; edit the rule and add one")
    chosen = changes.stored_rule(context.engine, user().name, environment, rule)
    queue_test(context.engine, chosen, utc_now())
    return done(
        "Test message queued. Reload this page in a moment to see its result.",
        "alerts_one",
        env=environment,
        rule=rule,
    )


@page("/e/<env>/alerts/rules/<rule>/mute", needs=Role.OPERATOR, method="POST")
def alerts_mute(rule: str) -> Response:
    """Let a rule send no messages for an hour."""
    return _mute(rule, MUTED_FOR, f"Rule {rule} sends no messages for an hour.")


@page("/e/<env>/alerts/rules/<rule>/unmute", needs=Role.OPERATOR, method="POST")
def alerts_unmute(rule: str) -> Response:
    """Let a rule send messages again."""
    return _mute(rule, None, f"Rule {rule} sends messages again.")


def _mute(rule: str, length: timedelta | None, message: str) -> Response:
    environment = current_environment()
    changes.mute_rule(console_context().engine, user().name, environment, rule, length)
    return done(message, "alerts", env=environment)


def _confirm_remove(rule: str) -> Confirmation:
    _rule(rule)
    return Confirmation(
        f"Remove the alert rule {rule} from {current_environment()}? The secret of its webhook is"
        " deleted.",
        verb="Remove rule",
        other="Keep rule",
        back=url_for("console.alerts"),
    )


@page(
    "/e/<env>/alerts/rules/<rule>/remove",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_remove,
)
def alerts_remove(rule: str) -> Response:
    """Remove a rule."""
    environment = current_environment()
    changes.remove_rule(console_context().engine, user().name, environment, rule)
    return done(f"Rule {rule} removed from {environment}.", "alerts", env=environment)
