"""The queue of durable runs for operators: what waits, since when, and what workers perform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from penstock import clock
from penstock.access.lookup import environment_row
from penstock.db import durable_runs, run_queue
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.durable.engine import EngineRun, RunStore
from penstock.durable.intake import queue_of
from penstock.durable.status import received_at
from penstock.host.catalog import Catalog
from penstock.host.deployment_list import ProcessFacts, list_processes
from penstock.runs.ids import first_id, is_run_id

WAITS_OF_S = 86_400.0  # the median is of runs that were received within this time
OVERDUE_S = 60.0  # in the queue
WORKER = "worker"  # the kind of a process
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class QueueView:
    """The queue of a pipeline's durable runs.

    `oldest` is when the longest waiting run was received. `concurrency` is the maximum of running
    runs, 0 for no limit. `wait_p50` is the median time in the queue of the last day's runs, in
    seconds.
    """

    pipeline: str
    waiting: int
    oldest: datetime | None
    running: int
    concurrency: int
    backlog: int | None
    wait_p50: float | None


@dataclass(frozen=True, slots=True)
class RunningWork:
    """A run that a worker performs. `run` is None for a callback or a tick of a schedule."""

    run: str | None
    what: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker process and what it performs, oldest first."""

    id: str
    host: str
    pid: int | None
    since: datetime | None
    work: tuple[RunningWork, ...]


@dataclass(frozen=True, slots=True)
class RunQueue:
    """The queues of an environment's pipelines, and its workers."""

    queues: tuple[QueueView, ...]
    workers: tuple[WorkerView, ...]

    @property
    def waiting(self) -> int:
        """The number of runs that wait."""
        return sum(queue.waiting for queue in self.queues)


def run_queue_of(
    engine: Engine, catalog: Catalog, store_of: Callable[[str], RunStore], environment: str
) -> RunQueue:
    """Return the queue of an environment. Raises UnknownName.

    Pipelines that are not loaded here are listed where runs of them wait or run.
    """
    with reading(engine) as connection:
        row = environment_row(RowReader(connection), environment)
        backlogs = durable_runs.backlogs(connection, row.id)
    durable = {
        identifier: item.pipeline.durable
        for identifier, item in catalog.loaded.items()
        if item.durable
    }
    processes = [
        process for process in list_processes(engine, [environment]) if process.kind == WORKER
    ]
    # Without durable runs there may be no engine in the database.
    under_way = store_of(environment).under_way() if durable or backlogs else []
    works = [(run.holder, _work(environment, run)) for run in under_way]
    running = [work.what for _, work in works if work.run is not None]
    since = first_id(clock.now() - WAITS_OF_S)
    queues = []
    for pipeline in sorted({*durable, *backlogs, *running}):
        with reading(engine) as connection:
            started = run_queue.starts(connection, row.id, pipeline, since)
        waits = [max(0.0, (at - received_at(run)).total_seconds()) for run, at in started]
        backlog, limits = backlogs.get(pipeline), durable.get(pipeline)
        queues.append(
            QueueView(
                pipeline=pipeline,
                waiting=backlog.number if backlog else 0,
                oldest=received_at(backlog.oldest) if backlog else None,
                running=running.count(pipeline),
                concurrency=limits.concurrency if limits else 0,
                backlog=limits.backlog if limits else None,
                wait_p50=median(waits) if waits else None,
            )
        )
    return RunQueue(tuple(queues), _workers(processes, works))


def count_overdue(engine: Engine, environment_id: int) -> int:
    """Return how many runs wait for pipelines whose oldest run has waited for over a minute."""
    with reading(engine) as connection:
        backlogs = durable_runs.backlogs(connection, environment_id)
    limit = first_id(clock.now() - OVERDUE_S)
    return sum(backlog.number for backlog in backlogs.values() if backlog.oldest < limit)


def _work(environment: str, run: EngineRun) -> RunningWork:
    """Return a run of the engine as work; its queue says what it is."""
    what = run.queue.removeprefix(queue_of(environment, ""))
    started = datetime.fromtimestamp(run.started_at, UTC) if run.started_at else None
    own = is_run_id(run.run) and what.count("/") == 1
    return RunningWork(run.run if own else None, what, started)


def _workers(
    processes: list[ProcessFacts], works: list[tuple[str, RunningWork]]
) -> tuple[WorkerView, ...]:
    """Return workers with their work; one that is not alive is listed until its runs are taken."""

    def work_of(holder: str) -> tuple[RunningWork, ...]:
        own = [work for held_by, work in works if held_by == holder]
        return tuple(sorted(own, key=lambda work: work.since or NEVER))

    alive = {process.id for process in processes}
    others = sorted({holder for holder, _ in works} - alive)
    return (
        *(
            WorkerView(each.id, each.host, each.pid, each.since, work_of(each.id))
            for each in processes
        ),
        *(WorkerView(holder, "not alive", None, None, work_of(holder)) for holder in others),
    )
