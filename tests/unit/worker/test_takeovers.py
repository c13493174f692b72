"""Takeovers on the real engine's tables, with what may come between forced to come: crash recipes
of the engine's users, and of our own.

The numbers are issues of dbos-inc/dbos-transact-py: what happened there must not happen here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from support.place import Place

from penstock import HttpTrigger, Pipeline
from penstock.contracts.pipeline import Route
from penstock.db import processes
from penstock.db import runs as stored
from penstock.db.engine import reading
from penstock.db.failures import DatabaseUnavailable
from penstock.durable.engine import EngineRun, EngineStep, State
from penstock.durable.engine_dbos import DbosRunStore
from penstock.durable.engine_memory import InMemoryEngine
from penstock.durable.intake import RunIntake, RunRequest
from penstock.durable.runner import RunInput
from penstock.host.host import Host
from penstock.runs.ids import new_run_id
from penstock.runs.interrupts import RunReleased
from penstock.settings import Settings
from penstock.worker import Worker
from penstock.worker.recovery import STRAY_AFTER_S, Recovery

MAX_RECOVERIES = 3
JOBS = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))
ROUTE = Route("POST", "/", lambda: None, mode="durable")


class Ledger(DbosRunStore):
    """The real ledger, in which something may come between at each call."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.url, "test", place.box)
        self.between: dict[str, Callable[[], None]] = {}

    def _come(self, name: str) -> None:
        self.between.pop(name, lambda: None)()

    def requeue(self, run: str, holder: str, queue: str) -> bool:
        self._come("requeue")
        return super().requeue(run, holder, queue)

    def steps(self, run: str) -> list[EngineStep]:
        self._come("steps")
        return super().steps(run)

    def claim(self, run: str, worker: str) -> None:
        """Leave a run as a worker does that has begun it."""
        database = self._client._sys_db  # noqa: SLF001  there is no other way to be a worker without one
        table = database.tables.workflow_status
        values = {
            "status": "PENDING",
            "executor_id": worker,
            "owner_xid": uuid.uuid4().hex,
            "started_at_epoch_ms": int(time.time() * 1000),
        }
        with database.engine.begin() as connection:
            claimed = connection.execute(
                sa.update(table)
                .where(table.c.workflow_uuid == run, table.c.status == "ENQUEUED")
                .values(**values)
            )
        assert claimed.rowcount == 1

    def held(self, run: str) -> tuple[State, str]:
        engine_run: EngineRun = self.look([run])[run]
        return engine_run.state, engine_run.holder


class Scene:
    """A place with runs of one pipeline, and processes that take over."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.clock = 1000.0
        self.ledgers: list[Ledger] = []
        self.run_store, self.recovery = self.taker()

    def taker(self) -> tuple[Ledger, Recovery]:
        ledger = Ledger(self.place)
        self.ledgers.append(ledger)
        accepting = RunIntake(self.place.engine, ledger, "test", 1)
        return ledger, Recovery(
            self.place.engine,
            accepting,
            "test",
            lambda _: MAX_RECOVERIES,
            lambda _: None,
            now=lambda: self.clock,
        )

    def runs(self, number: int, worker: str) -> list[str]:
        """Accept runs, and have a worker begin them."""
        accepting = RunIntake(self.place.engine, self.run_store, "test", 1)
        runs = []
        for _ in range(number):
            run = new_run_id()
            given = RunInput("v1/jobs", "POST", "/", "/v1/jobs/", "test", time.time())
            accepting.accept(RunRequest(run, given, JOBS, ROUTE))
            self.run_store.claim(run, worker)
            runs.append(run)
        return runs

    def recoveries(self, run: str) -> int:
        with reading(self.place.engine) as connection:
            row: Any = stored.find(connection, run)
        return int(row.recoveries)

    def states(self, runs: list[str]) -> set[State]:
        return {self.run_store.held(run)[0] for run in runs}


def dead(worker: str, *, again: bool = False) -> processes.DeadWorker:
    return processes.DeadWorker(worker, ended=False, seen_at=datetime.now(UTC), again=again)


@pytest.fixture
def scene(place: Place) -> Iterator[Scene]:
    scene = Scene(place)
    yield scene
    for ledger in scene.ledgers:
        ledger.close()


@pytest.mark.parametrize("where", ["steps", "requeue"])
def test_a_database_that_goes_away_during_a_takeover_leaves_no_run_behind(
    scene: Scene, where: str
) -> None:
    """#716: runs that were not reached stayed pending; here each would have waited up to a minute
    for the one before."""
    runs = scene.runs(6, "dead")

    def away() -> None:
        def again() -> None:
            raise DatabaseUnavailable("made up")

        scene.run_store.between[where] = again  # the second one finds it away

    scene.run_store.between[where] = away
    with pytest.raises(DatabaseUnavailable):
        scene.recovery.take_over(dead("dead"))
    done = scene.recovery.take_over(dead("dead", again=True))

    assert done
    assert scene.states(runs) == {State.WAITING}
    assert [scene.recoveries(run) for run in runs] == [1] * 6


def test_who_takes_over_in_place_of_one_that_died_at_it_counts_nothing_twice(scene: Scene) -> None:
    runs = scene.runs(3, "dead")

    def die() -> None:
        raise DatabaseUnavailable("made up")

    scene.run_store.between["requeue"] = die
    with pytest.raises(DatabaseUnavailable):
        scene.recovery.take_over(dead("dead"))
    _, other = scene.taker()

    assert other.take_over(dead("dead", again=True))
    assert scene.states(runs) == {State.WAITING}
    assert [scene.recoveries(run) for run in runs] == [1] * 3


@pytest.mark.parametrize("where", ["steps", "requeue"])
def test_who_takes_over_too_late_takes_nothing_from_the_worker_that_has_the_run_by_now(
    scene: Scene, where: str
) -> None:
    """#742: what a second takeover knew from before was begun a second time, beside the one that
    had it."""
    (run,) = scene.runs(1, "dead")

    def overtaken() -> None:
        _, other = scene.taker()
        other.take_over(dead("dead", again=True))
        scene.run_store.claim(run, "living")

    scene.run_store.between[where] = overtaken
    scene.recovery.take_over(dead("dead"))

    assert scene.run_store.held(run) == (State.RUNNING, "living")
    assert scene.recoveries(run) == 1


def test_a_run_that_a_worker_took_after_it_lost_its_runs_continues_elsewhere(scene: Scene) -> None:
    """#804: a worker that is about to end takes what recovery has just put back, and it stays
    with a process that is gone."""
    processes.register(
        scene.place.engine, "living", kind="worker", environment_id=1, host="h", pid=1
    )
    stray, own = scene.runs(1, "gone")[0], scene.runs(1, "living")[0]

    scene.recovery.requeue_strays()
    at_once = scene.run_store.held(stray)
    scene.clock += STRAY_AFTER_S
    scene.recovery.requeue_strays()

    assert at_once == (State.RUNNING, "gone")
    assert (scene.run_store.held(stray)[0], scene.run_store.held(own)) == (
        State.WAITING,
        (State.RUNNING, "living"),
    )
    assert scene.recoveries(stray) == 0


def test_a_worker_that_ends_begins_nothing_more(sqlite_place: Place) -> None:
    straight = InMemoryEngine()
    settings = Settings(
        environment="test", database_url=sqlite_place.url, secret_keys=(sqlite_place.secret,)
    )
    worker = Worker(Host(settings, open_run_store=lambda *_: straight), straight)
    given = RunInput("v1/jobs", "POST", "/", "/v1/jobs/", "test", time.time())

    worker._stop_runs(lambda stop: stop.drain())  # noqa: SLF001  as `stop` does
    with pytest.raises(RunReleased):
        worker.perform(new_run_id(), given.document())


def test_what_was_taken_over_too_often_is_given_up_also_if_that_is_begun_twice(
    scene: Scene,
) -> None:
    (run,) = scene.runs(1, "dead 0")
    for number in range(MAX_RECOVERIES + 1):
        taken = dead(f"dead {number}")
        scene.recovery.take_over(taken)
        scene.recovery.take_over(taken._replace(again=True))
        if number < MAX_RECOVERIES:
            scene.run_store.claim(run, f"dead {number + 1}")

    with reading(scene.place.engine) as connection:
        row: Any = stored.find(connection, run)
    assert (row.status, row.problem, row.recoveries) == (
        "failed",
        "given-up",
        MAX_RECOVERIES + 1,
    )
    assert scene.run_store.held(run)[0] is State.CANCELLED
