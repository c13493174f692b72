"""Heartbeats of a worker process: other workers take over from one that sends none."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from penstock.db import processes
from penstock.db.engine import Engine, open_engine
from penstock.runs.ids import new_run_id

INTERVAL_S = 1.0
TIMEOUT_S = 6.0  # without a heartbeat, after which a worker counts as dead
LEASE_S = 6.0  # that a worker has to take over from a dead one


class Heartbeat:
    """The registration of this process, and the time of its last heartbeat.

    Heartbeats use a database connection of their own: no other query may delay them.
    """

    def __init__(self, database_url: str) -> None:
        self.process = new_run_id()
        self.gap = 0.0  # seconds between the last two heartbeats
        self._engine: Engine = open_engine(database_url, reserved=True, create=False)
        # `time.monotonic()` reading of the last heartbeat that the database accepted
        self._sent_at = float("inf")

    def register(self, environment_id: int, pipelines: Sequence[str]) -> None:
        """Register this process with the ids of the durable pipelines that it performs.

        Raises DatabaseUnavailable.
        """
        processes.register(
            self._engine,
            self.process,
            kind="worker",
            environment_id=environment_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            pipelines=pipelines,
        )
        self._sent_at = time.monotonic()

    def send(self) -> bool:
        """Send a heartbeat. Return False where another worker has taken over from this one.

        Raises DatabaseUnavailable.
        """
        began = time.monotonic()
        if not processes.heartbeat(self._engine, self.process):
            return False
        self.gap = began - self._sent_at
        self._sent_at = began
        return True

    def end(self) -> None:
        """Report that this process ended in an orderly way. Raises DatabaseUnavailable."""
        processes.heartbeat(self._engine, self.process, ended=True)

    @property
    def overdue(self) -> bool:
        """Whether other workers may count this process as dead."""
        return time.monotonic() - self._sent_at >= TIMEOUT_S
