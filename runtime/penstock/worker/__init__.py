"""A worker process.

Performs durable runs, takes over those of workers that died, and keeps their records true.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from penstock import clock, threads
from penstock.contracts.pipeline import Handler
from penstock.db import runs as stored
from penstock.db.engine import DatabaseUnavailable, Engine, open_engine, reading
from penstock.db.unit_of_work import Row
from penstock.durable.engine import (
    Document,
    EngineRun,
    Queue,
    RunExecutor,
    RunStore,
    State,
    Undecryptable,
)
from penstock.durable.intake import CALLBACKS, RunIntake, queue_of
from penstock.durable.runner import RunInput
from penstock.durable.status import ending_of, started_of, steps_held
from penstock.errors import DeadlineExceeded, PenstockError
from penstock.host.host import Host, LoadedPipeline
from penstock.runs.failures import Failure, failure_at
from penstock.runs.ids import is_run_id, new_run_id
from penstock.runs.interrupts import EngineUnavailable, KeyMissing, RunReleased
from penstock.runs.records import UNFINISHED, Finished, Recorder, Status, first_id
from penstock.runs.steps import StepRecord, StopSignal
from penstock.worker import scheduler
from penstock.worker.callbacks import call_back
from penstock.worker.keyless import Keyless
from penstock.worker.performer import Performance, Performer
from penstock.worker.recovery import Recovery

STUCK = 120.0  # seconds without a heartbeat, and a thread counts as stuck
STUCK_CODE = 75  # EX_TEMPFAIL: who keeps the process starts it anew
BEAT = 1.0  # seconds between two signs of life, each with a look around
LOOK = 0.25  # seconds between two looks whether a run under way was cancelled
SILENT = 6.0  # seconds without one, and a worker counts as dead
LEASE = 6.0  # seconds that taking over from one may take
ORPHANED = 3.0  # seconds after which a run that we hold and do not perform is given back
YOUNG = 5.0  # seconds in which a record is written by whoever performs
CHECKED = 500  # records in one look
LOST = 120.0  # seconds after which a run that the engine does not know never will be
TIDY = 3600.0  # seconds between two looks for old ticks
TICKS_KEPT = 86_400.0  # seconds that the engine remembers them
STARVED = 20  # times that the engine may fail to go on with a run, though it answers
RECOVERIES = 3  # of a run whose pipeline is not loaded here


class Taken(Exception):
    """Others count this process as dead and have its runs."""


class Worker:
    """Performs the durable runs of one environment, until it is told to stop."""

    def __init__(self, host: Host, bench: RunExecutor) -> None:
        """Take where runs are performed."""
        settings = host.settings
        self._host = host
        self._engine: Engine = open_engine(settings.database_url, create=False)
        self._vital: Engine = open_engine(settings.database_url, reserved=True, create=False)
        self._bench = bench
        self._performer = Performer(host, bench, self._find, self._confirm)
        self._process = new_run_id()
        self._keyless = Keyless(self._process, self._find, host.log_throttle)
        self._active: dict[str, Performance] = {}
        self._starved: dict[str, int] = {}  # how often the engine could not go on with a run
        self._orphans: dict[str, float] = {}  # since when nobody performs what is ours
        self._recovering: Recovery | None = None
        self._checked: str | None = None
        # When the main thread last began a round; a `time.monotonic()` reading.
        self._looked_at = float("inf")
        # When the last sign of life was given that nobody took over before; a `time.monotonic()`
        # reading.
        self._spoke = float("inf")
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._log = structlog.get_logger("penstock.worker")

    @property
    def needed(self) -> bool:
        """Whether there is anything to do: a pipeline with durable runs."""
        return bool(self._host.queues)

    def stop(self) -> None:
        """Have `run` end."""
        self._stop.set()

    def run(self, ready: Callable[[], None] = lambda: None, *, respawned: bool = False) -> None:
        """Perform runs until told to stop; those that are under way then have the graceful time.

        Raises CannotStart, Taken.

        `ready` is called when runs are taken.
        """
        host = self._host
        host.start(respawned=respawned)
        environment_id = host.environment_id
        durable = [identifier for identifier, item in host.loaded.items() if item.durable]
        name = socket.gethostname()
        stored.register(
            self._engine,
            self._process,
            kind="worker",
            environment_id=environment_id,
            host=name,
            pid=os.getpid(),
            pipelines=durable,
        )
        self._spoke = time.monotonic()
        queues = [*host.queues, Queue(queue_of(host.settings.environment, CALLBACKS), patient=True)]
        self._bench.open(
            self._process, queues, self.perform, self.tick, at_once=host.settings.worker_runs
        )
        scheduler.declare(host, self._bench)
        with suppress(DatabaseUnavailable):  # they begin later then
            self._ledger.hasten()
        threads.start("penstock-tidy", self._tidy_on, limit=None, essential=False)
        threads.start("penstock-let-go", self._let_go_on, limit=STUCK)
        self._log.info(
            "worker ready", process=self._process, queues=[queue.name for queue in queues]
        )
        ready()
        try:
            self._watch(environment_id)
        except Taken:
            self._end_runs(StopSignal.cancel)
            raise
        finally:
            self._end_runs(StopSignal.drain)
            threads.start("penstock-beat", self._beat_on, limit=None)  # for the graceful time
            self._bench.close(host.settings.graceful_timeout)
            self._closed.set()
            host.stop()
            with suppress(PenstockError):
                stored.heartbeat(self._engine, self._process, ended=True)
            self._log.info("worker ended", left=len(self._active))

    # Life

    def _end_runs(self, how: Callable[[StopSignal], None]) -> None:
        """Tell the runs under way to stop; none begins from now on."""
        self._stop.set()
        for active in list(self._active.values()):
            how(active.stop)

    def _speak(self) -> bool:
        """Give a sign of life; return False where others have taken over from this process."""
        began = time.monotonic()
        if not stored.heartbeat(self._vital, self._process):
            return False
        self._spoke = began
        return True

    def _end_if_stuck(self) -> None:
        """End this process where one of its threads, or the main one, is stuck.

        Who keeps it starts it anew, and others take its runs.

        What waits for the database is not stuck. While that is away all may wait, and for a while
        after it is back.
        """
        up_since = self._host.up_since
        if up_since is None or time.monotonic() - up_since < STUCK:
            return
        stuck = [thread.name for thread in threads.stuck()]
        if time.monotonic() - self._looked_at > STUCK:
            stuck.append("main")
        if stuck:
            self._log.critical(
                "this worker ends, for a thread is stuck", threads=stuck, limit=STUCK
            )
            os._exit(STUCK_CODE)

    def _watch(self, environment_id: int) -> None:
        while not self._stop.is_set():
            self._looked_at = time.monotonic()
            self._end_if_stuck()
            before = self._spoke
            try:
                if not self._speak():
                    raise Taken(  # noqa: TRY301  it ends this
                        "others have taken over from this worker; it was silent for too long"
                    )
                # Else all were silent, and each may speak before anybody is judged.
                if self._spoke - before < SILENT:
                    self._take_over(environment_id)
                self._give_back_orphans()
                self._reconcile(environment_id)
            except Taken:
                raise
            except PenstockError as error:
                self._log.error("worker can't look around", error=str(error))
            except Exception:  # noqa: BLE001  whatever one run is, the others must be looked after
                self._log.exception("worker can't look around")
            self._stop.wait(BEAT * random.uniform(0.8, 1.2))  # noqa: S311  so that not all look at the same moment

    def _beat_on(self, _: threads.MonitoredThread) -> None:
        """Speak while the last runs end; nobody is to take them then."""
        while not self._closed.wait(BEAT):
            with suppress(PenstockError):
                self._speak()

    def _take_over(self, environment_id: int) -> None:
        """Let the runs of workers that ended go on.

        Each worker is taken over from by one other, so no run is given away twice.
        """
        for dead in stored.overdue(
            self._engine, environment_id, self._process, silent=SILENT, lease=LEASE
        ):
            try:
                done = self._recovery.take_over(dead)
            except PenstockError:
                raise
            except Exception:  # noqa: BLE001  as above; it is tried again
                self._log.exception("can't take over from a worker", worker=dead.id)
                continue
            if done:
                stored.unregister(self._engine, dead.id)
        self._recovery.take_strays()

    def _give_back_orphans(self) -> None:
        """Give back what the engine counts as ours and nobody performs.

        It could not be begun, or its end could not be written.
        """
        now, before = time.monotonic(), self._orphans
        held = [
            item for item in self._ledger.held_by(self._process) if item.run not in self._active
        ]
        self._orphans = {item.run: before.get(item.run, now) for item in held}
        for item in held:
            if now - self._orphans[item.run] <= ORPHANED:
                continue
            del self._orphans[item.run]
            if item.run not in self._starved:
                self._recovery.give_back(item)
            elif self._starved[item.run] < STARVED or (row := self._find(item.run)) is None:
                self._recovery.go_on(item)
            else:
                number = self._starved.pop(item.run)
                self._recovery.give_up(
                    item,
                    row,
                    "not-kept",
                    f"The engine could not go on with it, {number} times; the log of its worker"
                    " says why.",
                )
        self._starved = {
            run: number
            for run, number in self._starved.items()
            if run in self._active or run in before or run in self._orphans
        }

    def _let_go_on(self, thread: threads.MonitoredThread) -> None:
        """Stop the runs that this process performs and has no more.

        They were cancelled, their time was up, or others have them.

        A thread of its own: none of them may wait for what else there is to look after.
        """
        while not self._closed.wait(LOOK):
            thread.heartbeat()
            if not self._stop.is_set():
                self._end_if_stuck()
            with suppress(PenstockError):
                self._let_go()

    def _let_go(self) -> None:
        for run, item in self._ledger.look(list(self._active)).items():
            active = self._active.get(run)
            if (
                active is None
                or active.stop.cancelled
                or self._has(item)
                or item.state in {State.DONE, State.BROKEN}
            ):
                continue
            active.stop.cancel()
            if item.state is State.CANCELLED and active.handler is not None:
                self._cut_off(run, item, active.thread, active.handler)

    def _cut_off(self, run: str, item: EngineRun, thread: int, handler: Handler) -> None:
        """Record where the handler of a run is whose time is up, while it is there."""
        row = self._find(run)
        loaded = self._host.loaded.get(row["pipeline"]) if row is not None else None
        if row is None or loaded is None or row["cancelled_by"] or row["status"] not in UNFINISHED:
            return
        failure = failure_at(DeadlineExceeded(), thread, handler)
        self._recorder.ended(_finished(row, item, loaded, self._steps(row, item), failure))

    def _steps(self, row: Row, item: EngineRun) -> list[StepRecord]:
        return steps_held(self._ledger.steps(row["id"]), started_of(row, item))

    def _has(self, item: EngineRun | None) -> bool:
        """Say whether a run is this process's to perform."""
        return (
            item is not None and item.state is State.RUNNING and item.holder in {"", self._process}
        )

    def _confirm(self, run: str, stop: StopSignal, surely: bool) -> None:
        """Raise RunReleased where this process has a run no more.

        Others may count it as dead once it was silent for too long.
        """
        while surely or self._was_silent():
            try:
                if self._has(self._ledger.look([run]).get(run)):
                    return
            except DatabaseUnavailable:
                if not self._was_silent():
                    return
                stop.sleep(BEAT)
            else:
                raise RunReleased

    def _was_silent(self) -> bool:
        return time.monotonic() - self._spoke >= SILENT

    def _reconcile(self, environment_id: int) -> None:
        """Note the ends that nobody wrote.

        Of runs whose worker died right after, that were cancelled, or whose time was up.
        """
        with reading(self._engine) as connection:
            rows = stored.unfinished(
                connection,
                environment_id,
                after=self._checked,
                before=first_id(clock.now() - YOUNG),
                limit=CHECKED,
            )
        self._checked = rows[-1]["id"] if len(rows) == CHECKED else None
        held = self._ledger.look([row["id"] for row in rows], outcomes=True)
        for row in rows:
            item, loaded = held.get(row["id"]), self._host.loaded.get(row["pipeline"])
            if loaded is None or self._recorder.knows_end(row["id"]):
                continue
            if row["id"] in self._active and (item is None or item.state is not State.CANCELLED):
                continue
            if item is None:
                if row["id"] < first_id(clock.now() - LOST):
                    detail = "The engine does not know this run."
                    self._recorder.ended(
                        Finished(
                            row["id"],
                            loaded.pipeline,
                            Status.FAILED,
                            500,
                            problem="not-begun",
                            detail=detail,
                        )
                    )
                continue
            if row["cancelled_by"] and not item.state.over:
                self._ledger.cancel([row["id"]])
                self._accepting.close_cancelled([row["id"]])
            elif item.state.over and not item.unopened:  # else one with the key notes how it ended
                self._recorder.ended(_finished(row, item, loaded, self._steps(row, item)))

    # Work

    def perform(self, run: str, document: Document | Undecryptable) -> Document:
        """Perform a run: the engine calls this, in a thread of its own.

        What it returns is how the run ended.
        """
        stop = StopSignal()
        active = self._active[run] = Performance(stop, threading.get_ident())
        try:
            # It was taken from its queue in the moment in which this process began to end.
            if self._stop.is_set():
                raise RunReleased  # noqa: TRY301  as what ends a run later
            if isinstance(document, Undecryptable):
                raise KeyMissing(str(document))  # noqa: TRY301  as where a step of it can't be opened
            if "callback" in document:
                done = call_back(
                    self._host, self._accepting, self._find(document["callback"]), document
                )
            else:
                done = self._performer.perform(
                    run, RunInput.of(document), active, self._recorder, self._ledger
                )
            self._starved.pop(run, None)
        except RunReleased:
            raise
        except KeyMissing as error:
            with suppress(DatabaseUnavailable):  # else it is an orphan
                self._keyless.give_back(self._ledger, run, str(error))
            raise
        except (EngineUnavailable, DatabaseUnavailable) as error:
            self._starved[run] = self._starved.get(run, 0) + 1
            self._log.error("run interrupted", run=run, error=str(error))
            raise EngineUnavailable(str(error)) from error
        finally:
            if self._active.get(run) is active:
                del self._active[run]
        return done

    def _find(self, run: str) -> Row | None:
        if not is_run_id(run):  # a tick of a schedule
            return None
        with reading(self._engine) as connection:
            return stored.find(connection, run)

    def tick(
        self, context: Mapping[str, Any], moment: datetime, now: datetime | None = None
    ) -> None:
        """Accept the run of a tick, once over all processes; `now` is when, if that is not now."""
        scheduler.tick(self._host, self._performer.starter, self._accepting, context, moment, now)

    def _tidy_on(self, _: threads.MonitoredThread) -> None:
        """Forget old ticks, in a thread of its own: it may have to look through many runs."""
        since = 0.0
        while not self._stop.is_set():
            now = clock.now()
            with suppress(PenstockError):
                while (
                    self._ledger.forget_ticks(since, now - TICKS_KEPT) and not self._stop.is_set()
                ):
                    pass
                since = now - 2 * TICKS_KEPT
            self._stop.wait(TIDY)

    @property
    def _recovery(self) -> Recovery:
        if self._recovering is None:
            self._recovering = Recovery(
                self._engine,
                self._accepting,
                self._host.settings.environment,
                self._recoveries,
                self._gave_up,
            )
        return self._recovering

    def _recoveries(self, pipeline: str) -> int:
        loaded = self._host.loaded.get(pipeline)
        return loaded.pipeline.durable.recoveries if loaded is not None else RECOVERIES

    def _gave_up(self, pipeline: str) -> None:
        self._recorder.count(pipeline, Status.FAILED.value, None)

    @property
    def _ledger(self) -> RunStore:
        return self._accepting.run_store

    @property
    def _accepting(self) -> RunIntake:
        if self._host.run_intake is None:
            raise RuntimeError("the worker was not started")
        return self._host.run_intake

    @property
    def _recorder(self) -> Recorder:
        if self._host.recorder is None:
            raise RuntimeError("the worker was not started")
        return self._host.recorder


def _finished(
    row: Row,
    item: EngineRun,
    loaded: LoadedPipeline,
    steps: list[StepRecord],
    failure: Failure | None = None,
) -> Finished:
    """Return the end of a run as the engine knows it."""
    run, pipeline = row["id"], loaded.pipeline
    if item.state is State.DONE and item.outcome is not None:
        return Finished(run, pipeline, **ending_of(item.outcome), steps=steps)
    ended = datetime.fromtimestamp(item.ended_at, UTC) if item.ended_at else None
    if item.state is State.CANCELLED and row["cancelled_by"]:
        return Finished(run, pipeline, Status.CANCELLED, steps=steps, ended_at=ended)
    if item.state is State.CANCELLED:
        return Finished(
            run,
            pipeline,
            Status.TIMED_OUT,
            504,
            problem="timed-out",
            steps=steps,
            failure=failure,
            ended_at=ended,
        )
    return Finished(
        run,
        pipeline,
        Status.FAILED,
        500,
        problem="pipeline-failed",
        detail=item.error,
        steps=steps,
        ended_at=ended,
    )
