"""Accept durable runs.

The record, the engine's part and the idempotency key in one transaction, or nothing of it.
"""

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
CUT = frozenset({Status.CANCELLED, Status.TIMED_OUT})
ATTEMPTS = 8  # of a callback, at most
CALLBACK_TIMEOUT = 120.0  # seconds of one attempt


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run that is to be accepted.

    `parent` waits for it or started it, `redelivers` is the run whose input it has.
    """

    run: str
    given: RunInput
    pipeline: Pipeline
    route: Route
    callback_url: str | None = None
    parent: str | None = None
    redelivers: str | None = None
    request_id: str | None = None


def queue_of(environment: str, pipeline: str) -> str:
    """Return the name of the queue in which runs of a pipeline wait."""
    return f"{environment}/{pipeline}"


def ticks_of(environment: str, pipeline: str) -> str:
    """Return the name of the queue in which ticks of a pipeline's schedules wait.

    A worker that has the pipeline takes them from there.
    """
    return f"{queue_of(environment, pipeline)}/ticks"


def callback_id(run: str, attempt: int) -> str:
    """Return the id under which the engine holds an attempt to tell a run's end."""
    return derived_run_id(millis_of(run), run, "callback", attempt)


def all_held(runs: Mapping[str, bool]) -> list[str]:
    """Return all runs that the engine holds, by whether their end was to be told."""
    return [
        *runs,
        *(
            callback_id(run, attempt)
            for run, told in runs.items()
            if told
            for attempt in range(1, ATTEMPTS + 1)
        ),
    ]


class RunIntake:
    """Accepts runs of one environment."""

    def __init__(
        self, engine: Engine, ledger: RunStore, environment: str, environment_id: int
    ) -> None:
        self.engine = engine
        self.run_store = ledger
        self._environment = environment
        self._environment_id = environment_id

    def accept(self, wanted: RunRequest) -> bool:
        """Accept a run; return False if it was accepted before.

        Raises Refusal (503) where too many wait, and DatabaseUnavailable.
        """
        with writing(self.engine) as connection:
            return self.accept_in(connection, wanted)

    def accept_in(self, connection: Connection, wanted: RunRequest) -> bool:
        """Accept a run as part of a transaction."""
        pipeline = wanted.pipeline
        if (
            durable_runs.count_waiting(
                connection, self._environment_id, pipeline.id, pipeline.durable.backlog
            )
            >= pipeline.durable.backlog
        ):
            detail = "Too many runs of this pipeline wait already; try again later."
            raise Refusal(503, "pipeline-busy", detail, headers=[("Retry-After", "10")])
        fresh = durable_runs.accept(
            connection, self.new_run(wanted), callback_url=wanted.callback_url
        )
        if fresh:
            self.run_store.enqueue(
                connection,
                wanted.run,
                queue_of(self._environment, pipeline.id),
                wanted.given.document(),
                priority=wanted.route.priority,
                timeout=pipeline.durable.timeout,
            )
        return fresh

    def accept_record(self, wanted: RunRequest) -> None:
        """Write the record of a run that the engine is told of in another way."""
        with writing(self.engine) as connection:
            durable_runs.accept(connection, self.new_run(wanted), callback_url=wanted.callback_url)

    def finish_in(self, connection: Connection, ends: Sequence[durable_runs.End]) -> dict[str, str]:
        """Note how runs ended, as part of a transaction.

        Also queue the callbacks that consumers asked for. Return the statuses of runs whose end was
        not known.
        """
        found = durable_runs.finish(connection, self._as_told(connection, ends))
        for row in found:
            if row.callback_url:
                self.call_back_in(connection, row.id, row.callback_url, row.consumer_id, attempt=1)
        return {row.id: row.status for row in found}

    def _as_told(
        self, connection: Connection, ends: Sequence[durable_runs.End]
    ) -> list[durable_runs.End]:
        """Return ends as consumers were told them.

        A run that was cancelled, or whose time was up, in the middle of its work stays so.
        """
        claimed = [end.run for end in ends if end.status not in CUT]
        cut = {
            run
            for run, item in self.run_store.look(claimed).items()
            if item.state is State.CANCELLED
        }
        return [self._cut(connection, end) if end.run in cut else end for end in ends]

    def _cut(self, connection: Connection, end: durable_runs.End) -> durable_runs.End:
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
        """Have one attempt of a callback made, once however often it is asked for."""
        document = {"callback": run, "url": url, "consumer_id": consumer_id, "attempt": attempt}
        identifier = callback_id(run, attempt)
        queue = queue_of(self._environment, CALLBACKS)
        self.run_store.enqueue(
            connection,
            identifier,
            queue,
            document,
            priority=DEFAULT_PRIORITY,
            timeout=CALLBACK_TIMEOUT,
            delay=delay,
        )

    def cancel(self, run: str, by: str) -> None:
        """End a run, and those that it started and that are not over.

        Raises DatabaseUnavailable.
        """
        with writing(self.engine) as connection:
            ended = self._not_over(connection, run)
            for one in ended:
                durable_runs.update(connection, one, {DurableRunRow.cancelled_by: by[:255]})
        if ended:
            self.run_store.cancel(ended)
        self.close_cancelled(ended)

    def close_cancelled(self, runs: Iterable[str]) -> None:
        """Note that runs were cancelled, where the engine ended them and they did not."""
        held = self.run_store.look(list(runs))
        with writing(self.engine) as connection:
            self.finish_in(
                connection,
                [
                    durable_runs.End(run, Status.CANCELLED.value)
                    for run, item in held.items()
                    if item.state is State.CANCELLED
                ],
            )

    def _not_over(self, connection: Connection, run: str) -> list[str]:
        found = stored.find(connection, run)
        ended = [run] if found is not None and found.durable and found.status in UNFINISHED else []
        for child in stored.children(connection, run):
            ended += self._not_over(connection, child.id)
        return ended

    def new_run(self, wanted: RunRequest) -> durable_runs.NewRun:
        """Return the record of a run that waits."""
        given = wanted.given
        return durable_runs.NewRun(
            id=wanted.run,
            environment_id=self._environment_id,
            pipeline=wanted.pipeline.id,
            version=fit_column(wanted.pipeline.version, 64) or "",
            route=fit_column(f"{given.method} {given.route}", 255) or "",
            consumer_id=given.consumer_id,
            subject=fit_column(given.subject, 255),
            parent=wanted.parent,
            redelivers=wanted.redelivers,
            request_id=wanted.request_id,
        )
