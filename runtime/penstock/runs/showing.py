"""Say what became of a run: to its consumer, from its record and from what the engine holds."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from penstock.db.rows import Row
from penstock.runs.engine import Held, State, StepHeld
from penstock.runs.failures import Failure
from penstock.runs.ids import millis_of
from penstock.runs.records import UNFINISHED, Status, status_of
from penstock.runs.steps import Attempt, StepRecord

ENGINE = {"DBOS.sleep": "sleep"}
FAR = {State.WAITING: Status.ACCEPTED, State.RUNNING: Status.RUNNING, State.BROKEN: Status.FAILED}


def status_now(row: Row, held: Held | None) -> Status:
    """Return what became of a run. The engine knows first; its record follows within a second."""
    written = Status(row["status"])
    if held is None:
        return written
    if held.state is State.DONE and held.outcome is not None:
        return status_of(held.outcome["status"], (held.outcome.get("problem") or {}).get("code"))
    if written not in UNFINISHED:
        return written
    if held.state is State.CANCELLED or row["cancelled_by"]:
        return Status.CANCELLED if row["cancelled_by"] else Status.TIMED_OUT
    return FAR.get(held.state, written)


def told_run(row: Row, held: Held | None) -> dict[str, object]:
    """Return a durable run as its consumer sees it: how far it is, and what came out."""
    status = status_now(row, held)
    came = datetime.fromtimestamp(millis_of(row["id"]) / 1000, UTC)
    started = row["started_at"] or (datetime.fromtimestamp(held.started_at, UTC) if held is not None and held.started_at else None)
    ended = None if status in UNFINISHED else _ended(row, held, started)
    document: dict[str, object] = {"id": row["id"], "status": status.value, "pipeline": row["pipeline"], "accepted_at": _moment(came)}
    if status is not Status.ACCEPTED and started is not None:
        document["started_at"] = _moment(max(came, started))  # the engine may count whole seconds
    if ended is not None:
        document["ended_at"] = _moment(ended)
    if row["progress"]:
        document["progress"] = row["progress"]
    if status in UNFINISHED:
        return document
    outcome = held.outcome if held is not None else None
    if outcome is not None and "problem" in outcome:
        document["problem"] = problem_of(outcome["problem"], row["id"])
    elif outcome is not None:
        document |= _result(outcome)
    elif status is not Status.SUCCEEDED:
        document["problem"] = _ended_otherwise(status, row)
    return document


def failure_in(outcome: Mapping[str, Any]) -> Failure | None:
    """Return why a run failed, from how it ended; its consumer is not told."""
    return msgspec.convert(outcome["failure"], Failure) if "failure" in outcome else None


def _ended(row: Row, held: Held | None, started: datetime | None) -> datetime | None:
    """Return when a run ended: what it took counts, for engines and databases count whole seconds."""
    if started is not None and row["micros"] is not None:
        return started + timedelta(microseconds=row["micros"])
    if held is None or not held.ended_at:
        return None
    if started is not None and held.outcome is not None:
        return started + timedelta(microseconds=held.outcome["micros"])
    return datetime.fromtimestamp(held.ended_at, UTC)


def problem_of(kept: Mapping[str, Any], run: str) -> dict[str, object]:
    """Return a refusal as a problem document (RFC 9457)."""
    return {**kept["extra"], "type": kept["code"], "title": kept["title"], "status": kept["status"], "detail": kept["detail"], "run": run}


def _ended_otherwise(status: Status, row: Row) -> dict[str, object]:
    code = {Status.CANCELLED: "cancelled", Status.TIMED_OUT: "timed-out"}.get(status, row["problem"] or "pipeline-failed")
    said = {"cancelled": (409, "The run was cancelled."), "timed-out": (504, "The run took longer than it may.")}
    usual, detail = said.get(code, (500, "The pipeline failed; its operator finds the reason under this run."))
    return {"type": code, "title": code.replace("-", " ").capitalize(), "status": row["http_status"] or usual, "detail": detail, "run": row["id"]}


def _result(outcome: Mapping[str, Any]) -> dict[str, object]:
    """Return a reply as members of a JSON document: JSON as it is, text as text, anything else in base64."""
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


def steps_held(held: Sequence[StepHeld]) -> list[StepRecord]:
    """Return the steps of a run as the engine holds them, its own waits and children among them, each with its number."""
    steps: list[StepRecord] = []
    first = min((item.started_at for item in held), default=0.0)
    for item in held:
        left = item.left if isinstance(item.left, dict) else {}
        at, ms = round((item.started_at - first) * 1000, 3), round(max(0.0, item.ended_at - item.started_at) * 1000, 3)
        if "record" in left:  # its moments are those of the process that did it, which may not be the first one
            record = msgspec.convert(left["record"], StepRecord)
            for attempt in record.attempts:
                attempt.at = round(attempt.at - record.at + at, 3)
            record.at, record.number = at, item.number
        else:
            name = ENGINE.get(item.name, item.name)
            if name == "sleep" and "left" in left:  # what is kept is until when
                ms = round(max(0.0, min(left["left"], time.time()) - item.started_at) * 1000, 3)
            record = StepRecord(name, at, ms, failed="problem" in left or "out_of_time" in left, number=item.number)
        steps.append(record)
    return steps


def attempts_of(step: StepRecord) -> list[Attempt]:
    """Return the attempts of a step; one that the engine did by itself, such as a wait, counts as one."""
    return step.attempts or [Attempt(step.at, step.ms, "failed" if step.failed else "")]


def span_of(steps: Sequence[StepRecord]) -> float:
    """Return how long steps took together, in milliseconds: the length of their waterfall."""
    return max([0.001, *(step.at + step.ms for step in steps)])
