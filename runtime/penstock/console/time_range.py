"""The time that a page shows: one range in the query of its address.

`?from=now-24h` ends now and moves on; `?from=2026-11-27T09:00&to=2026-11-27T10:00` is fixed.
Moments without a zone are in UTC; whole numbers are seconds since the epoch.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import request

from penstock.console.formatting import length_of

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
RELATIVE = re.compile(r"now-(\d{1,4})([mhdw])", re.ASCII)
SECONDS = re.compile(r"\d{1,11}", re.ASCII)
CHOICES = ("1h", "6h", "24h", "7d", "30d", "90d")
LONGEST_S = 400 * 86_400
LATEST_S = 253_402_300_799  # the end of the year 9999
BUCKETS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86_400, 7 * 86_400)
MAX_BUCKETS = 120


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range of time: `start` and `end` in seconds since the epoch, and how the query names it."""

    start: float
    end: float
    begin_text: str  # as in the query: now-24h, or a moment
    end_text: str = ""  # the same; "" is now
    fault: str = ""

    @property
    def live(self) -> bool:
        """Whether the range ends now, so that the page may poll."""
        return not self.end_text

    @property
    def length(self) -> float:
        """The length in seconds."""
        return self.end - self.start

    @property
    def query(self) -> dict[str, str]:
        """The part of a query that names this range."""
        return {"from": self.begin_text} | ({"to": self.end_text} if self.end_text else {})

    @property
    def bucket_s(self) -> int:
        """The length of an interval of a chart, in seconds: at most 120 of them."""
        fitting = (size for size in BUCKETS_S if self.length / size <= MAX_BUCKETS)
        return next(fitting, BUCKETS_S[-1])

    @property
    def text(self) -> str:
        """The range in words: “Last 24 hours”, or two moments in UTC."""
        match = RELATIVE.fullmatch(self.begin_text)
        if match and self.live:
            words = length_of(int(match[1]) * UNITS_S[match[2]])
            return f"Last {words.removeprefix('1 ')}"
        begin, end = (datetime.fromtimestamp(at, UTC) for at in (self.start, self.end))
        last = "now" if self.live else f"{end:%Y-%m-%d %H:%M} UTC"
        return f"{begin:%Y-%m-%d %H:%M} to {last}"


def time_range(default: str = "24h") -> TimeRange:
    """Return the range in the query; the default, for example "24h", where there is none.

    A value that can't be read has its fault in the result, which is then the default.
    """
    now = time.time()
    begin_text = request.args.get("from", "").strip() or f"now-{default}"
    end_text = request.args.get("to", "").strip()
    end_text = "" if end_text == "now" else end_text
    fault = ""
    try:
        begin = read_moment(begin_text, now)
        end = read_moment(end_text, now) if end_text else now
        if begin >= end:
            fault = "The time ends before it begins."
    except ValueError as error:
        fault = str(error)
    if fault:
        usual = f"now-{default}"
        return TimeRange(read_moment(usual, now), now, usual, "", fault)
    return TimeRange(max(begin, end - LONGEST_S), end, begin_text, end_text)


def offered_ranges() -> list[TimeRange]:
    """Return the ranges that the control of a page offers."""
    now = time.time()
    return [
        TimeRange(read_moment(f"now-{length}", now), now, f"now-{length}") for length in CHOICES
    ]


def read_moment(text: str, now: float) -> float:
    """Return a moment of the query in seconds since the epoch. Raises ValueError."""
    if match := RELATIVE.fullmatch(text):
        return now - int(match[1]) * UNITS_S[match[2]]
    if SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        at = -1.0
    if not 0 <= at <= LATEST_S:
        raise ValueError(f"“{text[:40]}” isn't a time; write now-24h, or 2026-11-25T14:30 in UTC.")
    return at
