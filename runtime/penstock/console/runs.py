"""Runs: the list with its filters, one run with its steps, cancel and re-run."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flask import Response, request, url_for

from penstock.access.pipelines import in_order
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import (
    ChoiceField,
    ConsoleForm,
    CountField,
    FilterForm,
    LineField,
    UtcMomentField,
)
from penstock.console.labels import STATUS_LABELS
from penstock.console.pages import Scope, page, user
from penstock.console.rejected import run_or_call
from penstock.console.responses import done, live, live_part, redirect_to, render, show_form
from penstock.durable.run_view import RunView
from penstock.durable.status import attempts_of, span_of
from penstock.errors import UnknownName
from penstock.execution.operations import identifiers
from penstock.execution.run_queries import list_runs
from penstock.runs.ids import first_id, is_run_id
from penstock.runs.steps import StepRecord

SINCE = (  # by seconds
    ("", "any time"),
    ("900", "last 15 minutes"),
    ("3600", "last hour"),
    ("86400", "last day"),
    ("604800", "last week"),
)
PER_PAGE = 50
MAX_STEP = 1_000_000
MIN_BAR_PERCENT = 0.5  # a thinner bar of the timeline can't be seen


class RunFilter(FilterForm):
    """Filters runs."""

    pipeline = LineField("Pipeline", suggestions="pipelines")
    consumer = LineField("Consumer")
    status = ChoiceField("Status", [("", "any"), *STATUS_LABELS.items()], default="")
    since = ChoiceField("Received", SINCE, default="")
    until = UtcMomentField("Received before (UTC)")
    id = LineField("Run or request ID")


class RerunForm(ConsoleForm):
    """Re-runs a run, from a step on."""

    step = CountField("from step", low=1, high=MAX_STEP, unit="step number", default=1)


def _page_of_runs(form: RunFilter, environment: str) -> list[RunView]:
    """Return a page of runs, and one more where there is one; faults go to their fields."""
    context, pipelines = console_context(), list[str]()
    before = request.args.get("before", "")
    form.is_valid()
    with form.faults_at("pipeline"):
        pipelines = identifiers(context.host, form.pipeline.data) if form.pipeline.data else []
    if form.has_faults:
        return []
    if form.until.data is not None and not before:
        before = first_id(form.until.data)
    with form.faults_at("consumer"):
        return list_runs(
            context.engine,
            environment=environment,
            pipelines=pipelines,
            consumer=form.consumer.data or None,
            status=form.status.data or None,
            request_id=form.id.data or None,
            since=time.time() - int(form.since.data) if form.since.data else None,
            before=before if is_run_id(before) else None,
            limit=PER_PAGE + 1,
        )
    return []


def _table(environment: str, form: RunFilter) -> str:
    rows = _page_of_runs(form, environment)
    return render(
        "_runs.html",
        env=environment,
        runs=rows[:PER_PAGE],
        last=rows[PER_PAGE - 1].id if len(rows) > PER_PAGE else None,
        query=form.query(),
        later=request.args.get("before"),
    )


@page("/e/<env>/runs", needs=Role.VIEWER, scope=Scope.ONE)
def runs() -> Response:
    """List runs, newest first; a run ID leads to its page."""
    environment, form = current_environment(), RunFilter()
    if is_run_id(form.id.data):
        return redirect_to(url_for("console.runs_one", run=form.id.data))
    table = _table(environment, form)
    newest = "before" not in request.args and form.until.data is None
    return show_form(
        "runs.html",
        form,
        env=environment,
        environments=console_context().environment_names(),
        table=live_part(table),
        query=form.query(),
        pipelines=in_order(console_context().host.catalog.loaded),
        following=newest and not form.has_faults,
        paused=request.args.get("live") == "off",
    )


@page("/e/<env>/runs/rows", needs=Role.VIEWER, scope=Scope.ONE)
def runs_rows() -> Response:
    """Show the newest runs alone; the page polls them."""
    return live(_table(current_environment(), RunFilter()))


@dataclass(frozen=True, slots=True)
class Bar:
    """An attempt on the timeline: its start and its width, in per cent."""

    x: float
    width: float
    failed: bool


def _bars(step: StepRecord, whole_ms: float) -> list[Bar]:
    bars = []
    for attempt in attempts_of(step):
        width = max(MIN_BAR_PERCENT, 100 * attempt.ms / whole_ms)
        start = max(0.0, min(100 - width, 100 * attempt.at / whole_ms))
        bars.append(Bar(round(start, 2), round(width, 2), bool(attempt.error)))
    return bars


def _state(run: RunView) -> str:
    whole_ms = span_of(run.steps)
    steps = [(step, attempts_of(step), _bars(step, whole_ms)) for step in run.steps]
    return render("_run.html", run=run, steps=steps, whole=whole_ms / 1000)


def _show_run(run: str, form: RerunForm) -> Response:
    view = console_context().run_operations.show(run)
    return show_form(
        "run.html",
        form,
        run=view,
        over=view.is_finished,
        last=max((step.number for step in view.steps), default=0),
        state=live_part(_state(view)),
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
    return live(_state(view))


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
    form = RerunForm()
    if form.is_valid():
        with form.faults_at("step"):
            new, status = console_context().run_operations.redeliver(
                user().name, run, step=form.step.data
            )
            outcome = (
                "accepted; waiting for a worker"
                if status is None
                else f"finished in this process: {STATUS_LABELS.get(status, status)}"
            )
            return done(f"Re-run started. New run: {outcome}.", "runs_one", run=new)
    return _show_run(run, form)
