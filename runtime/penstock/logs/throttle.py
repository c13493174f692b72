"""Fewer lines.

What unauthenticated clients can cause is logged a few times a minute, and then counted.
"""

from __future__ import annotations

import threading
from typing import Any

LINES_PER_WINDOW = 5  # lines of a kind in a minute
WINDOW_S = 60.0
MAX_KINDS = 1024  # kinds that are told apart
Kind = tuple[tuple[str, str], ...]


class LogThrottle:
    """Lets a few lines of a kind through in a minute.

    Afterwards one line says how many were left out.

    What unauthenticated clients can cause would fill a disk otherwise. Kinds beyond those there is
    room for count as one together.
    """

    def __init__(self, log: Any, event: str = "calls left out of the log") -> None:  # noqa: ANN401  structlog's
        self._log = log
        self._event = event
        # Since when, and how many: those that began first come first.
        self._lines: dict[Kind, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def allow(self, now: float, **kind: str) -> bool:
        """Say whether one more line of a kind may be written.

        `now` is a `time.monotonic()` reading.
        """
        name: Kind = tuple(kind.items())
        with self._lock:
            if name not in self._lines and len(self._lines) >= MAX_KINDS:
                name = tuple((word, "others") for word in kind)
            began, lines = self._lines.get(name, (now, 0))
            over = now - began >= WINDOW_S
            if over:
                del self._lines[name]
            self._lines[name] = (now, 1) if over else (began, lines + 1)
        if over:
            self._tell(name, lines)
        return over or lines < LINES_PER_WINDOW

    def report_expired(self, now: float) -> None:
        """Say what was left out of minutes that are over."""
        with self._lock:
            ended = [
                (name, lines)
                for name, (began, lines) in self._lines.items()
                if now - began >= WINDOW_S
            ]
            for name, _ in ended:
                del self._lines[name]
        for name, lines in ended:
            self._tell(name, lines)

    def _tell(self, name: Kind, lines: int) -> None:
        if lines > LINES_PER_WINDOW:
            self._log.warning(self._event, number=lines - LINES_PER_WINDOW, **dict(name))
