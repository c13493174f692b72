"""Recover runs of dead workers, and fail a run that repeatedly kills its worker.

**Why.** A run can kill the process that performs it: it uses all memory, or a library crashes. If
every run of a dead worker simply continued elsewhere, one such run would kill one worker after the
other, and with each of them all runs beside it. So recoveries without progress are counted for each
run, and a run that was recovered too often fails with `given-up`.

**Suspects.** It is unknown which of the runs of a dead worker killed it. A run that finished
a step since its last recovery made progress and starts counting anew. The others are counted, and
once they reach the limit they are suspects. Suspects are released one by one: the next may continue
only when the one before has finished a step, has ended, or has run for a while without a dead
worker. So the run that is to blame dies alone, and the runs beside it are not failed with it. If a
worker dies soon after a suspect started, the latest started one is blamed alone.

**Ownership.** `db.runs.overdue` assigns a dead worker to one process under a row lock, with a
lease: if that process dies too, another one takes over when the lease ends. A run moves by
`requeue`, which names its holder, so a late requeue can't take a run from the worker that has it by
now. Suspects stay assigned to the dead worker while they wait, so they survive a crash of this
process.

**Races.** Every step may be repeated after a failure of the database in between. `db.runs.recover`
counts a recovery once for each dead worker, whichever process asks and how often. A worker that was
suspended may take a run just before it notices that it counts as dead. Such a stray run belongs to
a process that is not registered; it is requeued after it was seen twice.

**Rejected.** The recovery of the engine itself: it takes all runs of a process at once, and counts
starts, so it would fail every run that several deployments interrupt. One shared process of
recovery: it would be one more thing that can die.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from penstock import metrics
from penstock.contracts.run_status import UNFINISHED, Status
from penstock.db import durable_runs, processes
from penstock.db.engine import Engine, reading, writing
from penstock.db.runs import FullRunRow
from penstock.durable.engine import EngineRun, State
from penstock.durable.intake import RunIntake, queue_of
from penstock.runs.ids import new_run_id
from penstock.worker.started import find_run

MIN_TRIAL_S, MAX_TRIAL_S = 5.0, 60.0  # that a suspect runs before the next one is released
MAX_QUEUED_TRIAL_S = 60.0  # that a released suspect may wait in its queue meanwhile
STRAY_AFTER_S = 4.0  # between the first and the last look at a stray run
ENDED_EARLY = frozenset({Status.CANCELLED, Status.TIMED_OUT})
FAILED_HERE = frozenset({"given-up", "not-kept"})

Known = tuple[EngineRun, FullRunRow]


@dataclass
class Trial:
    """A released suspect, for which the others wait.

    Moments are `time.monotonic()` readings.
    """

    run: str
    seconds: float
    steps: int
    released_at: float
    began_at: float | None = None


class Recovery:
    """Recovers the runs of one environment's dead workers, as long as this process lives."""

    def __init__(
        self,
        engine: Engine,
        intake: RunIntake,
        environment: str,
        max_recoveries: Callable[[str], int],
        on_failed: Callable[[str], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the limit of recoveries by pipeline, and what counts a run that failed here."""
        self._engine = engine
        self._intake = intake
        self._run_store = intake.run_store
        self._environment = environment
        self._max_recoveries = max_recoveries
        self._on_failed = on_failed
        self._now = now
        self._trial: Trial | None = None
        self._looked_at = float("-inf")
        self._strays: dict[str, float] = {}  # when each was seen first
        self._log = structlog.get_logger("penstock.worker")

    def take_over(self, dead: processes.DeadWorker) -> bool:
        """Requeue the runs of a dead worker; return whether none of them waits any more.

        Raises DatabaseUnavailable; it may be repeated then.
        """
        assigned = self._run_store.held_by(dead.id)
        released, suspects = self._sorted(dead, assigned)
        for item in released:
            self._requeue(item)
        if not dead.again:
            # An orderly end is part of each deployment.
            log = self._log.info if dead.ended else self._log.warning
            log("took over from a worker", worker=dead.id, runs=len(assigned), orderly=dead.ended)
        if suspects and self._trial_is_over():
            self._start_trial(dead, suspects[0])
            suspects = suspects[1:]
        return not suspects

    def requeue_strays(self) -> None:
        """Requeue the runs that belong to a process that is not registered any more.

        Raises DatabaseUnavailable.
        """
        now, before = self._now(), self._strays
        if now - self._looked_at < STRAY_AFTER_S / 2:
            return
        self._looked_at = now
        running = self._run_store.under_way()
        with reading(self._engine) as connection:
            registered = processes.process_ids(connection)
        strays = [item for item in running if item.holder not in registered]
        self._strays = {item.run: before.get(item.run, now) for item in strays}
        for item in strays:
            if now - self._strays[item.run] >= STRAY_AFTER_S and not self._close_ended(
                item, find_run(self._engine, item.run)
            ):
                self._log.warning(
                    "took over a run of a worker that is gone", run=item.run, worker=item.holder
                )
                self._requeue(item)

    def retry(self, item: EngineRun) -> None:
        """Count a recovery of a run that was started here, and requeue it or fail it."""
        row = find_run(self._engine, item.run)
        if self._close_ended(item, row):
            return
        if row is not None:
            count = self._count_recovery(
                item, row, progressed=False, steps=row.steps_seen, taken_from=new_run_id()
            )
            if count is None:
                return
        self._requeue(item)

    def requeue(self, item: EngineRun) -> None:
        """Requeue a run without counting a recovery."""
        if not self._close_ended(item, find_run(self._engine, item.run)):
            self._requeue(item)

    def fail(self, item: EngineRun, row: FullRunRow, problem: str, detail: str) -> None:
        """End a run as failed, with a problem type and its detail."""
        self._log.error("run given up", run=item.run, pipeline=row.pipeline, reason=detail)
        with writing(self._engine) as connection:
            end = durable_runs.End(
                item.run, Status.FAILED.value, 500, problem=problem, detail=detail
            )
            self._intake.finish_in(connection, [end])
        self._run_store.cancel([item.run])
        self._on_failed(row.pipeline)

    # Counting

    def _sorted(
        self, dead: processes.DeadWorker, assigned: Sequence[EngineRun]
    ) -> tuple[list[EngineRun], list[EngineRun]]:
        """Return the runs of a dead worker to requeue now, and the suspects."""
        rows = {item.run: find_run(self._engine, item.run) for item in assigned}
        assigned = [item for item in assigned if not self._close_ended(item, rows[item.run])]
        if dead.ended:  # an orderly end accuses no run
            return list(assigned), []
        counted = [
            (item, row)
            for item in assigned
            if (row := rows[item.run]) is not None and row.status in UNFINISHED
        ]
        counted_before = [known_run for known_run in counted if known_run[1].taken_from == dead.id]
        uncounted = [known_run for known_run in counted if known_run[1].taken_from != dead.id]
        known_ids = {item.run for item, _ in counted}
        released = [item for item in assigned if item.run not in known_ids]
        released += [item for item, row in counted_before if not self._is_suspect(row)]
        released += self._count_recoveries(dead, uncounted)
        released_ids = {item.run for item in released}
        # Counting may have failed some of them, or another process may have taken them.
        remaining = self._run_store.held_by(dead.id)
        return released, [item for item in remaining if item.run not in released_ids]

    def _count_recoveries(self, dead: processes.DeadWorker, runs: list[Known]) -> list[EngineRun]:
        """Count a recovery of each run, and return those to requeue now."""
        released = []
        steps = {item.run: len(self._run_store.steps(item.run)) for item, _ in runs}
        blamed = self._blamed(
            dead, [(item, row) for item, row in runs if steps[item.run] <= row.steps_seen]
        )
        for item, row in runs:
            progressed = steps[item.run] > row.steps_seen
            if blamed not in (None, item) and not progressed:
                with writing(self._engine) as connection:
                    durable_runs.recover(
                        connection, item.run, row.recoveries, row.steps_seen, dead.id
                    )
                if not self._is_suspect(row):
                    released.append(item)
                continue
            count = self._count_recovery(
                item, row, progressed=progressed, steps=steps[item.run], taken_from=dead.id
            )
            if count is not None and (progressed or count < self._max_recoveries(row.pipeline)):
                released.append(item)
        return released

    def _blamed(self, dead: processes.DeadWorker, stuck: Sequence[Known]) -> EngineRun | None:
        """Return the suspect that was on trial in a dead worker: it started last."""
        tried = [
            item
            for item, row in stuck
            if row.recoveries
            and self._is_suspect(row)
            and _seconds_running(dead, item) < MAX_TRIAL_S
        ]
        return max(tried, key=lambda item: item.started_at or 0.0, default=None)

    def _is_suspect(self, row: FullRunRow) -> bool:
        return bool(row.recoveries >= self._max_recoveries(row.pipeline))

    def _count_recovery(
        self, item: EngineRun, row: FullRunRow, *, progressed: bool, steps: int, taken_from: str
    ) -> int | None:
        """Count a recovery and return the number without progress.

        Return None where the run failed by that, or where another process has counted it already.
        """
        count = 1 if progressed else row.recoveries + 1
        with writing(self._engine) as connection:
            if not durable_runs.recover(connection, item.run, count, steps, taken_from):
                return None
        if count > self._max_recoveries(row.pipeline):
            detail = f"It was under way in {count} workers that ended before it did."
            self.fail(item, row, "given-up", detail)
            return None
        metrics.count_recovered_run()
        return count

    # Trials

    def _trial_is_over(self) -> bool:
        """Return whether the next suspect may be released."""
        trial = self._trial
        if trial is None:
            return True
        engine_run = self._run_store.look([trial.run]).get(trial.run)
        now = self._now()
        if engine_run is None or engine_run.state.over:
            return True
        if engine_run.state is State.WAITING:
            trial.began_at = None
            return now - trial.released_at > MAX_QUEUED_TRIAL_S
        if trial.began_at is None:
            trial.began_at = now
        return (
            now - trial.began_at >= trial.seconds
            or len(self._run_store.steps(trial.run)) > trial.steps
        )

    def _start_trial(self, dead: processes.DeadWorker, item: EngineRun) -> None:
        seconds = min(MAX_TRIAL_S, max(MIN_TRIAL_S, 2 * _seconds_running(dead, item)))
        self._trial = Trial(item.run, seconds, len(self._run_store.steps(item.run)), self._now())
        self.requeue(item)

    # Engine

    def _close_ended(self, item: EngineRun, row: FullRunRow | None) -> bool:
        """Return whether a run was cancelled, timed out or failed here; end it in the engine then.

        A run that succeeded is recovered once more, so that the engine stores its outcome.
        """
        if row is None or not (
            row.cancelled_by or row.status in ENDED_EARLY or row.problem in FAILED_HERE
        ):
            return False
        self._run_store.cancel([item.run])
        self._intake.close_cancelled([item.run])
        return True

    def _requeue(self, item: EngineRun) -> None:
        row = find_run(self._engine, item.run)
        queue = item.queue if row is None else queue_of(self._environment, row.pipeline)
        self._run_store.requeue(item.run, item.holder, queue)


def _seconds_running(dead: processes.DeadWorker, item: EngineRun) -> float:
    """Return how long a run had been running when its worker died."""
    if item.started_at is None:
        return 0.0
    return max(0.0, dead.seen_at.timestamp() - item.started_at)
