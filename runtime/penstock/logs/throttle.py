"""Limit the log lines that unauthenticated clients can cause: a few a minute, then their number."""

from __future__ import annotations

import threading
from typing import Any

LINES_PER_WINDOW = 5  # of one kind
WINDOW_S = 60.0
MAX_KINDS = 1024  # further kinds count as one
Kind = tuple[tuple[str, str], ...]


class LogThrottle:
    """Allows a few lines of each kind in a minute, and then logs how many were dropped.

    Unauthenticated clients could otherwise fill a disk.
    """

    def __init__(self, log: Any, event: str = "calls left out of the log") -> None:  # noqa: ANN401  structlog's
        """`event` is the event of the line with the number of dropped lines."""
        self._log = log
        self._event = event
        # By kind: when its window began, and its number of lines. Oldest windows come first.
        self._lines: dict[Kind, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def allow(self, now: float, **kind: str) -> bool:
        """Return whether one more line of a kind may be written, and count it.

        `now` is a `time.monotonic()` reading.
        """
        name: Kind = tuple(kind.items())
        with self._lock:
            if name not in self._lines and len(self._lines) >= MAX_KINDS:
                name = tuple((word, "others") for word in kind)
            began_at, lines = self._lines.get(name, (now, 0))
            expired = now - began_at >= WINDOW_S
            if expired:
                del self._lines[name]
            self._lines[name] = (now, 1) if expired else (began_at, lines + 1)
        if expired:
            self._report(name, lines)
        return expired or lines < LINES_PER_WINDOW

    def report_expired(self, now: float) -> None:
        """Log how many lines were dropped in windows that are over."""
        with self._lock:
            expired = [
                (name, lines)
                for name, (began_at, lines) in self._lines.items()
                if now - began_at >= WINDOW_S
            ]
            for name, _ in expired:
                del self._lines[name]
        for name, lines in expired:
            self._report(name, lines)

    def _report(self, name: Kind, lines: int) -> None:
        if lines > LINES_PER_WINDOW:
            self._log.warning(self._event, number=lines - LINES_PER_WINDOW, **dict(name))
