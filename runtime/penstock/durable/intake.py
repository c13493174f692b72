"""Accept durable runs: record, engine and idempotency key in one transaction, or none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.contracts.pipeline import DEFAULT_PRIORITY, Pipeline, Route
from penstock.contracts.run_status import UNFINISHED, Status
from penstock.db import durable_runs
from penstock.db import runs as stored
from penstock.db.engine import Connection, Engine, writing
from penstock.db.run_tables import DurableRunRow
from penstock.durable.engine import RunStore, State
from penstock.durable.runner import RunInput
from penstock.errors import Refusal
from penstock.runs.ids import derived_run_id, millis_of
from penstock.runs.record_rows import fit_column

CALLBACKS = "callbacks"
ENDED_EARLY = frozenset({Status.CANCELLED, Status.TIMED_OUT})
MAX_CALLBACK_ATTEMPTS = 8
CALLBACK_TIMEOUT_S = 120.0  # of one attempt


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run to accept.

    `parent` is the run that started it, `redelivers` the run whose input it repeats. The results
    of the steps before `from_step` are copied from that run.
    """

    run: str
    given: RunInput
    pipeline: Pipeline
    route: Route
    callback_url: str | None = None
    parent: str | None = None
    redelivers: str | None = None
    request_id: str | None = None
    from_step: int | None = None


def queue_of(environment: str, pipeline: str) -> str:
    """Return the name of a pipeline's queue."""
    return f"{environment}/{pipeline}"


def ticks_of(environment: str, pipeline: str) -> str:
    """Return the name of the queue of the ticks of a pipeline's schedules.

    Workers that have loaded the pipeline poll it.
    """
    return f"{queue_of(environment, pipeline)}/ticks"


def callback_id(run: str, attempt: int) -> str:
    """Return the id of an attempt of a run's callback in the engine."""
    return derived_run_id(millis_of(run), run, "callback", attempt)


def engine_ids_of(runs: Mapping[str, bool]) -> list[str]:
    """Return the ids of runs and of all their callbacks; the values say whether they have one."""
    return [
        *runs,
        *(
            callback_id(run, attempt)
            for run, callback in runs.items()
            if callback
            for attempt in range(1, MAX_CALLBACK_ATTEMPTS + 1)
        ),
    ]


class RunIntake:
    """Accepts runs of one environment."""

    def __init__(
        self, engine: Engine, run_store: RunStore, environment: str, environment_id: int
    ) -> None:
        self.engine = engine
        self.run_store = run_store
        self._environment = environment
        self._environment_id = environment_id

    def accept(self, request: RunRequest) -> bool:
        """Accept a run. Return False where it was accepted before.

        Raises Refusal (503) where the backlog is full, and DatabaseUnavailable.
        """
        with writing(self.engine) as connection:
            return self.accept_in(connection, request)

    def accept_in(self, connection: Connection, request: RunRequest) -> bool:
        """Accept a run as part of a transaction."""
        pipeline = request.pipeline
        if (
            durable_runs.count_waiting(
                connection, self._environment_id, pipeline.id, pipeline.durable.backlog
            )
            >= pipeline.durable.backlog
        ):
            detail = "Too many runs of this pipeline wait already; try again later."
            raise Refusal(503, "pipeline-busy", detail, headers=[("Retry-After", "10")])
        fresh = durable_runs.accept(
            connection, self._new_run(request), callback_url=request.callback_url
        )
        if fresh:
            self.run_store.enqueue(
                connection,
                request.run,
                queue_of(self._environment, pipeline.id),
                request.given.document(),
                priority=request.route.priority,
                timeout=pipeline.durable.timeout,
            )
        return fresh

    def accept_record(self, request: RunRequest) -> None:
        """Write the record of a run that is added to the engine in another way."""
        with writing(self.engine) as connection:
            durable_runs.accept(
                connection, self._new_run(request), callback_url=request.callback_url
            )

    def finish_in(self, connection: Connection, ends: Sequence[durable_runs.End]) -> dict[str, str]:
        """Store ends of runs and queue their callbacks, as part of a transaction.

        Return the statuses of the ends that were new, by run.
        """
        finished = durable_runs.finish(connection, self._as_shown(connection, ends))
        for row in finished:
            if row.callback_url:
                self.call_back_in(connection, row.id, row.callback_url, row.consumer_id, attempt=1)
        return {row.id: row.status for row in finished}

    def _as_shown(
        self, connection: Connection, ends: Sequence[durable_runs.End]
    ) -> list[durable_runs.End]:
        """Return ends that agree with what the status API has shown.

        A run that was cancelled or timed out stays so, also if its handler ended later.
        """
        claimed = [end.run for end in ends if end.status not in ENDED_EARLY]
        cut = {
            run
            for run, item in self.run_store.look(claimed).items()
            if item.state is State.CANCELLED
        }
        return [self._ended_early(connection, end) if end.run in cut else end for end in ends]

    def _ended_early(self, connection: Connection, end: durable_runs.End) -> durable_runs.End:
        row = stored.find(connection, end.run)
        if row is not None and row.cancelled_by:
            return replace(
                end,
                status=Status.CANCELLED.value,
                http_status=None,
                problem=None,
                detail=None,
                bodies=None,
                failure=None,
            )
        return replace(
            end,
            status=Status.TIMED_OUT.value,
            http_status=504,
            problem="timed-out",
            detail=None,
            bodies=None,
        )

    def call_back_in(
        self,
        connection: Connection,
        run: str,
        url: str,
        consumer_id: int | None,
        *,
        attempt: int,
        delay: float = 0.0,
    ) -> None:
        """Queue one attempt of a callback; queueing it again does nothing."""
        document = {"callback": run, "url": url, "consumer_id": consumer_id, "attempt": attempt}
        identifier = callback_id(run, attempt)
        queue = queue_of(self._environment, CALLBACKS)
        self.run_store.enqueue(
            connection,
            identifier,
            queue,
            document,
            priority=DEFAULT_PRIORITY,
            timeout=CALLBACK_TIMEOUT_S,
            delay=delay,
        )

    def cancel(self, run: str, by: str) -> None:
        """Cancel a run and the unfinished runs that it started; `by` is the actor.

        Raises DatabaseUnavailable.
        """
        with writing(self.engine) as connection:
            ended = self._unfinished_tree(connection, run)
            for identifier in ended:
                durable_runs.update(connection, identifier, {DurableRunRow.cancelled_by: by[:255]})
        if ended:
            self.run_store.cancel(ended)
        self.close_cancelled(ended)

    def close_cancelled(self, runs: Iterable[str]) -> None:
        """Store that runs were cancelled, where they are cancelled in the engine."""
        engine_runs = self.run_store.look(list(runs))
        with writing(self.engine) as connection:
            self.finish_in(
                connection,
                [
                    durable_runs.End(run, Status.CANCELLED.value)
                    for run, item in engine_runs.items()
                    if item.state is State.CANCELLED
                ],
            )

    def _unfinished_tree(self, connection: Connection, run: str) -> list[str]:
        row = stored.find(connection, run)
        ended = [run] if row is not None and row.durable and row.status in UNFINISHED else []
        for child in stored.children(connection, run):
            ended += self._unfinished_tree(connection, child.id)
        return ended

    def _new_run(self, request: RunRequest) -> durable_runs.NewRun:
        """Return the record of an accepted run."""
        given = request.given
        return durable_runs.NewRun(
            id=request.run,
            environment_id=self._environment_id,
            pipeline=request.pipeline.id,
            version=fit_column(request.pipeline.version, 64) or "",
            route=fit_column(f"{given.method} {given.route}", 255) or "",
            consumer_id=given.consumer_id,
            subject=fit_column(given.subject, 255),
            parent=request.parent,
            redelivers=request.redelivers,
            request_id=request.request_id,
            key_id=given.key_id,
            from_step=request.from_step,
        )
