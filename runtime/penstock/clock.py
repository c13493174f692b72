"""The clock that all hosts share: the database's, if they share one.

Times that one host writes and another compares use this clock: arrival of runs, claims, pauses,
deadlines, schedules. A host whose own clock is wrong therefore ends nothing early.

Between two measurements the clock runs on the monotonic clock, so setting a host's clock changes
nothing. Before the first measurement, and on SQLite, it is the host's own clock. The expiry of
credentials uses the host's clock, as issuers of external tokens use theirs.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

_offset: float | None = None  # seconds from the monotonic clock to the shared clock


def now() -> float:
    """Return the shared time in seconds since the epoch."""
    return time.time() if _offset is None else time.monotonic() + _offset


def utc_now() -> datetime:
    """Return the shared time as a datetime in UTC."""
    return datetime.fromtimestamp(now(), UTC)


def seconds_ahead() -> float:
    """Return how many seconds the shared clock is ahead of this host's clock."""
    return 0.0 if _offset is None else now() - time.time()


def reset() -> None:
    """Use the host's clock until the next measurement."""
    global _offset  # noqa: PLW0603  one clock a process
    _offset = None


def record_measurement(asked_at: float, database_time: float, answered_at: float) -> None:
    """Adjust the shared clock to the database's time.

    `asked_at` and `answered_at` are `time.monotonic()` readings before and after the query, so the
    measurement is as exact as the query was short. The clock changes only as far as the measurement
    contradicts it. Slow queries therefore do not make it jump.
    """
    global _offset  # noqa: PLW0603  one clock a process
    lower, upper = database_time - answered_at, database_time - asked_at
    _offset = (lower + upper) / 2 if _offset is None else min(max(_offset, lower), upper)
