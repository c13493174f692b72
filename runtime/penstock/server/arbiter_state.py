"""State of gunicorn's arbiter that its workers inherit by fork.

The arbiter creates it when it reads its configuration, before the first worker. Workers see
`draining` change, because it is shared memory; everything else is a copy from the time of the fork.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
from contextlib import suppress

from penstock.server.inherited import InheritedView
from penstock.settings import Settings

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


class ArbiterState:
    """What the arbiter and its workers know of each other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.view = InheritedView(settings)  # one copy, in memory that all workers share
        # Digest of the messages that the last successful rehearsal logged. A worker with the same
        # messages does not log them again.
        self.reported = b""
        self._ready, self._announce = os.pipe()  # one byte for each worker that answers calls
        os.set_blocking(self._ready, False)
        self._draining = mmap.mmap(-1, 1)
        self._signals: set[int] = set()

    def start_draining(self) -> None:
        """Tell all workers that this server is about to stop."""
        self._draining[0] = 1

    def is_draining(self) -> bool:
        """Return whether this server is about to stop."""
        return self._draining[0] == 1

    def announce_ready(self) -> None:
        """Tell the arbiter, from a worker, that the worker answers calls."""
        os.write(self._announce, b"1")

    def clear_ready(self) -> None:
        """Forget the workers that are ready so far."""
        with suppress(BlockingIOError):
            os.read(self._ready, 4096)

    def count_ready(self, seconds: float) -> int:
        """Return how many more workers became ready. Wait up to `seconds` for the first."""
        if not select.select([self._ready], [], [], seconds)[0]:
            return 0
        return len(os.read(self._ready, 4096))

    def note_signal(self, number: int) -> None:
        """Remember a signal, if it stops the arbiter."""
        if number in STOP_SIGNALS:
            self._signals.add(number)

    def is_stopping(self) -> bool:
        """Return whether a signal to stop was received."""
        return bool(self._signals)
