"""State of gunicorn's arbiter that its workers inherit by fork.

The arbiter creates it when it reads its configuration, before the first worker. Workers see
`draining` change, because it is shared memory; everything else is a copy from the time of the fork.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
from contextlib import suppress

from penstock.server.inherited import InheritedView
from penstock.settings import Settings

PROCESS_ID = struct.Struct("q")
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


class ArbiterState:
    """What the arbiter and its workers know of each other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.view = InheritedView(settings)  # one copy, in memory that all workers share
        # Digest of the messages that the last successful rehearsal logged. A worker with the same
        # messages does not log them again.
        self.reported = b""
        self.ready: set[int] = set()  # process ids of workers that answer calls
        self._ready_end, self._announce_end = os.pipe()
        os.set_blocking(self._ready_end, False)
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
        os.write(self._announce_end, PROCESS_ID.pack(os.getpid()))

    def collect_ready(self, seconds: float = 0.0) -> None:
        """Receive which workers became ready. Wait up to `seconds` for the first.

        The arbiter calls this often, so that the pipe never fills.
        """
        if select.select([self._ready_end], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                data = os.read(self._ready_end, 512 * PROCESS_ID.size)
                self.ready.update(pid for (pid,) in PROCESS_ID.iter_unpack(data))

    def note_signal(self, number: int) -> None:
        """Remember a signal, if it stops the arbiter."""
        if number in STOP_SIGNALS:
            self._signals.add(number)

    def is_stopping(self) -> bool:
        """Return whether a signal to stop was received."""
        return bool(self._signals)
