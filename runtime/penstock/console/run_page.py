"""One run: its timeline, bodies, children and audit events; cancel and re-run."""

from __future__ import annotations

from flask import Response, request, url_for

from penstock import audit
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import ConsoleForm, CountField
from penstock.console.labels import STATUS_LABELS
from penstock.console.pages import page, user
from penstock.console.rejected import run_or_call
from penstock.console.responses import done, live, live_part, redirect_to, render, show_form
from penstock.console.run_timeline import timeline
from penstock.durable.run_view import RunView
from penstock.errors import PenstockError, UnknownName
from penstock.runs.run_log import MAX_LINES

MAX_STEP = 1_000_000
MAX_EVENTS = 50
TABS = {
    "timeline": "Timeline",
    "input": "Input",
    "output": "Output",
    "children": "Children",
    "audit": "Audit",
}


class RerunForm(ConsoleForm):
    """Re-runs a run, from a step on."""

    step = CountField("from step", low=1, high=MAX_STEP, unit="step number", default=1)


def _chosen_tab() -> str:
    tab = request.args.get("tab", "")
    return tab if tab in TABS else "timeline"


def _state(run: RunView, fault: str) -> str:
    """Return the part of the page that changes while the run runs."""
    tab = _chosen_tab()
    rows, whole = timeline(run)
    return render(
        "_run.html",
        run=run,
        tab=tab,
        rows=rows,
        whole=whole,
        fault=fault,
        events=_events(run) if tab == "audit" else [],
        max_lines=MAX_LINES,
    )


def _events(run: RunView) -> list[audit.Event]:
    """Return the audit events of a run, and the one of the re-run that it came from."""
    engine = console_context().engine
    events = audit.events(engine, limit=MAX_EVENTS, subject=run.id)
    if run.redelivers:
        action = audit.Action.RUN_REDELIVERED
        before = audit.events(engine, limit=MAX_EVENTS, subject=run.redelivers, action=action)
        events += [event for event in before if event.detail.get("new") == run.id]
    return events


def _tabs(run: RunView) -> list[tuple[str, str, bool]]:
    """Return the tabs of a run: title, address, and whether it is shown."""
    shown, children = _chosen_tab(), len(run.children or ())
    return [
        (
            f"{title} ({children})" if name == "children" and children else title,
            url_for("console.runs_one", run=run.id, tab=None if name == "timeline" else name),
            name == shown,
        )
        for name, title in TABS.items()
    ]


def _show_run(run: str, form: RerunForm) -> Response:
    context = console_context()
    view = context.run_operations.show(run)
    fault = context.run_operations.rerun_fault(view) if view.is_finished else ""
    return show_form(
        "run.html",
        form,
        run=view,
        tab=_chosen_tab(),
        tabs=_tabs(view),
        over=view.is_finished,
        fault=fault,
        failed=view.failed_step if view.durable else 0,
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
    step = request.args.get("step", "")
    return Confirmation(
        _question(view, int(step) if step.isascii() and step.isdigit() else 1),
        verb="Re-run",
        other="Cancel",
        back=url_for("console.runs_one", run=run),
        fields={"step": step} if step else {},
        danger=False,
    )


def _question(view: RunView, step: int) -> str:
    """Return what a re-run from a step does, as a question and its consequences."""
    if not view.durable:
        return "Re-run with the same input in this process? Effects on other systems happen again."
    if step <= 1:
        return "Re-run with the same input? A worker runs all steps again."
    failed = [item.number for item in view.steps if item.failed and item.number < step]
    reused = f" Step {failed[0]} failed: its failure is reused too." if failed else ""
    return (
        f"Re-run from step {step} with the same input? The results of earlier steps are"
        f" reused.{reused}"
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
