"""The life of a worker process: its threads, its rounds, and how it ends.

**Threads.** The main thread makes a round each second: it sends a heartbeat, takes over from dead
workers, requeues orphans and reconciles records. `penstock-ownership` stops threads whose runs this
process has lost; it is separate, for a round may take long. The engine performs runs in threads of
its own, by `perform`. `penstock-heartbeat` replaces the main thread's heartbeats while the last
runs end.

**Who owns what.** `_active` is written by the threads that perform runs, each its own key, and read
by all others. Everything else belongs to the main thread.

**What can race.** This process may count as dead while it lives, if it was suspended or the
database was away. A heartbeat then fails and the process ends (`TakenOver`), for its runs belong to
others. After a gap in its own heartbeats it judges no other worker for one round: all of them may
have been silent together.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from penstock import threads
from penstock.contracts.run_status import Status
from penstock.db import processes
from penstock.db.engine import Engine, open_engine
from penstock.db.failures import DatabaseUnavailable
from penstock.db.runs import FullRunRow
from penstock.durable.engine import Document, Queue, RunExecutor, Undecryptable
from penstock.durable.intake import CALLBACKS, queue_of
from penstock.durable.runner import RunInput
from penstock.errors import PenstockError
from penstock.execution import Execution
from penstock.host.host import Host
from penstock.host.services import Services
from penstock.runs.interrupts import EngineUnavailable, KeyMissing, RunReleased
from penstock.runs.steps import StopSignal
from penstock.worker import scheduler
from penstock.worker.callbacks import call_back
from penstock.worker.heartbeat import INTERVAL_S, LEASE_S, TIMEOUT_S, Heartbeat
from penstock.worker.key_deferral import KeyDeferral
from penstock.worker.orphans import Orphans
from penstock.worker.ownership import Ownership
from penstock.worker.performer import Performance, Performer
from penstock.worker.reconciler import Reconciler
from penstock.worker.recovery import Recovery
from penstock.worker.started import find_run, intake_of, recorder_of

STUCK_AFTER_S = 120.0  # without a heartbeat of a thread
STUCK_EXIT_CODE = 75  # EX_TEMPFAIL: the supervisor starts a new worker
OWNERSHIP_INTERVAL_S = 0.25
DEFAULT_RECOVERIES = 3  # of a run whose pipeline is not loaded here


class TakenOver(Exception):
    """Other workers count this process as dead and have its runs."""


class Worker:
    """Performs the durable runs of one environment until `stop`."""

    def __init__(self, host: Host, executor: RunExecutor) -> None:
        settings = host.settings
        self._host = host
        self._engine: Engine = open_engine(settings.database_url, create=False)
        self._executor = executor
        self._active: dict[str, Performance] = {}
        self._heartbeat = Heartbeat(settings.database_url)
        self._ownership = Ownership(
            self._engine, host.catalog, self._services, self._heartbeat, self._active
        )
        self._performer = Performer(
            Execution.of(host),
            host.catalog,
            host.view,
            executor,
            self._find,
            self._ownership.confirm,
        )
        self._deferral = KeyDeferral(self._heartbeat.process, self._find, host.upkeep.log_throttle)
        self._orphans = Orphans(self._engine, self._active)
        self._reconciler = Reconciler(
            self._engine, host.catalog, host.view, self._services, self._active
        )
        self._lazy_recovery: Recovery | None = None
        # `time.monotonic()` reading of the start of the main thread's last round
        self._round_began_at = float("inf")
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._log = structlog.get_logger("penstock.worker")

    def _services(self) -> Services | None:
        return self._host.services

    @property
    def needed(self) -> bool:
        """Whether a pipeline with durable runs is loaded."""
        return bool(self._host.catalog.queues)

    def stop(self) -> None:
        """Let `run` return."""
        self._stop.set()

    def run(self, ready: Callable[[], None] = lambda: None, *, respawned: bool = False) -> None:
        """Perform runs until `stop`; those that are running then have the graceful timeout.

        `ready` is called once runs are taken. Raises CannotStart and TakenOver.
        """
        self._open(respawned=respawned)
        ready()
        try:
            self._make_rounds()
        except TakenOver:
            self._stop_runs(StopSignal.cancel)
            raise
        finally:
            self._close()

    def _open(self, *, respawned: bool) -> None:
        host = self._host
        host.start(respawned=respawned)
        durable = [identifier for identifier, item in host.catalog.loaded.items() if item.durable]
        self._heartbeat.register(host.view.environment_id, durable)
        host.upkeep.reporter.listed_as(self._heartbeat.process)
        callbacks = Queue(queue_of(host.settings.environment, CALLBACKS), patient=True)
        queues = [*host.catalog.queues, callbacks]
        self._executor.open(
            self._heartbeat.process,
            queues,
            self.perform,
            self.tick,
            at_once=host.settings.worker_runs,
        )
        scheduler.declare(host.catalog, host.settings.environment, self._executor)
        with suppress(DatabaseUnavailable):  # deferred runs start later then
            intake_of(self._services()).run_store.release_deferred()
        run_store = intake_of(self._services()).run_store
        delete_ticks = partial(scheduler.delete_old_ticks, run_store, self._stop)
        threads.start("penstock-ticks", delete_ticks, limit=None, essential=False)
        threads.start("penstock-ownership", self._check_ownership, limit=STUCK_AFTER_S)
        names = [queue.name for queue in queues]
        self._log.info("worker ready", process=self._heartbeat.process, queues=names)

    def _close(self) -> None:
        self._stop_runs(StopSignal.drain)
        threads.start("penstock-heartbeat", self._send_last_heartbeats, limit=None)
        self._executor.close(self._host.settings.graceful_timeout)
        self._closed.set()
        self._host.stop()
        with suppress(PenstockError):
            self._heartbeat.end()
        self._log.info("worker ended", left=len(self._active))

    def _stop_runs(self, stop: Callable[[StopSignal], None]) -> None:
        """Stop the runs of this process; no other run starts from now on."""
        self._stop.set()
        for active in list(self._active.values()):
            stop(active.stop)

    # Rounds of the main thread

    def _make_rounds(self) -> None:
        while not self._stop.is_set():
            self._round_began_at = time.monotonic()
            _exit_if_stuck(self._host.upkeep.database.up_since, self._round_began_at)
            try:
                self._make_round()
            except TakenOver:
                raise
            except PenstockError as error:
                self._log.error("worker round failed", error=str(error))
            except Exception:  # noqa: BLE001  one run must not stop the supervision of the others
                self._log.exception("worker round failed")
            self._stop.wait(INTERVAL_S * random.uniform(0.8, 1.2))  # noqa: S311  so that workers do not ask at the same moment

    def _make_round(self) -> None:
        if not self._heartbeat.send():
            raise TakenOver("others have taken over from this worker; it was silent for too long")
        if self._heartbeat.gap < TIMEOUT_S:
            self._take_over()
        assigned = intake_of(self._services()).run_store.held_by(self._heartbeat.process)
        self._orphans.requeue(assigned, self._recovery)
        self._reconciler.reconcile()

    def _take_over(self) -> None:
        """Recover the runs of dead workers. Raises DatabaseUnavailable."""
        for dead in processes.claim_dead_workers(
            self._engine,
            self._host.view.environment_id,
            self._heartbeat.process,
            silent=TIMEOUT_S,
            lease=LEASE_S,
        ):
            try:
                done = self._recovery.take_over(dead)
            except PenstockError:
                raise
            except Exception:  # noqa: BLE001  the next round tries again
                self._log.exception("can't take over from a worker", worker=dead.id)
                continue
            if done:
                processes.unregister(self._engine, dead.id)
        self._recovery.requeue_strays()

    # Other threads

    def _send_last_heartbeats(self, _: threads.MonitoredThread) -> None:
        while not self._closed.wait(INTERVAL_S):
            with suppress(PenstockError):
                self._heartbeat.send()

    def _check_ownership(self, thread: threads.MonitoredThread) -> None:
        while not self._closed.wait(OWNERSHIP_INTERVAL_S):
            thread.heartbeat()
            if not self._stop.is_set():
                _exit_if_stuck(self._host.upkeep.database.up_since, self._round_began_at)
            with suppress(PenstockError):
                self._ownership.release_lost()

    # Called by the engine, in its threads

    def perform(self, run: str, document: Document | Undecryptable) -> Document:
        """Perform a run or a callback, and return its outcome.

        Raises EngineUnavailable where it can't be performed now, RunReleased where it does not
        belong to this process, and KeyMissing.
        """
        active = self._active[run] = Performance(StopSignal(), threading.get_ident())
        try:
            if self._stop.is_set():  # the engine had taken it from its queue just before
                raise RunReleased  # noqa: TRY301  as what ends a run later
            if isinstance(document, Undecryptable):
                raise KeyMissing(str(document))  # noqa: TRY301  as a step that can't be decrypted
            outcome = self._perform(run, document, active)
            self._orphans.completed(run)
        except RunReleased:
            raise
        except KeyMissing as error:
            with suppress(DatabaseUnavailable):  # else it is an orphan
                self._deferral.defer(intake_of(self._services()).run_store, run, str(error))
            raise
        except (EngineUnavailable, DatabaseUnavailable) as error:
            self._orphans.interrupted(run)
            self._log.error("run interrupted", run=run, error=str(error))
            raise EngineUnavailable(str(error)) from error
        finally:
            if self._active.get(run) is active:
                del self._active[run]
        return outcome

    def _perform(self, run: str, document: Document, active: Performance) -> Document:
        intake = intake_of(self._services())
        if "callback" in document:
            return call_back(
                self._host.catalog,
                self._host.view,
                self._host.settings.url,
                intake,
                self._find(document["callback"]),
                document,
            )
        recorder = recorder_of(self._services())
        return self._performer.perform(
            run, RunInput.of(document), active, recorder, intake.run_store
        )

    def tick(
        self, context: Mapping[str, Any], moment: datetime, now: datetime | None = None
    ) -> None:
        """Accept the run of a schedule's tick, once over all processes.

        `now` is the time to decide by, by default the present.
        """
        intake = intake_of(self._services())
        host = self._host
        scheduler.tick(
            host.catalog,
            host.settings.environment,
            self._performer.subpipelines,
            intake,
            context,
            moment,
            now,
        )

    def _find(self, run: str) -> FullRunRow | None:
        return find_run(self._engine, run)

    @property
    def _recovery(self) -> Recovery:
        if self._lazy_recovery is None:
            self._lazy_recovery = Recovery(
                self._engine,
                intake_of(self._services()),
                self._host.settings.environment,
                self._max_recoveries,
                self._count_failed,
            )
        return self._lazy_recovery

    def _max_recoveries(self, pipeline: str) -> int:
        loaded = self._host.catalog.loaded.get(pipeline)
        return loaded.pipeline.durable.recoveries if loaded is not None else DEFAULT_RECOVERIES

    def _count_failed(self, pipeline: str) -> None:
        recorder_of(self._services()).count(pipeline, Status.FAILED.value, None)


def _exit_if_stuck(database_up_since: float | None, round_began_at: float) -> None:
    """End this process where one of its threads is stuck.

    The supervisor starts a new worker, and others recover the runs. A thread that waits for the
    database is not stuck: nothing is checked until the database has been there for a while. Both
    arguments are `time.monotonic()` readings.
    """
    now = time.monotonic()
    if database_up_since is None or now - database_up_since < STUCK_AFTER_S:
        return
    stuck = [thread.name for thread in threads.stuck()]
    if now - round_began_at > STUCK_AFTER_S:
        stuck.append("main")
    if stuck:
        structlog.get_logger("penstock.worker").critical(
            "this worker ends, for a thread is stuck", threads=stuck, limit=STUCK_AFTER_S
        )
        os._exit(STUCK_EXIT_CODE)
