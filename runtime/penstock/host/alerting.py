"""The thread that works on alerts.

It is separate from housekeeping, because a receiver may take long to answer. Every kind of process
has one, so alerts are evaluated where only a worker or only the console runs.
"""

from __future__ import annotations

from penstock import threads
from penstock.access.encryption import load_secret_box
from penstock.alerts.rounds import LEASE, ROUND_S, make_round
from penstock.db import leases
from penstock.db.engine import Engine
from penstock.host.background import BackgroundErrors
from penstock.host.parts import HostParts
from penstock.host.signals import Signals
from penstock.runs.ids import new_run_id


class Alerting:
    """Makes a round every fifteen seconds, the first one fifteen seconds after the start."""

    def __init__(self, parts: HostParts, signals: Signals) -> None:
        self._settings = parts.settings
        self._database = parts.database
        self._signals = signals
        self._errors = BackgroundErrors(parts.log_throttle)
        self._process = new_run_id()

    def run(self, engine: Engine, thread: threads.MonitoredThread) -> None:
        """Make rounds until stopped; then let another process continue at once."""
        stop, worked = self._signals.stop, False
        while not stop.wait(ROUND_S):
            thread.heartbeat()
            if self._database.away:
                continue
            with self._errors.logged("alerts"):
                worked = True
                make_round(engine, load_secret_box(self._settings), self._settings, self._process)
        if worked and not self._database.away:
            with self._errors.logged("alerts"):
                leases.release(engine, LEASE, self._process)
