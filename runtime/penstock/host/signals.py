"""The events by which the threads of a process are woken and stopped. One set for each start."""

from __future__ import annotations

import threading


class Signals:
    """Events of one start. A fork would copy them locked, so a child makes its own."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.changed = threading.Event()  # the access data may have changed: follow it at once
        self.due = threading.Event()  # housekeeping is due at once

    def stop_all(self) -> None:
        """End every thread, also those that wait."""
        self.stop.set()
        self.changed.set()
        self.due.set()
