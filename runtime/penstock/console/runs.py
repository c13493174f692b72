"""Runs: the list with its filters, its chart, and its export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Response, request, url_for

from penstock.access.pipelines import in_order
from penstock.access.users import Role
from penstock.console.charts import Chart, Line
from penstock.console.context import console_context, current_environment
from penstock.console.forms import ChoiceField, FilterForm, LineField
from penstock.console.labels import STATUS_KINDS, STATUS_LABELS
from penstock.console.listing import facet
from penstock.console.pages import Scope, page
from penstock.console.responses import live, live_part, redirect_to, render, show_form
from penstock.console.time_range import TimeRange, time_range
from penstock.durable.run_view import RunView
from penstock.execution.operations import identifiers_like
from penstock.execution.run_queries import (
    RunQuery,
    as_csv,
    every_run,
    list_runs,
    most_frequent,
)
from penstock.runs.ids import is_run_id

DURATIONS = (  # the least, in seconds
    ("", "any"),
    ("1", "1 s and longer"),
    ("10", "10 s and longer"),
    ("60", "1 min and longer"),
)
PER_PAGE = 50
POINTS = 200  # runs of the chart
MAX_EXPORTED = 100_000  # runs of one file
USUAL_RANGE = "7d"


class RunFilter(FilterForm):
    """Filters runs."""

    pipeline = LineField("Pipeline", suggestions="pipelines")
    consumer = LineField("Consumer")
    status = ChoiceField("Status", [("", "any"), *STATUS_LABELS.items()], default="")
    error = LineField("Error type")
    duration = ChoiceField("Duration", DURATIONS, default="")
    key = LineField("Key ID")
    id = LineField("Run or request ID")


def _asked(form: RunFilter, environment: str, span: TimeRange) -> RunQuery:
    """Return what the page asks for; faults go to their fields."""
    context, pipelines = console_context(), list[str]()
    if not form.is_valid():
        return RunQuery(environment)
    with form.faults_at("pipeline"):
        pipelines = identifiers_like(lambda: context.host, context.engine, form.pipeline.data)
    return RunQuery(
        environment=environment,
        pipelines=pipelines,
        consumer=form.consumer.data or None,
        key=form.key.data or None,
        status=form.status.data or None,
        error_type=form.error.data or None,
        request_id=form.id.data or None,
        seconds=float(form.duration.data) if form.duration.data else None,
        since=span.start,
        until=None if span.live else span.end,
    )


def _page_of_runs(form: RunFilter, asked: RunQuery, limit: int) -> list[RunView]:
    before = request.args.get("before", "")
    if form.has_faults:
        return []
    with form.faults_at("consumer"):
        return list_runs(
            console_context().engine,
            asked,
            before=before if is_run_id(before) else None,
            limit=limit,
        )
    return []


def _table(environment: str, form: RunFilter, span: TimeRange, rows: Sequence[RunView]) -> str:
    shown = rows[:PER_PAGE]
    return render(
        "_runs.html",
        env=environment,
        runs=shown,
        longest=max((run.ms or 0 for run in shown), default=0),
        last=shown[-1].id if len(rows) > PER_PAGE else None,
        query=form.query() | span.query,
        filtered=bool(form.query()),
        later=request.args.get("before"),
    )


def _scatter(environment: str, runs: Sequence[RunView], span: TimeRange) -> Chart:
    """Return the durations of runs over time, a line of points for each status."""
    ended = [run for run in reversed(runs) if run.ms is not None]
    statuses = [status for status in STATUS_LABELS if any(run.status == status for run in ended)]
    lines = [
        Line(
            STATUS_LABELS[status],
            STATUS_KINDS.get(status, "off"),
            [(run.ms or 0) / 1000 if run.status == status else None for run in ended],
        )
        for status in statuses
    ]
    return Chart(
        [run.at.timestamp() for run in ended],
        lines,
        unit="seconds",
        style="points",
        links=[url_for("console.runs_one", env=environment, run=run.id) for run in ended],
        span=(span.start, span.end),
    )


def _facets(form: RunFilter, asked: RunQuery) -> list[Mapping[str, object]]:
    """Return the most frequent statuses, pipelines and error types as links that filter."""
    if form.has_faults:
        return []
    top = most_frequent(console_context().engine, asked)
    groups = (
        ("Status", "status", top.statuses),
        ("Pipeline", "pipeline", top.pipelines),
        ("Error type", "error", top.error_types),
    )
    return [
        facet(name, field, counted, request.args.get(field, ""), STATUS_LABELS)
        for name, field, counted in groups
    ]


@page("/e/<env>/runs", needs=Role.VIEWER, scope=Scope.ONE)
def runs() -> Response:
    """List runs, newest first; a run ID leads to its page."""
    environment, form, span = current_environment(), RunFilter(), time_range(USUAL_RANGE)
    if is_run_id(form.id.data):
        return redirect_to(url_for("console.runs_anywhere", run=form.id.data))
    asked = _asked(form, environment, span)
    rows = _page_of_runs(form, asked, POINTS)
    table = _table(environment, form, span, rows)
    return show_form(
        "runs.html",
        form,
        env=environment,
        span=span,
        chart=_scatter(environment, rows, span),
        shown=f"the newest {POINTS} runs" if len(rows) == POINTS else "runs",
        facets=_facets(form, asked),
        table=live_part(table),
        query=form.query() | span.query,
        filtered=bool(form.query()),
        pipelines=in_order(console_context().host.catalog.loaded),
        following="before" not in request.args and span.live and not form.has_faults,
        paused=request.args.get("live") == "off",
    )


@page("/e/<env>/runs/rows", needs=Role.VIEWER, scope=Scope.ONE)
def runs_rows() -> Response:
    """Show the newest runs alone; the page polls them."""
    environment, form, span = current_environment(), RunFilter(), time_range(USUAL_RANGE)
    rows = _page_of_runs(form, _asked(form, environment, span), PER_PAGE + 1)
    return live(_table(environment, form, span, rows))


@page("/e/<env>/runs/export", needs=Role.VIEWER, scope=Scope.ONE)
def runs_export() -> Response:
    """Send the runs that pass the filters as CSV, newest first, while they are read."""
    environment, form, span = current_environment(), RunFilter(), time_range(USUAL_RANGE)
    asked = _asked(form, environment, span)
    _page_of_runs(form, asked, 1)
    if form.has_faults:
        query: dict[str, Any] = form.query() | span.query
        return redirect_to(url_for("console.runs", **query))
    rows = as_csv(every_run(console_context().engine, asked, limit=MAX_EXPORTED))
    name = f"penstock-runs-{environment}-{datetime.now(UTC):%Y%m%d-%H%M%S}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(rows, content_type="text/csv; charset=utf-8", headers=headers)
