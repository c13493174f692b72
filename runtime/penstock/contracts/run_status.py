"""The states of a run: the one list of them, and which of them are final."""

from __future__ import annotations

from enum import StrEnum

FIRST_ERROR_STATUS, FIRST_SERVER_ERROR_STATUS = 400, 500


class Status(StrEnum):
    """The state of a run."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CLIENT_ERROR = "client_error"  # its handler answered 4xx
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({Status.ACCEPTED, Status.RUNNING})
FINISHED = frozenset(Status) - UNFINISHED


def status_of(http_status: int, problem: str | None) -> Status:
    """Return the status of a run by the HTTP status and the problem type that it ended with."""
    if http_status < FIRST_ERROR_STATUS:
        return Status.SUCCEEDED
    if problem == "timed-out":
        return Status.TIMED_OUT
    return Status.CLIENT_ERROR if http_status < FIRST_SERVER_ERROR_STATUS else Status.FAILED
