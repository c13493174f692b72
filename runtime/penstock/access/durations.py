"""Lengths of time as people write them: 30s, 15m, 12h, 7d or 2w."""

from __future__ import annotations

import re
from datetime import timedelta

from penstock.errors import UsageError

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

LONGEST = timedelta(days=36_525)


def read_duration(text: str) -> timedelta:
    """Return a length of time. Raises UsageError."""
    match = re.fullmatch(r"([1-9]\d{0,5})([smhdw])", text, re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is no length of time; write 30s, 15m, 12h, 7d or 2w")
    found = timedelta(**{UNITS[match[2]]: int(match[1])})
    if found > LONGEST:
        raise UsageError(f"{text!r} is longer than a hundred years; leave it out, or write less")
    return found
