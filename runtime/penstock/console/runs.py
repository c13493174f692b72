"""Runs: the list with its filters, one run with its steps, cancel and re-run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import Response, request, url_for

from penstock.access.pipelines import in_order
from penstock.access.users import Role
from penstock.console.charts import Chart, Line
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.formatting import duration
from penstock.console.forms import (
    ChoiceField,
    ConsoleForm,
    CountField,
    FilterForm,
    LineField,
)
from penstock.console.labels import STATUS_KINDS, STATUS_LABELS
from penstock.console.listing import facet
from penstock.console.pages import Scope, page, user
from penstock.console.rejected import run_or_call
from penstock.console.responses import done, live, live_part, redirect_to, render, show_form
from penstock.console.time_range import TimeRange, time_range
from penstock.durable.run_view import RunView
from penstock.durable.status import attempts_of
from penstock.errors import PenstockError, UnknownName
from penstock.execution.operations import identifiers
from penstock.execution.run_queries import RunQuery, list_runs, most_frequent
from penstock.runs.ids import is_run_id

DURATIONS = (  # the least, in seconds
    ("", "any"),
    ("1", "1 s and longer"),
    ("10", "10 s and longer"),
    ("60", "1 min and longer"),
)
PER_PAGE = 50
POINTS = 200  # runs of the chart
USUAL_RANGE = "7d"
MAX_STEP = 1_000_000


class RunFilter(FilterForm):
    """Filters runs."""

    pipeline = LineField("Pipeline", suggestions="pipelines")
    consumer = LineField("Consumer")
    status = ChoiceField("Status", [("", "any"), *STATUS_LABELS.items()], default="")
    error = LineField("Error type")
    duration = ChoiceField("Duration", DURATIONS, default="")
    key = LineField("Key ID")
    id = LineField("Run or request ID")


class RerunForm(ConsoleForm):
    """Re-runs a run, from a step on."""

    step = CountField("from step", low=1, high=MAX_STEP, unit="step number", default=1)


def _asked(form: RunFilter, environment: str, span: TimeRange) -> RunQuery:
    """Return what the page asks for; faults go to their fields."""
    context, pipelines = console_context(), list[str]()
    if not form.is_valid():
        return RunQuery(environment)
    with form.faults_at("pipeline"):
        pipelines = identifiers(lambda: context.host, context.engine, form.pipeline.data)
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


def _scatter(environment: str, runs: Sequence[RunView]) -> Chart:
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
        chart=_scatter(environment, rows),
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


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a row of the timeline, in seconds after the call was received."""

    start: float
    end: float
    kind: str  # good, bad, wait or sleep
    title: str


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """A row of the timeline: waiting for a worker, or a step with its attempts.

    `number` is that of the step for a re-run from it, 0 where there is none.
    """

    label: str
    note: str
    segments: Sequence[Segment]
    number: int = 0
    errors: Sequence[str] = ()


def _timeline(run: RunView) -> tuple[list[TimelineRow], float]:
    """Return the rows of a run's timeline, and its length in seconds."""
    waited = (run.waited_ms or 0) / 1000
    if run.durable and run.started_at is None and not run.is_finished:
        waited = max(0.0, time.time() - run.at.timestamp())
    rows = list[TimelineRow]()
    if run.durable:
        text = f"waited {duration(waited)} for a worker"
        rows.append(TimelineRow("queue", text, [Segment(0, waited, "wait", text)]))
    for index, step in enumerate(run.steps, 1):
        attempts = attempts_of(step)
        segments = [
            Segment(
                waited + attempt.at / 1000,
                waited + (attempt.at + attempt.ms) / 1000,
                "sleep" if step.name == "sleep" else "bad" if attempt.error else "good",
                f"{step.name}: started after {duration(attempt.at / 1000)}, took"
                f" {duration(attempt.ms / 1000)}",
            )
            for attempt in attempts
        ]
        note = duration(step.ms / 1000)
        note += f", {len(attempts)} attempts" if len(attempts) > 1 else ""
        note += ", failed" if step.failed else ""
        errors = [
            f"Attempt {number}, after {duration(attempt.at / 1000)}: {attempt.error}"
            for number, attempt in enumerate(attempts, 1)
            if attempt.error and step.attempts
        ]
        label = f"{step.number or index} {step.name}"
        rows.append(TimelineRow(label, note, segments, step.number, errors))
    whole = max((segment.end for row in rows for segment in row.segments), default=0.0)
    return rows, max(whole, (run.ms or 0) / 1000 + waited, 1e-6)


def _state(run: RunView, fault: str) -> str:
    rows, whole = _timeline(run)
    return render("_run.html", run=run, rows=rows, whole=whole, fault=fault)


def _show_run(run: str, form: RerunForm) -> Response:
    context = console_context()
    view = context.run_operations.show(run)
    fault = context.run_operations.rerun_fault(view) if view.is_finished else ""
    failed = next((step.number for step in view.steps if step.failed), 0)
    return show_form(
        "run.html",
        form,
        run=view,
        over=view.is_finished,
        fault=fault,
        failed=failed,
        state=live_part(_state(view, fault)),
    )


def _environment_of(run: str) -> list[str]:
    """Return the environment of a run in a list, empty where there is no such run."""
    try:
        return [run_or_call(run)[1]]
    except UnknownName:
        return []


@page("/runs/<run>", needs=Role.VIEWER, scope=_environment_of)
def runs_anywhere(run: str) -> Response:
    """Redirect to the page of a run, or of a rejected call, in its environment."""
    endpoint, environment = run_or_call(run)
    if endpoint == "rejected_one":
        return redirect_to(url_for("console.rejected_one", env=environment, call=run))
    return redirect_to(url_for("console.runs_one", env=environment, run=run))


@page("/e/<env>/runs/<run>", needs=Role.VIEWER, scope=_environment_of)
def runs_one(run: str) -> Response:
    """Show a run."""
    if run_or_call(run) != ("runs_one", current_environment()):
        return runs_anywhere(run)  # type: ignore[no-any-return]  # a view
    return _show_run(run, RerunForm())


@page("/e/<env>/runs/<run>/state", needs=Role.VIEWER, scope=_environment_of)
def runs_state(run: str) -> Response:
    """Show the state of a run alone; its page polls it until the run ends."""
    view = console_context().run_operations.show(run)
    if view.is_finished:
        return Response(status=204, headers={"HX-Refresh": "true"})
    return live(_state(view, ""))


def _confirm_cancel(run: str) -> Confirmation:
    return Confirmation(
        "Cancel this run and the runs it started? Completed steps are not undone.",
        verb="Cancel run",
        other="Keep running",
        back=url_for("console.runs_one", run=run),
    )


@page(
    "/e/<env>/runs/<run>/cancel",
    needs=Role.OPERATOR,
    method="POST",
    scope=_environment_of,
    confirm=_confirm_cancel,
)
def runs_cancel(run: str) -> Response:
    """Cancel a durable run and the runs that it started."""
    form = RerunForm()
    with form.faults_at("state"):
        console_context().run_operations.cancel(user().name, run)
        return done("Run cancelled. A step in progress ends first.", "runs_one", run=run)
    return _show_run(run, form)


def _confirm_redeliver(run: str) -> Confirmation:
    view = console_context().run_operations.show(run)
    how = "Re-run with the same input in this process? Effects on other systems happen again."
    if view.durable:
        how = (
            "Re-run with the same input? A worker starts at the step; results of earlier steps are"
            " reused."
        )
    return Confirmation(
        how,
        verb="Re-run",
        other="Cancel",
        back=url_for("console.runs_one", run=run),
        fields={"step": step} if (step := request.args.get("step", "")) else {},
        danger=False,
    )


@page(
    "/e/<env>/runs/<run>/redeliver",
    needs=Role.OPERATOR,
    method="POST",
    scope=_environment_of,
    confirm=_confirm_redeliver,
)
def runs_redeliver(run: str) -> Response:
    """Re-run a run with the same input, from a step on where one is named."""
    form, operations = RerunForm(), console_context().run_operations
    if form.is_valid():
        with form.faults_at("step"):
            if fault := operations.rerun_fault(operations.show(run)):
                raise PenstockError(fault)
            new, status = operations.redeliver(user().name, run, step=form.step.data)
            outcome = (
                "accepted; waiting for a worker"
                if status is None
                else f"finished in this process: {STATUS_LABELS.get(status, status)}"
            )
            return done(f"Re-run started. New run: {outcome}.", "runs_one", run=new)
    return _show_run(run, form)
