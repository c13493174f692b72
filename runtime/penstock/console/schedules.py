"""Schedules: the next and the last ticks of each; pause one, or run one now."""

from __future__ import annotations

from typing import Any

from flask import Response, url_for

from penstock.access.users import Role
from penstock.clock import utc_now
from penstock.console.confirmation import Confirmation
from penstock.console.context import EnvironmentView, console_context, current_environment
from penstock.console.labels import STATE_KINDS, STATE_LABELS, STATUS_KINDS, STATUS_LABELS
from penstock.console.pages import page, user
from penstock.console.responses import done, render
from penstock.durable.schedules import next_ticks
from penstock.execution.scheduling import SHOWN_TICKS, ScheduleView, Scheduling, TickView
from penstock.gate.compliance import State

ACTIVE, PAUSED = ("good", "active"), ("warn", "paused")


def _scheduling() -> Scheduling:
    context = console_context()
    host = context.host
    return Scheduling(
        context.engine, context.box, host.catalog, host.evaluator, context.run_operations.run_store
    )


def _state(view: EnvironmentView, schedule: ScheduleView) -> tuple[str, str]:
    """Return the kind and the word of a schedule's state: its pipeline may be blocked."""
    if schedule.paused:
        return PAUSED
    external = view.evaluated.get(schedule.pipeline)
    internal = view.evaluated_internal.get(schedule.pipeline)
    if external is None:
        return STATE_KINDS[State.BLOCKED.value], STATE_LABELS[State.BLOCKED.value]
    unexposed = external.state is State.INTERNAL and internal is None
    if unexposed or external.served or (internal is not None and internal.served):
        return ACTIVE
    state = (
        external.state
        if internal is None or external.state is not State.INTERNAL
        else (internal.state)
    )
    return STATE_KINDS.get(state.value, "off"), STATE_LABELS[state.value]


def _square(tick: TickView) -> dict[str, str]:
    """Return a tick as a square; one without a run is hollow. It is too small to be a link."""
    word = "missed" if tick.status is None else STATUS_LABELS.get(tick.status, tick.status)
    return {
        "kind": "off" if tick.status is None else STATUS_KINDS.get(tick.status, "run"),
        "title": f"{tick.at:%Y-%m-%d %H:%M} UTC {word}",
    }


def schedule_rows(
    environment: str, *, pipeline: str | None = None, upcoming: int = 0
) -> list[dict[str, Any]]:
    """Return the schedules of an environment, or of one of its pipelines, as rows of a table.

    Each has as many of its next ticks as `upcoming` says.
    """
    view, scheduling, now = console_context().view(environment), _scheduling(), utc_now()
    return [
        {
            "schedule": each,
            "state": _state(view, each),
            "squares": [_square(tick) for tick in each.ticks],
            "seconds": [tick.seconds or 0.0 for tick in each.ticks],
            "upcoming": next_ticks(
                scheduling.declared(environment, each.id).schedule, now, upcoming
            ),
        }
        for each in scheduling.views(environment, ticks=SHOWN_TICKS, pipeline=pipeline)
    ]


@page("/e/<env>/schedules", needs=Role.VIEWER)
def schedules() -> str:
    """List the schedules of an environment."""
    environment = current_environment()
    return render("schedules.html", env=environment, rows=schedule_rows(environment))


def _confirm_pause(schedule: str) -> Confirmation:
    pipeline = _scheduling().declared(current_environment(), schedule).pipeline.id
    return Confirmation(
        f"Pause the schedule of {pipeline} in {current_environment()}? Its ticks start no runs"
        " until someone resumes it, and are not made up for.",
        verb="Pause schedule",
        other="Keep active",
        back=url_for("console.schedules"),
    )


@page(
    "/e/<env>/schedules/<schedule>/pause",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_pause,
)
def schedules_pause(schedule: str) -> Response:
    """Pause a schedule."""
    _scheduling().pause(user().name, current_environment(), schedule)
    return done("Schedule paused. Its ticks start no runs.", "schedules")


@page("/e/<env>/schedules/<schedule>/resume", needs=Role.OPERATOR, method="POST")
def schedules_resume(schedule: str) -> Response:
    """Resume a paused schedule."""
    _scheduling().resume(user().name, current_environment(), schedule)
    return done("Schedule resumed. It starts a run at its next tick.", "schedules")


def _confirm_run(schedule: str) -> Confirmation:
    pipeline = _scheduling().declared(current_environment(), schedule).pipeline.id
    return Confirmation(
        f"Run {pipeline} in {current_environment()} now? The run is beside the ticks of its"
        " schedule.",
        verb="Run now",
        other="Don't run",
        back=url_for("console.schedules"),
        danger=False,
    )


@page(
    "/e/<env>/schedules/<schedule>/run",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_run,
)
def schedules_run(schedule: str) -> Response:
    """Start a run of a schedule."""
    run = _scheduling().run_now(user().name, current_environment(), schedule)
    return done("Run accepted; waiting for a worker.", "runs_one", run=run)
