"""Rejected calls: why, by whom and from where, over time; and one of them explained."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flask import Response, request, url_for

from penstock.access.users import Role
from penstock.console.charts import Chart, Line
from penstock.console.context import ConsoleContext, console_context, current_environment
from penstock.console.explain import page_of_change
from penstock.console.forms import FilterForm, LineField
from penstock.console.labels import outcome_label
from penstock.console.listing import facet
from penstock.console.markers import markers_of
from penstock.console.menu import Count, menu_count
from penstock.console.pages import Scope, page
from penstock.console.responses import redirect_to, render, show_form
from penstock.console.time_range import TimeRange, time_range
from penstock.errors import UnknownName
from penstock.execution.explained_calls import explain_call
from penstock.execution.operations import identifiers
from penstock.execution.rejected_queries import (
    RejectedQuery,
    RejectedView,
    count_of_consumers,
    find_rejected,
    list_rejected,
    most_frequent,
)
from penstock.execution.run_queries import environment_of
from penstock.runs.ids import is_run_id
from penstock.runs.series import intervals
from penstock.runs.statistics import rejections

PER_PAGE = 50
COUNTED_S = 3600  # of the count in the menu
TOP_REASONS = 6  # lines of the chart; the rest is one line


@menu_count("rejected")
def _rejected_count(context: ConsoleContext, environment: str) -> Count:
    """Return how many calls of known consumers were rejected in the last hour."""
    environment_id = context.view(environment).access.environment.id
    number = count_of_consumers(context.engine, environment_id, time.time() - COUNTED_S)
    return Count(number, "warn", "calls of known consumers rejected in the last hour")


class RejectedFilter(FilterForm):
    """Filters rejected calls."""

    reason = LineField("Reason")
    consumer = LineField("Consumer")
    pipeline = LineField("Pipeline", suggestions="pipelines")
    key = LineField("Key ID")
    address = LineField("Address")
    id = LineField("Call or request ID")


def _asked(form: RejectedFilter, environment: str, span: TimeRange) -> RejectedQuery:
    """Return what the page asks for; faults go to their fields."""
    pipelines = list[str]()
    with form.faults_at("pipeline"):
        context = console_context()
        pipelines = identifiers(lambda: context.host, context.engine, form.pipeline.data)
    return RejectedQuery(
        environment=environment,
        reason=form.reason.data or None,
        consumer=form.consumer.data or None,
        key=form.key.data or None,
        pipelines=pipelines,
        address=form.address.data or None,
        request_id=form.id.data or None,
        since=span.start,
        until=span.end,
    )


def _chart(environment: str, span: TimeRange) -> Chart:
    """Return the rejected calls of an environment by reason: all of them, not those kept alone."""
    context = console_context()
    environment_id = context.view(environment).access.environment.id
    # Older counts are stored by the hour: shorter intervals would be one spike and many gaps.
    step = intervals(environment_id, span.start, span.end, span.bucket_s).step
    times, by_reason = rejections(context.engine, environment_id, span.start, span.end, step)
    ranked = sorted(by_reason, key=lambda reason: -sum(by_reason[reason]))
    lines = [
        Line(outcome_label(reason), str(number), by_reason[reason])
        for number, reason in enumerate(ranked[:TOP_REASONS], 1)
    ]
    if rest := ranked[TOP_REASONS:]:
        others = [sum(values) for values in zip(*(by_reason[name] for name in rest), strict=True)]
        lines.append(Line("other", "off", others))
    link = url_for("console.rejected", env=environment) + "?from={from}&to={to}"
    return Chart(times, lines, link=link, markers=markers_of(environment, span))


@page("/e/<env>/rejected", needs=Role.VIEWER, scope=Scope.ONE)
def rejected() -> Response:
    """List rejected calls, newest first; the ID of a call leads to its page."""
    context, environment, form = console_context(), current_environment(), RejectedFilter()
    if is_run_id(form.id.data):
        return redirect_to(url_for("console.runs_one", run=form.id.data))
    span, before = time_range(), request.args.get("before", "")
    form.is_valid()
    asked = _asked(form, environment, span)
    calls, facets = list[RejectedView](), list[Mapping[str, object]]()
    if not form.has_faults:
        with form.faults_at("consumer"):
            top = most_frequent(context.engine, asked)
            labels = {reason: outcome_label(reason) for reason, _ in top.reasons}
            facets = [
                facet("Reason", "reason", top.reasons, form.reason.data or "", labels),
                facet("Consumer", "consumer", top.consumers, form.consumer.data or "", {}),
                facet("Address", "address", top.addresses, form.address.data or "", {}),
            ]
            calls = list_rejected(
                context.engine,
                asked,
                before=before if is_run_id(before) else None,
                limit=PER_PAGE + 1,
            )
    return show_form(
        "rejected.html",
        form,
        env=environment,
        span=span,
        chart=_chart(environment, span),
        calls=calls[:PER_PAGE],
        facets=facets,
        query=form.query() | span.query,
        filtered=bool(form.query()),
        last=calls[PER_PAGE - 1].id if len(calls) > PER_PAGE else None,
        later=before,
        pipelines=sorted(context.host.catalog.loaded),
    )


def environment_of_call(call: str) -> list[str]:
    """Return the environment of a rejected call in a list, empty where there is no such call."""
    try:
        return [find_rejected(console_context().engine, call).environment]
    except UnknownName:
        return []


@page("/e/<env>/rejected/<call>", needs=Role.VIEWER, scope=environment_of_call)
def rejected_one(call: str) -> Response:
    """Show a rejected call, and what would let it pass."""
    context = console_context()
    found = find_rejected(context.engine, call)
    if found.environment != current_environment():
        return redirect_to(url_for("console.rejected_one", call=call, env=found.environment))
    explained = explain_call(
        context.host.catalog, context.host.evaluator, context.engine, context.box, found
    )
    return Response(
        render(
            "rejected_one.html",
            env=found.environment,
            call=found,
            explained=explained,
            changes=[
                (change, page_of_change(change, found.pipeline, found.consumer))
                for change in explained.changes
            ],
        )
    )


def run_or_call(identifier: str) -> tuple[str, str]:
    """Return the endpoint that shows the run or the rejected call of an id, and its environment.

    Raises UnknownName.
    """
    engine = console_context().engine
    try:
        return "runs_one", environment_of(engine, identifier)[1]
    except UnknownName as unknown:
        try:
            return "rejected_one", find_rejected(engine, identifier).environment
        except UnknownName:
            raise unknown from None
