"""Commands that manage alert rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from penstock.alerts import changes, rules
from penstock.alerts.changes import Webhook
from penstock.alerts.delivery import deliver_due
from penstock.alerts.kinds import Kind, read_kind, read_threshold
from penstock.alerts.messages import ListedMessage, messages_of, queue_test
from penstock.alerts.rules import Rule, RuleSettings, with_emails
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    json_default,
    pass_context,
)
from penstock.cli.listings import Listing, listing_options, show_rows
from penstock.clock import utc_now
from penstock.errors import UsageError

Result = TypeVar("Result")
COLUMNS = ("environment", "name", "state", "since", "kind", "receivers", "summary")
OPTIONS = (
    click.option("--threshold", metavar="VALUE", help="5%, 500ms, 100 or 14d, as the kind has it."),
    click.option("--over", type=DURATION, help="Time over which calls are counted: 1m to 1h."),
    click.option("--min-calls", type=click.IntRange(0), help="Calls below which no rate counts."),
    click.option("--hold", metavar="DURATION", help="Time that the condition must hold; 0: none."),
    click.option("--pipeline", metavar="PIPELINE", help="Only this pipeline, by its id."),
    click.option("--reason", metavar="TYPE", help="Only calls rejected by this problem type."),
    click.option(
        "--email",
        "emails",
        multiple=True,
        metavar="ADDRESS",
        help="Address that gets messages, in place of those before. May be repeated. Empty: none.",
    ),
    click.option("--webhook", metavar="URL", help="URL that gets messages. Empty: none."),
    click.option("--private", is_flag=True, help="Allow private networks and plain http for it."),
)


def _rule_options(command: Callable[..., Result]) -> Callable[..., Result]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _changed(settings: RuleSettings, options: dict[str, Any]) -> RuleSettings:
    """Return settings with the options that were given. Raises UsageError."""
    changes: dict[str, Any] = {
        name: options[name] for name in ("pipeline", "reason") if options[name] is not None
    }
    if options["threshold"] is not None:
        changes["threshold"] = read_threshold(settings.kind, options["threshold"])
    if options["min_calls"] is not None:
        changes["minimum"] = options["min_calls"]
    if options["over"] is not None:
        changes["window_s"] = int(options["over"].total_seconds())
    if options["hold"] is not None:
        hold: str = options["hold"]
        length = DURATION.convert(hold, None, None) if hold != "0" else timedelta(0)
        changes["hold_s"] = int(length.total_seconds())
    changed = replace(settings, **changes)
    emails: tuple[str, ...] = options["emails"]
    return with_emails(changed, [each for each in emails if each]) if emails else changed


def _webhook(options: dict[str, Any]) -> Webhook | None:
    url: str | None = options["webhook"]
    if url is None and options["private"]:
        raise UsageError("--private is about the URL of --webhook; give the URL too")
    return None if url is None else Webhook(url, options["private"])


def _show_secret(secret: str | None) -> None:
    if secret is not None:
        click.echo(f"its webhook is signed with this secret, which is shown only once:\n{secret}")


@click.group()
def alert() -> None:
    """Manage rules that send a message when something is wrong."""


@alert.command("list")
@env_option
@click.option("--firing", is_flag=True, help="Only rules that fire.")
@listing_options
@pass_context
def alert_list(context: Context, environment: str | None, firing: bool, listing: Listing) -> None:
    """List alert rules, with their state."""
    rows = rules.list_rules(context.engine, environment)
    show_rows(
        [row for row in rows if row.status == "firing" or not firing],
        listing,
        COLUMNS,
        lambda row: f"{row.environment}/{row.name}",
        empty="no rule fires" if firing else "no alert rules",
    )


@alert.command("show")
@click.argument("name")
@env_required
@pass_context
def alert_show(context: Context, name: str, environment: str) -> None:
    """Show a rule, its state and its last messages, as JSON."""
    rule = rules.find_rule(context.engine, environment, name)
    document = {
        "environment": rule.environment,
        "name": rule.name,
        "fires_when": rule.words,
        **rule.settings.document(),
        "webhook": rule.webhook,
        "shipped": rule.shipped,
        "state": rule.state,
        "muted_until": rule.muted_until,
        "since": rule.since,
        "fired_at": rule.fired_at,
        "resolved_at": rule.resolved_at,
        "summary": rule.summary,
        "subjects": list(rule.subjects),
        "messages": [_plain(each) for each in messages_of(context.engine, [rule])],
    }
    click.echo(json.dumps(document, default=json_default, indent=2, ensure_ascii=False))


def _plain(message: ListedMessage) -> dict[str, object]:
    return {name: getattr(message, name) for name in ListedMessage.__slots__}


@alert.command("create")
@click.argument("name")
@click.argument("kind", type=click.Choice([kind.value for kind in Kind]))
@env_required
@_rule_options
@pass_context
def alert_create(
    context: Context,
    /,
    name: str,
    kind: str,
    environment: str,
    **options: Any,  # noqa: ANN401  those of a rule
) -> None:
    """Create an alert rule."""
    settings = _changed(RuleSettings.of(read_kind(kind)), options)
    secret = changes.create_rule(
        context.engine, context.actor, environment, name, settings, context.box, _webhook(options)
    )
    click.echo(f"alert rule {name} created in {environment}; it fires when {settings.words}")
    _show_secret(secret)


@alert.command("set")
@click.argument("name")
@env_required
@_rule_options
@pass_context
def alert_set(context: Context, /, name: str, environment: str, **options: Any) -> None:  # noqa: ANN401  those of a rule
    """Change an alert rule; what is left out stays. A new URL gets a new secret."""
    rule = rules.find_rule(context.engine, environment, name)
    settings = _changed(rule.settings, options)
    secret = changes.set_rule(
        context.engine, context.actor, environment, name, settings, context.box, _webhook(options)
    )
    click.echo(f"alert rule {name} set in {environment}; it fires when {settings.words}")
    _show_secret(secret)


@alert.command("remove")
@click.argument("name")
@env_required
@pass_context
def alert_remove(context: Context, name: str, environment: str) -> None:
    """Remove an alert rule."""
    changes.remove_rule(context.engine, context.actor, environment, name)
    click.echo(f"alert rule {name} removed from {environment}")


@alert.command("mute")
@click.argument("name")
@env_required
@click.option("--for", "length", type=DURATION, help="Time without messages. Default: 1h.")
@click.option("--off", is_flag=True, help="Let the rule send messages again.")
@pass_context
def alert_mute(
    context: Context, name: str, environment: str, length: timedelta | None, off: bool
) -> None:
    """Let a rule send no messages for a time."""
    if off and length is not None:
        raise UsageError("--for and --off contradict each other; give one of them")
    chosen = None if off else length or timedelta(hours=1)
    until = changes.mute_rule(context.engine, context.actor, environment, name, chosen)
    click.echo(f"alert rule {name} in {environment} {_muted(until)}")


def _muted(until: datetime | None) -> str:
    return f"muted until {until:%Y-%m-%d %H:%MZ}" if until else "sends messages again"


@alert.command("test")
@click.argument("name")
@env_required
@pass_context
def alert_test(context: Context, name: str, environment: str) -> int:
    """Send a test message to each receiver of a rule. Exit code 1 where one is not sent."""
    rule: Rule = changes.stored_rule(context.engine, context.actor, environment, name)
    if not rule.receivers:
        raise UsageError(
            f"rule {name} has no receiver; give it one with `penstock alert set {name} --env"
            f" {environment} --webhook URL` or --email ADDRESS"
        )
    ids = queue_test(context.engine, rule, utc_now())
    deliver_due(context.engine, context.box, context.settings, ids)
    messages = messages_of(context.engine, [rule], ids)
    for each in messages:
        result = each.result or "waits for a process with PENSTOCK_SMTP_HOST"
        click.echo(f"{each.channel} {each.target}: {each.state}, {result}")
    return int(any(each.state != "sent" for each in messages))


COMMANDS = (alert,)
