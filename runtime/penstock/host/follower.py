"""Keep the view of a process at the database's revision.

**Threads.** One thread follows; on PostgreSQL a second one listens for notifications and wakes it.
The follower alone assigns `view.evaluated`. The test kit calls `catch_up` too, so it takes a lock.
Calls read the view without a lock.

**Slow policies.** Policies are plugin code. While an evaluation takes long, all gates are closed:
a call must not be accepted by a gate that a change has just closed. So the thread never waits long
for plugin code, and a view that nothing follows is a stale one, which answers 503.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from penstock import clock, metrics, threads
from penstock.access.snapshot import HistoryChanged, Snapshot
from penstock.contracts.access import LEEWAY
from penstock.db.engine import Engine
from penstock.db.failures import DatabaseUnavailable
from penstock.db.history import HistoryPoint
from penstock.errors import PenstockError, UnknownName
from penstock.gate.compliance import Evaluation, State
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.host.background import BackgroundErrors
from penstock.host.database_state import AWAY
from penstock.host.parts import HostParts
from penstock.host.presence import Presence
from penstock.host.services import Services
from penstock.host.signals import Signals
from penstock.plugins.guard import describe_exception

POLL_S = 0.25  # well inside the bound of one second, also when a poll or two is slow
POLL_WHEN_LISTENING_S = 0.5
PAUSE_WHEN_BROKEN_S = 1.0  # all of the access data is read anew then
SLOW_REFRESH_S = 0.5  # a refresh that takes longer is logged at DEBUG
NEVER_S = 1e9  # the age of a snapshot that can't be used, and of an answer that never came
# Seconds that a host's clock may differ by, and the level at which that is logged.
CLOCK_LEVELS = (LEEWAY.total_seconds(), logging.ERROR), (2.0, logging.WARNING)


class Follower:
    """Reads what changed in the database, and evaluates the pipelines again where that matters."""

    def __init__(
        self,
        parts: HostParts,
        services: Services,
        presence: Presence,
        signals: Signals,
        *,
        on_confirmed: Callable[[HistoryPoint, float], object],
        poll_s: float,
    ) -> None:
        self._parts = parts
        self._view = parts.view
        self._database = parts.database
        self._services = services
        self._presence = presence
        self._signals = signals
        self._on_confirmed = on_confirmed
        self._poll_s = poll_s
        self._errors = BackgroundErrors(parts.log_throttle)
        self._clock = ClockCheck()
        self._catching_up = threading.Lock()
        self._log = structlog.get_logger("penstock")

    def follow(self, engine: Engine, thread: threads.MonitoredThread) -> None:
        """Keep the view at the database's revision until stopped. No error ends it."""
        while not self._signals.stop.is_set():
            thread.heartbeat()
            with self._errors.logged("following the database"):
                self._clock.check()
                recovered = self._follow_once(engine)
                self._set_gauges()
                if self._database.trouble is None:
                    self._confirm(engine)
                if recovered:
                    self._signals.due.set()  # claims may be about to end
            broken = self._view.snapshot().broken is not None
            self._signals.changed.wait(PAUSE_WHEN_BROKEN_S if broken else self._poll_s)
            self._signals.changed.clear()

    def listening_failed(self) -> None:
        """Poll more often from now on: the database sends no notifications."""
        self._poll_s = POLL_S

    def catch_up(self, engine: Engine) -> None:
        """Read what changed in the database, and evaluate the pipelines again where that matters.

        Raises DatabaseUnavailable.
        """
        with self._catching_up:
            access = self._view.snapshot()
            before, began_at = access.revision, time.monotonic()
            changed = access.refresh(engine)
            took_s = time.monotonic() - began_at
            if changed or took_s > SLOW_REFRESH_S:
                self._log.debug(
                    "revision read",
                    revision=access.revision,
                    before=before,
                    ms=round(took_s * 1000, 1),
                )
            if changed:
                self._parts.report.write_counts(access, self._services.limiter)
                self._parts.report.write_doubts(access)
            evaluated = self._view.evaluated
            if access.gates_version != evaluated.gates_version or evaluated.due(time.time()):
                self._reevaluate(access)

    def _confirm(self, engine: Engine) -> None:
        """Pass on that the view is confirmed, and read what depends on the database being up."""
        access = self._view.snapshot()
        self._on_confirmed(access.point, access.checked_at)
        self._services.replay_guard.flush()
        if self._presence.registered:
            with suppress(PenstockError):  # it is read again soon
                self._parts.attendance.check(engine, access.environment.id)

    def _follow_once(self, engine: Engine) -> bool:
        """Catch up with the database. Return whether it is back after an outage.

        An error is logged once an outage, and shown by `checks`.
        """
        trouble = self._database.trouble
        try:
            self.catch_up(engine)
        except HistoryChanged as error:
            self._database.trouble = AWAY
            self._log.warning(
                "database restored: all access data is read anew; calls are answered 503 meanwhile",
                error=str(error),
            )
            return False
        except (DatabaseUnavailable, UnknownName) as error:
            self._database.lost(str(error))
            return False
        except BaseException as error:  # noqa: BLE001  nothing may end the thread
            self._database.answered()
            broken = self._view.snapshot().broken
            self._database.trouble = f"changes can't be applied: {broken or type(error).__name__}"
            if trouble != self._database.trouble:
                self._log.exception(
                    "changes can't be applied: all calls are answered 503",
                    error=describe_exception(error),
                    access=broken,
                )
            return False
        return self._database.recovered()

    def _reevaluate(self, access: Snapshot) -> None:
        """Evaluate all pipelines again.

        Calls wait while that takes long: none is accepted by a gate of the old evaluation.
        """
        before = self._view.evaluated
        evaluated = self._parts.evaluator.evaluate_all(access, live=self._close_all)
        for fault in evaluated.faults:
            self._parts.catalog.report_fault(fault)
        log_changes(before, evaluated)
        self._view.evaluated = evaluated

    def _close_all(self) -> None:
        """Accept no call until all pipelines are evaluated."""
        self._view.evaluated = self._parts.evaluator.close_all()

    def _set_gauges(self) -> None:
        """Set the moments from which the ages of the view and of the last answer are computed."""
        access = self._view.snapshot()
        never = time.monotonic() - NEVER_S
        metrics.set_gauge(
            "penstock_snapshot_age_seconds", access.checked_at if access.broken is None else never
        )
        metrics.set_gauge(
            "penstock_database_answered_age_seconds", max(self._database.answered_at, never)
        )


class ClockCheck:
    """Compares this host's clock with the database's, and logs when they begin to differ."""

    def __init__(self) -> None:
        self._level = logging.INFO
        self._log = structlog.get_logger("penstock")

    def check(self) -> None:
        """Set the metric, and log a change of the level that the difference has."""
        seconds = clock.seconds_ahead()
        metrics.set_gauge("penstock_clock_difference_seconds", seconds)
        level = next(
            (level for least, level in CLOCK_LEVELS if abs(seconds) >= least), logging.INFO
        )
        before, self._level = self._level, level
        if level > before:
            fix = "synchronise this host's clock (NTP): credentials expire by it"
            self._log.log(
                level, "clock differs from the database's", seconds=round(seconds, 1), fix=fix
            )
        elif level == logging.INFO and before > level:
            self._log.info("clock agrees with the database's again")


def log_changes(before: EvaluatedPipelines, after: EvaluatedPipelines) -> None:
    """Log the pipelines whose state or warnings have changed."""
    _log_changes(before.external, after.external)
    _log_changes(before.internal, after.internal)


def _log_changes(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> None:
    log = structlog.get_logger("penstock")
    for identifier, evaluation in after.items():
        old = before.get(identifier)
        if old is None:
            continue
        if warnings := set(evaluation.warnings) - set(old.warnings):
            log.warning("pipeline warning", pipeline=identifier, reasons=sorted(warnings))
        if old.state is not evaluation.state:
            write = log.info if evaluation.state is State.SERVED else log.warning
            write(
                f"pipeline {evaluation.state}",
                pipeline=identifier,
                reasons=[violation.reason for violation in evaluation.violations],
            )
