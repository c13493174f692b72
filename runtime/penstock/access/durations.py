"""Durations as users write them: 30s, 15m, 12h, 7d, 2w or 7 days."""

from __future__ import annotations

import re
from datetime import timedelta

from penstock.errors import UsageError, quoted

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
WRITTEN = re.compile(
    r"\s*([1-9]\d{0,5})\s*([smhdw]|seconds?|minutes?|hours?|days?|weeks?)\s*",
    re.ASCII | re.IGNORECASE,
)

MAX_DURATION = timedelta(days=36_525)


def read_duration(text: str) -> timedelta:
    """Return a duration. Raises UsageError."""
    match = WRITTEN.fullmatch(text)
    if match is None:
        raise UsageError(f"{quoted(text)} is no duration; write 30s, 15m, 12h, 7d or 2w")
    duration = timedelta(**{UNITS[match[2][0].lower()]: int(match[1])})
    if duration > MAX_DURATION:
        raise UsageError(
            f"{quoted(text)} is longer than a hundred years; leave it out, or write less"
        )
    return duration
