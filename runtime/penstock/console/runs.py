"""Runs: what became of calls, by their steps; cancel them, and start them again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Response, request, url_for

from penstock.access.pipelines import in_order
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import (
    Form,
    done,
    environment,
    filters,
    live,
    live_part,
    page,
    render,
    show_form,
    user,
)
from penstock.contracts.run_status import Status
from penstock.durable.status import attempts_of, span_of
from penstock.errors import UsageError
from penstock.execution import operating
from penstock.execution.steering import identifiers
from penstock.runs.ids import first_id, is_run_id
from penstock.runs.steps import StepRecord

FIELDS = ("pipeline", "consumer", "status", "since", "until", "id")
SINCE = {
    "": "at any time",
    "900": "in the last 15 minutes",
    "3600": "in the last hour",
    "86400": "in the last day",
    "604800": "in the last week",
}
STATUSES = [("", "any"), *((status.value, status.value.replace("_", " ")) for status in Status)]
PER_PAGE = 50
THINNEST = 0.5  # per cent of a waterfall that is seen


def _moment(text: str) -> float | None:
    """Return a moment as a browser sends it, taken as UTC, in seconds since the epoch."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UsageError(f"{text!r} is no moment; write one such as 2026-11-25T14:30") from None


def _chosen(value: str, among: Mapping[str, str] | list[tuple[str, str]]) -> str:
    known = dict(among)
    if value not in known:
        raise UsageError(f"{value!r} is none of {', '.join(name for name in known if name)}")
    return value


def _found(form: Form, name: str) -> list[operating.Shown]:
    """Return a page of runs and one more, where there is one.

    What can't be understood is said beside its field.
    """
    here, pipelines, status, since, before = (
        console_context(),
        list[str](),
        "",
        "",
        request.args.get("before", ""),
    )
    with form.blaming("pipeline"):
        pipelines = identifiers(here.host, form["pipeline"]) if form["pipeline"] else []
    with form.blaming("status"):
        status = _chosen(form["status"], STATUSES)
    with form.blaming("since"):
        since = _chosen(form["since"], SINCE)
    with form.blaming("until"):
        until = _moment(form["until"])
        if until is not None and not before:
            before = first_id(until)
    if form.errors:
        return []
    with form.blaming("consumer"):
        return operating.list_runs(
            here.engine,
            environment=name,
            pipelines=pipelines,
            consumer=form["consumer"] or None,
            status=status or None,
            request_id=form["id"] or None,
            since=time.time() - int(since) if since else None,
            before=before if is_run_id(before) else None,
            limit=PER_PAGE + 1,
        )
    return []


def _table(name: str, form: Form, kept: dict[str, str]) -> str:
    rows = _found(form, name)
    last = rows[PER_PAGE - 1]["id"] if len(rows) > PER_PAGE else None
    return render(
        "_runs.html",
        env=name,
        runs=rows[:PER_PAGE],
        last=last,
        kept=kept,
        later=request.args.get("before"),
    )


def _kept(form: Form) -> dict[str, str]:
    return {field: form[field] for field in FIELDS if form[field]}


@page("/runs", needs=Role.VIEWER)
def runs() -> Response:
    """List runs, newest first."""
    name, form = environment(), filters(*FIELDS)
    if is_run_id(form["id"]):
        return Response(
            status=303, headers={"Location": url_for("console.runs_one", run=form["id"])}
        )
    kept = _kept(form)
    table = _table(name, form, kept)
    following = not form.errors and "before" not in request.args and not form["until"]
    return show_form(
        "runs.html",
        form,
        env=name,
        environments=console_context().environments(),
        table=live_part(table),
        kept=kept,
        statuses=STATUSES,
        moments=list(SINCE.items()),
        pipelines=in_order(console_context().host.catalog.loaded),
        following=following,
        paused=request.args.get("live") == "off",
    )


@page("/runs/rows", needs=Role.VIEWER)
def runs_rows() -> Response:
    """Show the newest runs anew; the page asks for it now and then."""
    form = filters(*FIELDS)
    return live(_table(environment(), form, _kept(form)))


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a waterfall: where it begins and how long it is, in per cent."""

    x: float
    width: float
    failed: bool


def _bars(step: StepRecord, whole: float) -> list[Bar]:
    bars = []
    for attempt in attempts_of(step):
        width = max(THINNEST, 100 * attempt.ms / whole)
        bars.append(
            Bar(
                round(max(0.0, min(100 - width, 100 * attempt.at / whole)), 2),
                round(width, 2),
                bool(attempt.error),
            )
        )
    return bars


def _state(shown: dict[str, Any]) -> str:
    whole = span_of(shown["steps"])
    steps = [(step, attempts_of(step), _bars(step, whole)) for step in shown["steps"]]
    return render("_run.html", run=shown, steps=steps, whole=whole / 1000)


def _one(run: str, form: Form) -> Response:
    shown = console_context().steering.show(run)
    over = operating.is_over(shown["status"])
    last = max((step.number for step in shown["steps"]), default=0)
    return show_form(
        "run.html", form, run=shown, over=over, last=last, state=live_part(_state(shown))
    )


@page("/runs/<run>", needs=Role.VIEWER)
def runs_one(run: str) -> Response:
    """Show a run."""
    return _one(run, Form(step="1"))


@page("/runs/<run>/state", needs=Role.VIEWER)
def runs_state(run: str) -> Response:
    """Show anew how far a run is; its page asks for it while it is not over."""
    shown = console_context().steering.show(run)
    if operating.is_over(shown["status"]):
        return Response(status=204, headers={"HX-Refresh": "true"})
    return live(_state(shown))


@page("/runs/<run>/cancel", needs=Role.OPERATOR, method="POST")
def runs_cancel(run: str) -> Response:
    """End a durable run, and those that it started."""
    form = Form(step="1")
    with form.blaming("state"):
        console_context().steering.cancel(user().name, run)
        return done(
            "The run is cancelled; what is under way ends at its next step.", "runs_one", run=run
        )
    return _one(run, form)


@page("/runs/<run>/redeliver", needs=Role.OPERATOR, method="POST")
def runs_redeliver(run: str) -> Response:
    """Start a run again with what it was given, from a step on where one is named."""
    form = Form()
    with form.blaming("step"):
        step = form["step"] or "1"
        if not step.isascii() or not step.isdigit() or not 1 <= int(step[:9]) <= 1_000_000:  # noqa: PLR2004  as the command has it
            raise UsageError(f"{step!r} is no step; write its number")
        new, status = console_context().steering.redeliver(user().name, run, step=int(step))
        said = "accepted; a worker takes it up" if status is None else f"run here and now: {status}"
        return done(f"This is the new run. It was {said}.", "runs_one", run=new)
    return _one(run, form)
