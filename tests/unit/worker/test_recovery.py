"""Runs of dead workers: which are blamed, which are requeued, and in which order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from support.place import Place

from penstock.db import durable_runs, processes
from penstock.db import runs as stored
from penstock.db.engine import reading, writing
from penstock.db.run_tables import DurableRunRow
from penstock.durable.engine import EngineRun, EngineStep, State
from penstock.durable.engine_memory import InMemoryEngine
from penstock.durable.intake import RunIntake
from penstock.runs.ids import new_run_id
from penstock.worker.recovery import MAX_TRIAL_S, Recovery

MAX_RECOVERIES = 2


class Cellar(InMemoryEngine):
    """An engine whose runs are all under way in some worker."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, EngineRun] = {}
        self.owner: dict[str, str] = {}
        self.done: dict[str, int] = {}

    def begin(self, run: str, worker: str, at: float) -> None:
        self.held[run] = EngineRun(run, State.RUNNING, "test/v1/jobs", started_at=at, holder=worker)
        self.owner[run] = worker

    def look(self, runs: Sequence[str], *, outcomes: bool = False) -> dict[str, EngineRun]:
        return {run: self.held[run] for run in runs}

    def steps(self, run: str) -> list[EngineStep]:
        return [
            EngineStep(number, "work", None, 0.0, 0.0) for number in range(self.done.get(run, 0))
        ]

    def held_by(self, process: str) -> list[EngineRun]:
        return [
            item
            for run, item in sorted(self.held.items())
            if self.owner[run] == process and item.state is State.RUNNING
        ]

    def requeue(self, run: str, holder: str, queue: str) -> bool:
        if (self.held[run].state, self.owner[run]) != (State.RUNNING, holder):
            return False
        self.held[run] = replace(self.held[run], state=State.WAITING, started_at=None)
        return True

    def cancel(self, runs: Any) -> None:
        for run in runs:
            self.held[run] = replace(self.held[run], state=State.CANCELLED)


class Scene:
    """A place with runs of one pipeline, workers that end, and a clock."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.cellar = Cellar()
        self.clock = 1000.0
        accepting = RunIntake(place.engine, self.cellar, "test", 1)
        self.recovery = Recovery(
            place.engine,
            accepting,
            "test",
            lambda _: MAX_RECOVERIES,
            lambda _: None,
            now=lambda: self.clock,
        )
        self.workers = 0

    def run(self) -> str:
        run = new_run_id()
        with writing(self.place.engine) as connection:
            durable_runs.accept(
                connection,
                durable_runs.NewRun(
                    id=run,
                    environment_id=1,
                    pipeline="v1/jobs",
                    version="1",
                    route="POST /",
                ),
                callback_url=None,
            )
        return run

    def end(self, *runs: str, ended: bool = False, after: float = 2.0) -> processes.DeadWorker:
        """Let a worker end that performed runs, each begun a moment after the one before; return
        it, as it is taken over from."""
        self.workers += 1
        now = time.time()
        for index, run in enumerate(runs):
            self.cellar.begin(run, f"w{self.workers}", now - after + index * 0.001)
        return processes.DeadWorker(
            f"w{self.workers}", ended, datetime.fromtimestamp(now, UTC), again=False
        )

    def stored_run(self, run: str) -> stored.FullRunRow | None:
        with reading(self.place.engine) as connection:
            return stored.find(connection, run)

    def waiting(self) -> set[str]:
        return {run for run, item in self.cellar.held.items() if item.state is State.WAITING}

    def count(self, run: str) -> int:
        return int(self.stored_run(run).recoveries)


@pytest.fixture
def scene(sqlite_place: Place) -> Scene:
    return Scene(sqlite_place)


def test_runs_of_a_worker_that_was_stopped_are_not_counted(scene: Scene) -> None:
    run = scene.run()

    for _ in range(MAX_RECOVERIES + 3):
        assert scene.recovery.take_over(scene.end(run, ended=True))

    assert (scene.waiting(), scene.count(run), scene.stored_run(run).status) == (
        {run},
        0,
        "accepted",
    )


def test_a_run_that_ends_its_workers_is_given_up(scene: Scene) -> None:
    run = scene.run()

    for _ in range(MAX_RECOVERIES + 1):
        scene.recovery.take_over(scene.end(run))

    assert (scene.stored_run(run).status, scene.stored_run(run).problem) == (
        "failed",
        "given-up",
    )
    assert scene.cellar.held[run].state is State.CANCELLED


def test_a_step_that_ended_in_between_starts_the_count_again(scene: Scene) -> None:
    run = scene.run()

    for done in range(MAX_RECOVERIES + 4):
        scene.cellar.done[run] = done
        scene.recovery.take_over(scene.end(run))

    assert (scene.stored_run(run).status, scene.count(run), scene.waiting()) == (
        "accepted",
        1,
        {run},
    )


def test_suspects_are_tried_one_after_another_and_the_poison_alone_is_given_up(
    scene: Scene,
) -> None:
    runs = [scene.run() for _ in range(4)]
    poison = runs[2]
    dead = scene.end(*runs)
    scene.recovery.take_over(dead)
    together = scene.waiting()
    dead = [scene.end(*runs)]
    for _ in range(1000):
        if scene.stored_run(poison).status == "failed":
            break
        dead = [item._replace(again=True) for item in dead if not scene.recovery.take_over(item)]
        begun = sorted(scene.waiting(), key=lambda run: run == poison)
        for run in begun:
            scene.cellar.begin(run, "now", time.time())
        if poison in begun:
            fell = [item.run for item in scene.cellar.held_by("now")]
            dead.append(scene.end(*sorted(fell, key=lambda run: run == poison)))
        scene.clock += 1.0

    assert together == set(runs)
    assert [scene.stored_run(run).status for run in runs] == [
        "accepted",
        "accepted",
        "failed",
        "accepted",
    ]


def test_a_suspect_waits_with_its_dead_worker_until_the_one_before_is_known_to_be_harmless(
    scene: Scene,
) -> None:
    first, second = sorted([scene.run(), scene.run()])
    for _ in range(MAX_RECOVERIES - 1):
        scene.recovery.take_over(scene.end(first, second))
    dead = scene.end(first, second)

    done = [scene.recovery.take_over(dead)]
    waiting = scene.waiting()
    scene.cellar.begin(first, "alive", time.time())
    done.append(scene.recovery.take_over(dead._replace(again=True)))
    still = scene.waiting()
    scene.clock += MAX_TRIAL_S
    done.append(scene.recovery.take_over(dead._replace(again=True)))

    assert (waiting, still, scene.waiting()) == ({first}, set(), {second})
    assert done == [False, False, True]
    assert [scene.count(run) for run in (first, second)] == [MAX_RECOVERIES, MAX_RECOVERIES]


def test_a_tick_in_progress_continues(scene: Scene) -> None:
    tick = "sched-test/v1/clock */2 * * * * * UTC /-2026-11-25T04:00:00+00:00"

    assert scene.recovery.take_over(scene.end(tick))
    scene.recovery.retry(scene.cellar.held[tick])

    assert scene.waiting() == {tick}


def test_a_cancelled_run_does_not_continue_elsewhere(scene: Scene) -> None:
    run = scene.run()
    dead = scene.end(run)
    with writing(scene.place.engine) as connection:
        durable_runs.update(connection, run, {DurableRunRow.cancelled_by: "somebody"})

    scene.recovery.take_over(dead)

    assert (scene.waiting(), scene.stored_run(run).status) == (set(), "cancelled")


def test_one_process_alone_takes_over_and_another_when_it_is_gone_too(place: Place) -> None:
    for name in ("dead", "one", "two"):
        processes.register(place.engine, name, kind="worker", environment_id=1, host="h", pid=1)
    processes.heartbeat(place.engine, "dead", ended=True)

    def over(by: str, lease: float) -> list[tuple[str, bool, bool]]:
        return [
            (item.id, item.ended, item.again)
            for item in processes.claim_dead_workers(place.engine, 1, by, silent=60, lease=lease)
        ]

    assert over("one", 60) == [("dead", True, False)]
    assert over("two", 60) == []
    assert over("one", 60) == [("dead", True, True)]
    assert over("two", -1) == [("dead", True, True)]


@pytest.mark.parametrize(("by", "status"), [(None, "timed_out"), ("consumer acme", "cancelled")])
def test_a_run_that_timed_out_stays_so_although_its_handler_returned(
    scene: Scene, by: str | None, status: str
) -> None:
    run, other = scene.run(), scene.run()
    scene.end(run, other)
    scene.cellar.cancel([run])
    accepting = RunIntake(scene.place.engine, scene.cellar, "test", 1)

    with writing(scene.place.engine) as connection:
        durable_runs.update(connection, run, {DurableRunRow.cancelled_by: by})
        written = accepting.finish_in(
            connection,
            [durable_runs.End(run, "succeeded", 200), durable_runs.End(other, "succeeded", 200)],
        )

    assert written == {run: status, other: "succeeded"}
    assert scene.stored_run(run).status == status
