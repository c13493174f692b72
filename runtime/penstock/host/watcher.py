"""Look at what would otherwise fail unseen: a silent database, and threads that are stuck."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from penstock import metrics, threads
from penstock.db.engine import Engine, writes
from penstock.db.liveness import SILENCE_LIMIT
from penstock.gate.compliance import State
from penstock.gate.rates import Limiter
from penstock.host.background import BackgroundErrors
from penstock.host.parts import HostParts
from penstock.host.signals import Signals

WATCH_INTERVAL_S = 0.5
DATABASE_SILENCE_S = 4.0  # for which a query may wait for a sign of the database
# Without a heartbeat for so long a thread counts as stuck. With all time limits of the database no
# round takes half of it.
STUCK_AFTER_S = 120.0
COUNTED_STATES = State.SERVED, State.NON_CONFORMANT, State.BLOCKED, State.DISABLED


class Watcher:
    """Watches the other threads of a process, and sets its gauges."""

    def __init__(
        self,
        parts: HostParts,
        limiter: Limiter,
        signals: Signals,
        follower_thread: Callable[[], int | None],
    ) -> None:
        self._parts = parts
        self._database = parts.database
        self._limiter = limiter
        self._signals = signals
        self._follower_thread = follower_thread
        self._errors = BackgroundErrors(parts.log_throttle)
        self._stuck: frozenset[str] = frozenset()
        self._log = structlog.get_logger("penstock")

    def run(self, _engine: Engine, thread: threads.MonitoredThread) -> None:
        """Look twice a second, until stopped."""
        while not self._signals.stop.wait(WATCH_INTERVAL_S):
            thread.heartbeat()
            silent_s = SILENCE_LIMIT.of(self._follower_thread())
            if silent_s >= DATABASE_SILENCE_S:
                since = datetime.fromtimestamp(time.time() - silent_s, UTC)
                self._database.lost(
                    f"the database has not answered since {since:%H:%M:%S} UTC", since.timestamp()
                )
            stuck = frozenset(item.name for item in threads.stuck())
            for name in sorted(stuck - self._stuck):
                self._log.error(
                    "a thread is stuck: /-/health is 503, restart this process",
                    thread=name,
                    limit=STUCK_AFTER_S,
                )
            self._stuck = stuck
            with self._errors.logged("telling the metrics"):
                self._set_gauges()

    def _set_gauges(self) -> None:
        away = self._database.away
        metrics.set_gauge("penstock_start_time_seconds", self._parts.started_at)
        metrics.set_gauge("penstock_database_up", not away)
        metrics.set_gauge("penstock_database_read_only", writes.read_only and not away)
        metrics.set_gauge("penstock_database_disk_full", writes.full)
        metrics.set_gauge(
            "penstock_threads_stuck", sum(thread.stuck for thread in threads.running())
        )
        if self._limiter.shared:
            metrics.set_gauge("penstock_redis_up", not self._limiter.away)
        evaluated = self._parts.view.evaluated
        for listener, side in (("external", evaluated.external), ("internal", evaluated.internal)):
            states = Counter(evaluation.state for evaluation in side.values())
            for state in COUNTED_STATES:
                metrics.set_gauge("penstock_pipelines", states[state], listener, state.value)
