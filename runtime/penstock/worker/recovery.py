"""Let the runs of workers that ended go on, and give up those that end their workers.

No innocent one is to fall with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from penstock import metrics
from penstock.db import runs as stored
from penstock.db.engine import Engine, reading, writing
from penstock.db.unit_of_work import Row
from penstock.durable.engine import EngineRun, State
from penstock.durable.intake import RunIntake, queue_of
from penstock.runs.ids import is_run_id, new_run_id
from penstock.runs.records import UNFINISHED, Status

BRIEF, LONG = 5.0, 60.0  # seconds that a suspect is tried apart, at least and at most
ENDED = frozenset({Status.CANCELLED, Status.TIMED_OUT})
GIVEN_UP = frozenset({"given-up", "not-kept"})
STRAY = 4.0  # seconds after which a run of a process that is not there counts as one of nobody's
PATIENCE = 60.0  # seconds that a suspect may wait for its turn


@dataclass
class Trial:
    """A run that goes on while other suspects wait: it may be what ended its workers.

    Moments are `time.monotonic()` readings.
    """

    run: str
    seconds: float
    steps: int
    released_at: float
    began_at: float | None = None


class Recovery:
    """Takes over from the workers of one environment that ended.

    Each is taken over from by one process alone.
    """

    def __init__(
        self,
        engine: Engine,
        accepting: RunIntake,
        environment: str,
        recoveries: Callable[[str], int],
        gave_up: Callable[[str], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how often a run of a pipeline may be taken over, and what reports a run given up."""
        self._engine = engine
        self._accepting = accepting
        self._ledger = accepting.run_store
        self._environment = environment
        self._recoveries = recoveries
        self._gave_up = gave_up
        self._now = now
        self._trial: Trial | None = None
        self._looked = float("-inf")
        self._strays: dict[str, float] = {}  # since when they are known here
        self._log = structlog.get_logger("penstock.worker")

    def take_over(self, dead: stored.DeadWorker) -> bool:
        """Let the runs of a worker go on, each once.

        Return whether none of them waits here any more.

        What is suspected stays with the dead worker until its turn; so it can't be lost, and
        whoever takes over from us finds it there. It may be begun again whenever the database was
        away in the middle of it: what was counted before is not counted again.
        """
        held = self._ledger.held_by(dead.id)
        going, suspects = self._judged(dead, held)
        for item in going:
            self._requeue(item)
        if not dead.again:
            # The first is what each deployment does.
            tell = self._log.info if dead.ended else self._log.warning
            tell("took over from a worker", worker=dead.id, runs=len(held), orderly=dead.ended)
        if suspects and self._decided():
            self._release(dead, suspects[0])
            suspects = suspects[1:]
        return not suspects

    def take_strays(self) -> None:
        """Let runs go on that belong to a process that is not there any more.

        It took them after all that it had was taken over from it.

        A worker that was stopped for a while may do so before it notices. Each is seen twice first,
        some seconds apart.
        """
        now, before = self._now(), self._strays
        if now - self._looked < STRAY / 2:
            return
        self._looked = now
        under_way = self._ledger.under_way()
        with reading(self._engine) as connection:
            known = stored.process_ids(connection)
        strays = [item for item in under_way if item.holder not in known]
        self._strays = {item.run: before.get(item.run, now) for item in strays}
        for item in strays:
            if now - self._strays[item.run] >= STRAY and not self._over(item, self._find(item.run)):
                self._log.warning(
                    "took over a run of a worker that is gone", run=item.run, worker=item.holder
                )
                self._requeue(item)

    def give_back(self, item: EngineRun) -> None:
        """Give a run that was begun here back to its queue, or give it up."""
        row = self._find(item.run)
        if self._over(item, row):
            return
        if (
            row is None
            or self._may_go_on(
                item, row, progressed=False, steps=row["steps_seen"], taken_from=new_run_id()
            )
            is not None
        ):
            self._requeue(item)

    def go_on(self, item: EngineRun) -> None:
        """Give a run back to its queue through no fault of its own."""
        if not self._over(item, self._find(item.run)):
            self._requeue(item)

    def give_up(self, item: EngineRun, row: Row, problem: str, detail: str) -> None:
        """End a run as failed."""
        self._log.error("run given up", run=item.run, pipeline=row["pipeline"], reason=detail)
        with writing(self._engine) as connection:
            end = stored.End(item.run, Status.FAILED.value, 500, problem=problem, detail=detail)
            self._accepting.finish_in(connection, [end])
        self._ledger.cancel([item.run])
        self._gave_up(row["pipeline"])

    # Who is to blame

    def _judged(
        self, dead: stored.DeadWorker, held: list[EngineRun]
    ) -> tuple[list[EngineRun], list[EngineRun]]:
        """Count against the runs of a worker that it ended in them.

        Return those that go on at once, and the suspects that wait.
        """
        rows = {item.run: self._find(item.run) for item in held}
        held = [item for item in held if not self._over(item, rows[item.run])]
        if dead.ended:  # as it was told to: that is nobody's fault
            return held, []
        known = [
            (item, row)
            for item in held
            if (row := rows[item.run]) is not None and row["status"] in UNFINISHED
        ]
        # They were judged, and then the database was away.
        before = [(item, row) for item, row in known if row["taken_from"] == dead.id]
        going = [item for item in held if item.run not in {item.run for item, _ in known}]
        going += [
            item for item, row in before if row["recoveries"] < self._recoveries(row["pipeline"])
        ]
        going += self._counted(
            dead, [(item, row) for item, row in known if row["taken_from"] != dead.id]
        )
        gone = {item.run for item in going}
        return going, [item for item in self._ledger.held_by(dead.id) if item.run not in gone]

    def _counted(
        self, dead: stored.DeadWorker, known: list[tuple[EngineRun, Row]]
    ) -> list[EngineRun]:
        """Count against each run what speaks against it, and return those that go on at once."""
        going = []
        steps = {item.run: len(self._ledger.steps(item.run)) for item, _ in known}
        still = [(item, row) for item, row in known if steps[item.run] <= row["steps_seen"]]
        tried = [
            item
            for item, row in still
            if row["recoveries"]
            and row["recoveries"] >= self._recoveries(row["pipeline"])
            and _stretch(dead, item) < LONG
        ]
        # The one that was tried apart began last.
        accused = max(tried, key=lambda item: item.started_at or 0.0, default=None)
        for item, row in known:
            progressed = steps[item.run] > row["steps_seen"]
            if accused not in (None, item) and not progressed:
                with writing(self._engine) as connection:
                    stored.recover(
                        connection, item.run, row["recoveries"], row["steps_seen"], dead.id
                    )
                if row["recoveries"] < self._recoveries(row["pipeline"]):
                    going.append(item)
                continue
            number = self._may_go_on(
                item, row, progressed=progressed, steps=steps[item.run], taken_from=dead.id
            )
            if number is not None and (progressed or number < self._recoveries(row["pipeline"])):
                going.append(item)
        return going

    def _may_go_on(
        self, item: EngineRun, row: Row, *, progressed: bool, steps: int, taken_from: str
    ) -> int | None:
        """Count that a run was taken over and return how often without progress.

        None where that was too often, and it was given up.

        None too where another process has counted that meanwhile, and goes on with it.
        """
        number = 1 if progressed else row["recoveries"] + 1
        with writing(self._engine) as connection:
            if not stored.recover(connection, item.run, number, steps, taken_from):
                return None
        if number > self._recoveries(row["pipeline"]):
            self.give_up(
                item,
                row,
                "given-up",
                f"It was under way in {number} workers that ended before it did.",
            )
            return None
        metrics.count_recovered_run()
        return number

    # Suspects are tried apart: the next one goes on when it is known that the one before ends no
    # worker.

    def _decided(self) -> bool:
        trial = self._trial
        if trial is None:
            return True
        held = self._ledger.look([trial.run]).get(trial.run)
        now = self._now()
        if held is None or held.state.over:
            return True
        if held.state is State.WAITING:
            trial.began_at = None
            return now - trial.released_at > PATIENCE
        if trial.began_at is None:
            trial.began_at = now
        return (
            now - trial.began_at >= trial.seconds
            or len(self._ledger.steps(trial.run)) > trial.steps
        )

    def _release(self, dead: stored.DeadWorker, item: EngineRun) -> None:
        seconds = min(LONG, max(BRIEF, 2 * _stretch(dead, item)))
        self._trial = Trial(item.run, seconds, len(self._ledger.steps(item.run)), self._now())
        self.go_on(item)

    # What is known

    def _find(self, run: str) -> Row | None:
        if not is_run_id(run):  # a tick of a schedule
            return None
        with reading(self._engine) as connection:
            return stored.find(connection, run)

    def _over(self, item: EngineRun, row: Row | None) -> bool:
        """Say whether a run is not to go on, and see to its end: it was cancelled or given up.

        One that ended well goes on to its last word.
        """
        if row is None or not (
            row["cancelled_by"] or row["status"] in ENDED or row["problem"] in GIVEN_UP
        ):
            return False
        self._ledger.cancel([item.run])
        self._accepting.close_cancelled([item.run])
        return True

    def _requeue(self, item: EngineRun) -> None:
        row = self._find(item.run)
        self._ledger.requeue(
            item.run,
            item.holder,
            item.queue if row is None else queue_of(self._environment, row["pipeline"]),
        )


def _stretch(dead: stored.DeadWorker, item: EngineRun) -> float:
    """Return the seconds that a run was under way when its worker ended."""
    return (
        max(0.0, dead.seen_at.timestamp() - item.started_at) if item.started_at is not None else 0.0
    )
