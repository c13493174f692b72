"""Usage: who called what in an environment, with which key, and how often."""

from __future__ import annotations

from flask import Response, request, url_for

from penstock.access.users import Role
from penstock.console.charts import Chart, Line
from penstock.console.context import console_context, current_environment
from penstock.console.forms import FilterForm, LineField
from penstock.console.markers import markers_of
from penstock.console.pages import Scope, page
from penstock.console.responses import show_form
from penstock.console.series import CLASS_KINDS, CLASS_LABELS
from penstock.console.time_range import TimeRange, time_range
from penstock.contracts.outcomes import CLASSES
from penstock.execution.operations import identifiers
from penstock.execution.usage_queries import BY, Usage, UsageQuery, calls_by_interval, usage_of

MAX_ROWS = 100


class UsageFilter(FilterForm):
    """Filters the calls that are added up."""

    consumer = LineField("Consumer")
    key = LineField("Key ID")
    pipeline = LineField("Pipeline", suggestions="pipelines")


def _chart(environment: str, asked: UsageQuery, span: TimeRange) -> Chart:
    times, numbers = calls_by_interval(
        console_context().engine, asked, span.start, span.end, span.bucket_s
    )
    lines = [
        Line(CLASS_LABELS.get(name, name), CLASS_KINDS[name], numbers[name])
        for name in CLASSES
        if name in numbers
    ]
    link = url_for(
        "console.runs",
        env=environment,
        consumer=asked.consumer,
        pipeline=request.args.get("pipeline") or None,
    )
    link += ("&" if "?" in link else "?") + "from={from}&to={to}"
    return Chart(times, lines, link=link, markers=markers_of(environment, span))


@page("/e/<env>/usage", needs=Role.VIEWER, scope=Scope.ONE)
def usage() -> Response:
    """Add up calls by consumer, key or pipeline, the most first."""
    context, environment, form = console_context(), current_environment(), UsageFilter()
    span, by = time_range("7d"), request.args.get("by", BY[0])
    by = by if by in BY else BY[0]
    form.is_valid()
    pipelines = list[str]()
    with form.faults_at("pipeline"):
        pipelines = identifiers(lambda: context.host, context.engine, form.pipeline.data)
    rows, chart = list[Usage](), None
    if not form.has_faults:
        asked = UsageQuery(
            environment,
            form.consumer.data or None,
            form.key.data or None,
            pipelines,
            span.start,
            span.end,
        )
        with form.faults_at("consumer"):
            rows = usage_of(context.engine, asked, by, limit=MAX_ROWS)
            chart = _chart(environment, asked, span)
    query = form.query() | span.query
    return show_form(
        "usage.html",
        form,
        env=environment,
        span=span,
        by=by,
        tabs=[
            (f"By {name}", url_for("console.usage", by=name, **query), name == by) for name in BY
        ],
        chart=chart,
        rows=rows,
        query=query,
        full=len(rows) == MAX_ROWS,
        pipelines=sorted(context.host.catalog.loaded),
    )
