"""Work that is due now and then: write key usage and reports, renew claims, delete what is old.

It has a thread of its own: a view that waits for a purge would be stale. Deleting is done a few
rows at a time with pauses between, because calls come first.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime

from penstock import clock, logs, threads
from penstock.db import (
    call_counts,
    call_totals,
    consumer_counts,
    consumer_totals,
    deployments,
    processes,
    rejected_calls,
    runs,
)
from penstock.db.api_keys import touch_keys
from penstock.db.clock import measure
from penstock.db.engine import Engine, close_idle_sessions, open_engine
from penstock.db.idempotency import PURGED_AT_A_TIME, purge
from penstock.durable.intake import engine_ids_of
from penstock.errors import PenstockError
from penstock.host.background import BackgroundErrors
from penstock.host.parts import HostParts
from penstock.host.presence import Presence
from penstock.host.reporter import ProcessReporter
from penstock.host.services import Services
from penstock.host.signals import Signals
from penstock.runs.ids import first_id

# Between two rounds: writes of key usage, renewals of claims, heartbeats, purges.
HOUSEKEEPING_INTERVAL_S = 15.0
SERVING_TIMEOUT_S = 3 * HOUSEKEEPING_INTERVAL_S  # without a heartbeat a process counts as gone
FORGET_PROCESS_S = 86_400.0  # without a heartbeat, after which the entry is deleted
PAUSE_BETWEEN_BATCHES_S = 0.05
MAX_PURGE_S = 5.0  # of one round
MIN_COUNTS_RETENTION_S = 8 * 86_400
CHECK_INTERVAL_S = 0.5  # between two looks whether a round is due


class Housekeeping:
    """Does one round every fifteen seconds, and sooner when one is due at once."""

    def __init__(
        self,
        parts: HostParts,
        services: Services,
        presence: Presence,
        reporter: ProcessReporter,
        signals: Signals,
    ) -> None:
        self._settings = parts.settings
        self._view = parts.view
        self._database = parts.database
        self._throttle = parts.log_throttle
        self._services = services
        self._presence = presence
        self._reporter = reporter
        self._signals = signals
        self._errors = BackgroundErrors(parts.log_throttle)

    def run(self, engine: Engine, thread: threads.MonitoredThread) -> None:
        """Do rounds until stopped; then write what is left."""
        signals = self._signals
        due_at = time.monotonic() + HOUSEKEEPING_INTERVAL_S
        while not signals.stop.is_set():
            thread.heartbeat()
            if not self._database.away:
                with self._errors.logged("reporting what is served"):
                    self._reporter.write_if_changed(engine)
            if not signals.due.wait(CHECK_INTERVAL_S) and time.monotonic() < due_at:
                continue
            signals.due.clear()
            due_at = time.monotonic() + HOUSEKEEPING_INTERVAL_S
            if not self._database.away and not signals.stop.is_set():
                with self._errors.logged("housekeeping"):
                    self._round(engine)
        with self._errors.logged("housekeeping"):
            self._write_key_usage(engine)
            self._presence.end(engine)
        with suppress(ValueError, OSError):  # at the end standard error may be closed
            self._throttle.report_expired(float("inf"))

    def _round(self, engine: Engine) -> None:
        with suppress(PenstockError):
            self._services.idempotency.renew()
        self._write_key_usage(engine)
        self._presence.heartbeat(engine)
        self._purge(engine)
        with suppress(PenstockError):
            measure(engine)
        with suppress(PenstockError):
            close_idle_sessions(open_engine(self._settings.database_url))
        self._throttle.report_expired(time.monotonic())
        logs.report_dropped_lines(time.monotonic())

    def _write_key_usage(self, engine: Engine) -> None:
        minutes = self._services.key_usage.take()
        if minutes:
            moments = {
                key: datetime.fromtimestamp(minute * 60, UTC) for key, minute in minutes.items()
            }
            with suppress(PenstockError):
                touch_keys(engine, moments)

    def _purge(self, engine: Engine) -> None:
        """Delete replies, runs and counts whose retention is over, a batch at a time.

        A purge that takes too long continues in the next round, which is due at once.
        """
        until = time.monotonic() + MAX_PURGE_S
        with suppress(PenstockError):
            while purge(engine, clock.utc_now()) == PURGED_AT_A_TIME and self._continues(until):
                pass
            environment = self._view.snapshot().environment
            now = clock.now()
            oldest = first_id(now - environment.run_retention)
            while self._purge_runs(
                engine, environment.id, oldest
            ) == runs.PURGED_AT_A_TIME and self._continues(until):
                time.sleep(PAUSE_BETWEEN_BATCHES_S)
            while rejected_calls.purge(
                engine, environment.id, oldest
            ) == runs.PURGED_AT_A_TIME and self._continues(until):
                time.sleep(PAUSE_BETWEEN_BATCHES_S)
            processes.delete_silent_servers(engine, environment.id, silent=FORGET_PROCESS_S)
            deployments.purge(engine, environment.id)
            self._add_up_counts(engine, environment.id, now)
            oldest_count = int(now - max(environment.run_retention, MIN_COUNTS_RETENTION_S))
            call_counts.purge(engine, environment.id, oldest_count)
            consumer_counts.purge(engine, environment.id, oldest_count)
            call_totals.purge(engine, environment.id, oldest_count)
            consumer_totals.purge(engine, environment.id, oldest_count)
            if time.monotonic() >= until:
                self._signals.due.set()

    def _add_up_counts(self, engine: Engine, environment_id: int, now: float) -> None:
        """Add old minutes to their hours, and hours to the totals that pages read."""
        late = call_counts.roll_up(engine, environment_id, now)
        call_totals.add_up(engine, environment_id, now - call_counts.MINUTES_KEPT_S, late)
        call_totals.add_up_minutes(engine, environment_id, now)
        consumer_totals.add_up(engine, environment_id, now)

    def _continues(self, until: float) -> bool:
        return not self._signals.stop.is_set() and time.monotonic() < until

    def _purge_runs(self, engine: Engine, environment_id: int, before: str) -> int:
        """Delete a batch of runs older than an id; return their number."""
        number, durable = runs.purge(engine, environment_id, before)
        if durable and self._services.run_store is not None:
            self._services.run_store.delete(engine_ids_of(durable))
        return number
