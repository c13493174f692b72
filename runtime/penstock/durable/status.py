"""The status of a run, from its record and from what the engine stores."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from penstock import clock
from penstock.contracts.run_status import UNFINISHED, Status, status_of
from penstock.contracts.sanitize import as_json
from penstock.db.run_tables import RunRow
from penstock.db.runs import FullRunRow
from penstock.durable.engine import EngineRun, EngineStep, State
from penstock.errors import title_of
from penstock.runs.failures import Failure
from penstock.runs.ids import millis_of
from penstock.runs.step_records import Attempt, StepRecord, shifted

PROBLEM = "application/problem+json"
ENGINE_STEPS = {"DBOS.sleep": "sleep"}
STATUS_IN_ENGINE = {
    State.WAITING: Status.ACCEPTED,
    State.RUNNING: Status.RUNNING,
    State.BROKEN: Status.FAILED,
}


def current_status(row: FullRunRow, engine_run: EngineRun | None) -> Status:
    """Return the status of a run. The engine knows it first; the record follows in a second."""
    written = Status(row.status)
    if engine_run is None:
        return written
    if engine_run.state is State.DONE and engine_run.outcome is not None:
        return status_of(
            engine_run.outcome["status"], (engine_run.outcome.get("problem") or {}).get("code")
        )
    if written not in UNFINISHED:
        return written
    if engine_run.state is State.CANCELLED or row.cancelled_by:
        return Status.CANCELLED if row.cancelled_by else Status.TIMED_OUT
    return STATUS_IN_ENGINE.get(engine_run.state, written)


def run_document(row: FullRunRow, engine_run: EngineRun | None) -> dict[str, object]:
    """Return a durable run as its consumer sees it: status, progress, and result or problem."""
    status = current_status(row, engine_run)
    came, started = received_at(row.id), started_of(row, engine_run)
    ended = None if status in UNFINISHED else ended_of(row, engine_run)
    document: dict[str, object] = {
        "id": row.id,
        "status": status.value,
        "pipeline": row.pipeline,
        "accepted_at": _moment(came),
    }
    if status is not Status.ACCEPTED and started is not None:
        document["started_at"] = _moment(started)
    if ended is not None:
        document["ended_at"] = _moment(ended)
    if progress := progress_of(row, engine_run):
        document["progress"] = progress
    if status in UNFINISHED:
        return document
    outcome = engine_run.outcome if engine_run is not None else None
    if outcome is not None and "problem" in outcome:
        document["problem"] = problem_of(outcome["problem"], row.id)
    elif outcome is not None:
        document |= _result(outcome)
    elif status is not Status.SUCCEEDED:
        document["problem"] = _ended_otherwise(status, row)
    return document


def failure_in(outcome: Mapping[str, Any]) -> Failure | None:
    """Return the failure in an outcome, for operators only."""
    return msgspec.convert(outcome["failure"], Failure) if "failure" in outcome else None


def ending_of(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Finished` from an outcome."""
    problem = outcome.get("problem") or {}
    started = outcome.get("started_at")
    return {
        "status": status_of(outcome["status"], problem.get("code")),
        "http_status": outcome["status"],
        "micros": outcome["micros"],
        "problem": problem.get("code"),
        "detail": problem.get("detail"),
        "failure": failure_in(outcome),
        "started_at": datetime.fromtimestamp(started, UTC) if started is not None else None,
    }


def body_of(outcome: Mapping[str, Any], run: str) -> tuple[str, bytes]:
    """Return media type and body of a run's reply, as a call would get them."""
    if "problem" in outcome:
        return PROBLEM, as_json(problem_of(outcome["problem"], run))
    return (
        next((value for name, value in outcome["headers"] if name.lower() == "content-type"), ""),
        outcome["body"],
    )


# Moments come from the outcome of a run, which is what its record will have, else from the record,
# else from the engine, which may store whole seconds. Clocks may differ, but no run starts before
# it was received or ends before it started.


def received_at(run: str) -> datetime:
    """Return when the call of a run was received."""
    return datetime.fromtimestamp(millis_of(run) / 1000, UTC)


def _outcome_of(engine_run: EngineRun | None) -> Mapping[str, Any] | None:
    return engine_run.outcome if engine_run is not None else None


def started_of(row: RunRow, engine_run: EngineRun | None) -> datetime | None:
    """Return when a run first started."""
    outcome = _outcome_of(engine_run)
    moment = outcome.get("started_at") if outcome is not None else None
    if moment is None and row.started_at is not None:
        moment = row.started_at.timestamp()
    if moment is None and engine_run is not None:
        moment = engine_run.started_at
    return max(received_at(row.id), datetime.fromtimestamp(moment, UTC)) if moment else None


def ended_of(row: RunRow, engine_run: EngineRun | None) -> datetime | None:
    """Return when a finished run ended."""
    started, outcome = started_of(row, engine_run), _outcome_of(engine_run)
    micros = outcome["micros"] if outcome is not None else row.micros
    if started is not None and micros is not None:
        return started + timedelta(microseconds=micros)
    if engine_run is None or not engine_run.ended_at:
        return None
    return max(started or received_at(row.id), datetime.fromtimestamp(engine_run.ended_at, UTC))


def progress_of(row: FullRunRow, engine_run: EngineRun | None) -> dict[str, object] | None:
    """Return the last progress that a run has reported."""
    outcome = _outcome_of(engine_run)
    progress: dict[str, object] | None = outcome.get("progress") if outcome is not None else None
    return progress or row.progress


def problem_of(problem: Mapping[str, Any], run: str) -> dict[str, object]:
    """Return a stored refusal as a problem document (RFC 9457)."""
    return {
        **problem["extra"],
        "type": problem["code"],
        "title": problem["title"],
        "status": problem["status"],
        "detail": problem["detail"],
        "run": run,
    }


def _ended_otherwise(status: Status, row: FullRunRow) -> dict[str, object]:
    code = {Status.CANCELLED: "cancelled", Status.TIMED_OUT: "timed-out"}.get(
        status, row.problem or "pipeline-failed"
    )
    texts = {
        "cancelled": (409, "The run was cancelled."),
        "timed-out": (504, "The run took longer than it may."),
    }
    usual, detail = texts.get(
        code, (500, "The pipeline failed; its operator finds the reason under this run.")
    )
    return {
        "type": code,
        "title": title_of(code),
        "status": row.http_status or usual,
        "detail": detail,
        "run": row.id,
    }


def _result(outcome: Mapping[str, Any]) -> dict[str, object]:
    """Return a reply as members of a JSON document: JSON and text as they are, else base64."""
    body: bytes = outcome["body"]
    kind = next((value for name, value in outcome["headers"] if name.lower() == "content-type"), "")
    if not body:
        return {"result": None}
    plain = kind.partition(";")[0].strip().lower()
    if plain == "application/json" or plain.endswith("+json"):
        return {"result": msgspec.Raw(body)}
    if plain.startswith("text/"):
        return {"result": body.decode(errors="replace"), "content_type": kind}
    return {"result": base64.b64encode(body).decode(), "content_type": kind, "encoding": "base64"}


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def steps_held(
    engine_steps: Sequence[EngineStep], started: datetime | None, from_step: int | None = None
) -> list[StepRecord]:
    """Return the steps of a run as the engine stores them, with pauses and child runs.

    Their times are relative to `started`, when the run first started. Those before `from_step` were
    copied from another run, and have no time in this one.
    """
    steps: list[StepRecord] = []
    first = min(
        [
            *(item.started_at for item in engine_steps if item.number >= (from_step or 0)),
            *([started.timestamp()] if started is not None else []),
        ],
        default=0.0,
    )
    for item in engine_steps:
        output = item.output if isinstance(item.output, dict) else {}
        if "record" in output:
            steps.append(
                msgspec.structs.replace(
                    msgspec.convert(output["record"], StepRecord), number=item.number
                )
            )
            continue
        at, ms = (
            round((item.started_at - first) * 1000, 3),
            round(max(0.0, item.ended_at - item.started_at) * 1000, 3),
        )
        name = ENGINE_STEPS.get(item.name, item.name)
        if name == "sleep" and "left" in output:  # its output is the end of the pause
            ms = round(max(0.0, min(output["left"], clock.now()) - item.started_at) * 1000, 3)
        steps.append(
            StepRecord(
                name,
                at,
                ms,
                failed="problem" in output or "out_of_time" in output,
                number=item.number,
            )
        )
    return marked_copies(steps, from_step)


def marked_copies(steps: Sequence[StepRecord], from_step: int | None) -> list[StepRecord]:
    """Return steps with those marked that were copied from another run."""
    return [
        msgspec.structs.replace(shifted(step, -step.at), copied=True)
        if from_step and 0 < step.number < from_step
        else step
        for step in steps
    ]


def attempts_of(step: StepRecord) -> list[Attempt]:
    """Return the attempts of a step; an operation of the engine counts as one attempt."""
    return step.attempts or [Attempt(step.at, step.ms, "failed" if step.failed else "")]


def span_of(steps: Sequence[StepRecord]) -> float:
    """Return the length of the waterfall of steps, in milliseconds."""
    return max([0.001, *(step.at + step.ms for step in steps if not step.copied)])
