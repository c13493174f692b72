"""Outcomes that are counted: statuses of runs, problem types of rejected calls, and their classes.

Outcomes of runs that no call waited for begin with `run:`.
"""

from __future__ import annotations

from penstock.contracts.problem_types import CALL_PROBLEMS
from penstock.contracts.run_status import Status

RUN = "run:"
CLASSES = ("succeeded", "client_error", "rejected", "failed")
# "accepted" is the 202 of a durable run, "looked-up" a reply of the status API.
SUCCESSES = frozenset({Status.SUCCEEDED, "accepted", "replayed", "looked-up"})
FAULTS = frozenset(
    {
        Status.FAILED,
        Status.TIMED_OUT,
        "pipeline-busy",
        "pipeline-unavailable",
        "host-stopping",
        "given-up",
        "not-begun",
    }
)
# Outcomes of calls that were rejected before their handler began.
REJECTIONS = frozenset(problem.name for problem in CALL_PROBLEMS)


def class_of(outcome: str) -> str:
    """Return the class of an outcome: succeeded, client_error, rejected or failed."""
    if outcome in SUCCESSES:
        return "succeeded"
    if outcome in FAULTS:
        return "failed"
    return "rejected" if outcome in REJECTIONS else "client_error"
