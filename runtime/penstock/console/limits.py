"""Rate limits and network rules of consumers."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, request, url_for
from wtforms.widgets import TextArea

from penstock.access import limits as access
from penstock.access.pipelines import in_order
from penstock.access.seen import state_token
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import (
    ChoiceField,
    FilterForm,
    LineField,
    OptionsField,
    ReplacingForm,
    WordsField,
)
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, show_form
from penstock.console.time_range import time_range
from penstock.contracts.rates import Rate
from penstock.db.consumer_settings import NamedAddressRuleRow, NamedLimitRow
from penstock.execution.rate_limits import limit_used, pipeline_rates

PER_PAGE = 50
MAX_ROW_ID_DIGITS = 18  # of a 64-bit row ID


class ConsumerFilter(FilterForm):
    """Narrows the lists down to a consumer."""

    consumer = LineField("Consumer")


class NewLimitForm(ReplacingForm):
    """Sets a rate limit of a consumer."""

    consumer = LineField("Consumer", "Enter the name of a consumer.")
    rate = LineField(
        "Rate",
        "Enter a rate, for example 100/second.",
        description="100/second, 5000/12 hours, 1000/day. A limit with the same window and"
        " counting is replaced.",
    )
    by = ChoiceField(
        "Counted by",
        [(name, name) for name in access.BY],
        description="consumer: all its calls together. key, address: each of them separately.",
    )
    pipeline = LineField(
        "Pipeline",
        suggestions="pipelines",
        description="An ID such as v1/orders, or a name for all its major versions. Replaces the"
        " pipeline's own consumer and key rates. Empty: all pipelines together, in addition to"
        " their own rates.",
    )


class NetworksForm(ReplacingForm):
    """Allows or denies networks of a consumer."""

    consumer = LineField("Consumer", "Enter the name of a consumer.")
    networks = WordsField(
        "Networks",
        "Enter at least one network, for example 192.0.2.0/24.",
        description="One per line: 192.0.2.0/24, 2001:db8::/32, or a single address.",
        widget=TextArea(),
        render_kw={"rows": 3, "spellcheck": "false"},
    )
    allowed = OptionsField(
        "Calls from these networks",
        [
            ("yes", "Allow only these networks", "and the other allowed ones of this consumer"),
            ("no", "Deny these networks", "also where an allowed network contains them"),
        ],
        default="yes",
    )


def row_after(name: str) -> int | None:
    """Return the row ID after which a page of rows begins, from the query; None at the start."""
    text = request.args.get(name, "")
    return int(text[:MAX_ROW_ID_DIGITS]) if text.isascii() and text.isdigit() else None


def _show(form: ConsumerFilter) -> Response:
    context, environment = console_context(), current_environment()
    consumer = form.consumer.data or None
    limits, networks = list[NamedLimitRow](), list[NamedAddressRuleRow]()
    with form.faults_at("consumer"):
        limits = access.list_limits(
            context.engine,
            environment=environment,
            consumer=consumer,
            after=row_after("limits_after"),
            limit=PER_PAGE + 1,
        )
        networks = access.list_networks(
            context.engine,
            environment=environment,
            consumer=consumer,
            after=row_after("networks_after"),
            limit=PER_PAGE + 1,
        )
    span = time_range("24h")
    limiter = context.by_address
    return show_form(
        "limits.html",
        form,
        span=span,
        rates=pipeline_rates(
            context.engine, context.host.catalog, limiter, environment, span.start, span.end
        ),
        used={row.id: limit_used(limiter, row) for row in limits[:PER_PAGE]},
        env=environment,
        environments=context.environment_names(),
        query=form.query(),
        limits=limits[:PER_PAGE],
        limits_last=limits[PER_PAGE - 1].id if len(limits) > PER_PAGE else None,
        limits_later="limits_after" in request.args,
        networks=networks[:PER_PAGE],
        networks_last=networks[PER_PAGE - 1].id if len(networks) > PER_PAGE else None,
        networks_later="networks_after" in request.args,
    )


@page("/e/<env>/limits", needs=Role.VIEWER, scope=Scope.ONE)
def limits() -> Response:
    """List rate limits and network rules."""
    return _show(ConsumerFilter())


@page("/e/<env>/limits/new", needs=Role.OPERATOR, scope=Scope.ONE)
def limits_new() -> Response:
    """Show the form for a limit."""
    values = {name: request.args.get(name, "") for name in ("consumer", "pipeline", "rate")}
    return _show_new(
        NewLimitForm(**values, by=request.args.get("by", "consumer"), seen=_seen_limit(values))
    )


def _seen_limit(values: Mapping[str, str]) -> str:
    """Return the token of the limit that the form edits: of none where it has no rate."""
    rate, pipeline = values["rate"], values["pipeline"]
    return state_token([[pipeline, rate]] if rate else [])


def _show_new(form: NewLimitForm) -> Response:
    return show_form(
        "limit_new.html",
        form,
        env=current_environment(),
        pipelines=in_order(console_context().host.catalog.loaded),
    )


@page("/e/<env>/limits/new", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def limits_set() -> Response:
    """Set a rate limit of a consumer."""
    context, environment, form = console_context(), current_environment(), NewLimitForm()
    if form.is_valid():
        with form.faults_at("rate"):
            access.check_rate(Rate.of(form.rate.data, form.by.data))
    if form.has_faults:
        return _show_new(form)
    rate = Rate.of(form.rate.data, form.by.data)
    with form.faults_at("rate", consumer="consumer", pipeline="pipeline"):
        limit = access.set_limit(
            context.engine,
            user().name,
            form.consumer.data,
            environment,
            rate,
            pipeline=form.pipeline.data,
            offered=context.host.catalog.offered,
            seen=form.seen_token,
        )
        identifiers = limit.pipelines
        replaced = [
            own
            for identifier in identifiers
            for own in context.host.catalog.own_rates(identifier) or ()
        ]
        message = (
            f"Limit set in {environment}: {form.consumer.data} may call"
            f" {', '.join(identifiers) or 'all pipelines together'} {rate.text} by {rate.by}."
        )
        if replaced:
            message += f" The limit replaces the pipeline's own rates: {', '.join(replaced)}."
        return done(message, "limits", env=environment, consumer=form.consumer.data)
    return _show_new(form)


def _confirm_remove() -> Confirmation:
    consumer, pipeline = request.args.get("consumer", ""), request.args.get("pipeline", "")
    where = f"at {pipeline}" if pipeline else "over all pipelines"
    return Confirmation(
        f"Remove all limits of {consumer} {where} in {current_environment()}?",
        verb="Remove limits",
        other="Keep limits",
        back=url_for("console.limits"),
        fields={"consumer": consumer, "pipeline": pipeline},
    )


@page(
    "/e/<env>/limits/remove",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_remove,
)
def limits_remove() -> Response:
    """Remove the limits of a consumer at a pipeline, or over all pipelines."""
    context, environment, form = console_context(), current_environment(), ConsumerFilter()
    consumer, pipeline = request.form.get("consumer", ""), request.form.get("pipeline", "")
    with form.faults_at("limits"):
        removed = access.remove_limits(
            context.engine, user().name, consumer, environment, pipeline=pipeline
        )
        number = removed.number
        left = f" Still limited: {', '.join(removed.left)}." if removed.left else ""
        return done(
            f"{number} limit{'s' if number > 1 else ''} of {consumer} removed in {environment}."
            f"{left}",
            "limits",
            env=environment,
        )
    return _show(form)


@page("/e/<env>/limits/networks/new", needs=Role.OPERATOR, scope=Scope.ONE)
def limits_network_new() -> Response:
    """Show the form for networks."""
    return _show_networks(
        NetworksForm(consumer=request.args.get("consumer", ""), seen=state_token([]))
    )


def _show_networks(form: NetworksForm) -> Response:
    return show_form("network_new.html", form, env=current_environment())


@page("/e/<env>/limits/networks/new", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def limits_network_put() -> Response:
    """Allow or deny networks of a consumer."""
    context, environment, form = console_context(), current_environment(), NetworksForm()
    consumer, networks = form.consumer.data, form.networks.data
    if form.is_valid():
        with form.faults_at("networks"):
            access.check_networks(networks)
    if form.has_faults:
        return _show_networks(form)
    allowed = form.allowed.data == "yes"
    with form.faults_at("consumer"):
        rules = access.set_networks(
            context.engine,
            user().name,
            consumer,
            environment,
            networks,
            allowed=allowed,
            seen=form.seen_token,
        )
        verb = "allowed" if allowed else "denied"
        message = (
            f"Calls of {consumer} from {', '.join(rules.networks)} are {verb} in {environment}."
        )
        return done(message, "limits", env=environment, consumer=consumer)
    return _show_networks(form)


def _confirm_network_remove() -> Confirmation:
    consumer, network = request.args.get("consumer", ""), request.args.get("network", "")
    return Confirmation(
        f"Remove the rule for {network} of {consumer} in {current_environment()}? A consumer"
        " without an allowed network may call from any network that is not denied.",
        verb="Remove rule",
        other="Keep rule",
        back=url_for("console.limits"),
        fields={"consumer": consumer, "network": network},
    )


@page(
    "/e/<env>/limits/networks/remove",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_network_remove,
)
def limits_network_remove() -> Response:
    """Remove a network rule of a consumer."""
    context, environment, form = console_context(), current_environment(), ConsumerFilter()
    consumer, network = request.form.get("consumer", ""), request.form.get("network", "")
    with form.faults_at("networks"):
        access.remove_networks(context.engine, user().name, consumer, environment, [network])
        return done(
            f"Rule for {network} of {consumer} removed in {environment}.",
            "limits",
            env=environment,
        )
    return _show(form)
