"""Outcomes of runs as the engine stores them: a reply, or the problem that ended the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.contracts.sanitize import to_plain
from penstock.durable.engine import Document
from penstock.endpoints.replies import Answer
from penstock.errors import PipelineError, Refusal
from penstock.runs.failures import Failure
from penstock.runs.interrupts import ResultNotStorable
from penstock.runs.step_records import StepRecord

MAX_STORED_BYTES = 64 * 1024 * 1024  # of the result of a step, or the reply of a run


def outcome_of(
    answer: Answer | Refusal,
    steps: Sequence[StepRecord],
    micros: int,
    failure: Failure | None = None,
) -> Document:
    """Return the outcome of a run; `micros` is its duration in microseconds."""
    outcome: Document = {"steps": msgspec.to_builtins(list(steps)), "micros": micros}
    if failure is not None:
        outcome["failure"] = msgspec.to_builtins(failure)
    if isinstance(answer, Refusal):
        return {**outcome, "status": answer.status, "problem": problem_document(answer)}
    status, headers, body = answer
    return {**outcome, "status": status, "headers": [list(item) for item in headers], "body": body}


def check_size(answer: Answer) -> None:
    """Raise ResultNotStorable where a reply is too large."""
    if len(answer[2]) > MAX_STORED_BYTES:
        raise ResultNotStorable(
            f"its reply has {len(answer[2])} bytes; at most {MAX_STORED_BYTES} can be stored"
        )


def problem_document(refusal: Refusal) -> Document:
    """Return a refusal as the engine stores it."""
    document: Document = {
        "status": refusal.status,
        "code": refusal.code,
        "title": refusal.title,
        "detail": refusal.detail,
    }
    document["headers"] = [list(item) for item in refusal.headers]
    document["extra"] = to_plain(refusal.extra)
    if isinstance(refusal, PipelineError):
        document["permanent"] = refusal.permanent
    return document


def refusal_of(document: Mapping[str, Any]) -> PipelineError:
    """Return the refusal that `problem_document` has stored."""
    headers, permanent = document["headers"], document.get("permanent")
    error = PipelineError(
        document["status"],
        document["title"],
        document["detail"],
        type=document["code"],
        headers=headers,
        permanent=permanent,
    )
    error.extra = dict(document["extra"])
    return error
