"""The time that hosts share: the database's, where they share one.

What a host writes for another one to compare (when a run came, until when a claim or a pause holds,
deadlines, ticks) is told by this clock, so hosts whose clocks differ end nothing early. It runs on
the monotonic clock between two measurements: a host's clock that is set while it runs changes
nothing. Until the first measurement, and on SQLite, it is the host's clock. The expiry of
credentials is judged by the host's clock, as the issuers of outside tokens judge by theirs.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

_offset: float | None = None  # what the monotonic clock lacks


def now() -> float:
    """Return the shared time in seconds since the epoch."""
    return time.time() if _offset is None else time.monotonic() + _offset


def utc_now() -> datetime:
    """Return the shared time."""
    return datetime.fromtimestamp(now(), UTC)


def seconds_ahead() -> float:
    """Return the seconds that the shared time is ahead of this host's clock."""
    return 0.0 if _offset is None else now() - time.time()


def reset() -> None:
    """Go by the host's clock from now on."""
    global _offset  # noqa: PLW0603  one clock a process
    _offset = None


def record_measurement(asked: float, answer: float, answered: float) -> None:
    """Take the database's time, read between two readings of the monotonic clock.

    It is as exact as the way there and back was short.

    What is known is corrected only as far as it contradicts that, so slow answers don't make the
    shared time jump.
    """
    global _offset  # noqa: PLW0603  one clock a process
    least, most = answer - answered, answer - asked
    _offset = (least + most) / 2 if _offset is None else min(max(_offset, least), most)
