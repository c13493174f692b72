"""Record the ends of durable runs that no worker recorded.

The engine is the first to know how a run ended. Its record follows, unless the worker died in
between, the run was cancelled, or its time was up while no thread performed it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import UTC, datetime

from penstock import clock
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.run_status import Status
from penstock.db import durable_runs
from penstock.db.engine import Engine, reading
from penstock.db.runs import RunStateRow
from penstock.durable.engine import EngineRun, RunStore, State
from penstock.durable.status import ending_of, started_of, steps_held
from penstock.host.catalog import Catalog
from penstock.host.services import Services
from penstock.host.view import CurrentView
from penstock.runs.failures import Failure
from penstock.runs.ids import first_id
from penstock.runs.records import Finished
from penstock.worker.started import intake_of, recorder_of

MIN_AGE_S = 5.0  # of a run: the worker that performs a younger one records its end itself
BATCH_SIZE = 500  # records in one round
UNKNOWN_AFTER_S = 120.0  # age of a run after which the engine will not learn of it any more


class Reconciler:
    """Compares the records of unfinished runs with what the engine stores of them."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        view: CurrentView,
        services: Callable[[], Services | None],
        active: Container[str],
    ) -> None:
        """Take the ids of the runs that this process performs; their threads record their ends."""
        self._engine = engine
        self._catalog, self._view, self._services = catalog, view, services
        self._active = active
        self._after: str | None = None  # the last run of the batch before

    def reconcile(self) -> None:
        """Record the ends of the next batch of runs. Raises DatabaseUnavailable."""
        with reading(self._engine) as connection:
            rows = durable_runs.unfinished(
                connection,
                self._view.environment_id,
                after=self._after,
                before=first_id(clock.now() - MIN_AGE_S),
                limit=BATCH_SIZE,
            )
        self._after = rows[-1].id if len(rows) == BATCH_SIZE else None
        engine_runs = intake_of(self._services()).run_store.look(
            [row.id for row in rows], outcomes=True
        )
        for row in rows:
            self._reconcile(row, engine_runs.get(row.id))

    def _reconcile(self, row: RunStateRow, engine_run: EngineRun | None) -> None:
        run, loaded = row.id, self._catalog.loaded.get(row.pipeline)
        recorder = recorder_of(self._services())
        if loaded is None or recorder.knows_end(run):
            return
        cancelled = engine_run is not None and engine_run.state is State.CANCELLED
        if run in self._active and not cancelled:
            return
        if engine_run is None:
            if run < first_id(clock.now() - UNKNOWN_AFTER_S):
                recorder.ended(
                    Finished(
                        run,
                        loaded.pipeline,
                        Status.FAILED,
                        500,
                        problem="not-begun",
                        detail="The engine does not know this run.",
                    )
                )
            return
        intake = intake_of(self._services())
        if row.cancelled_by and not engine_run.state.over:
            intake.run_store.cancel([run])
            intake.close_cancelled([run])
        elif engine_run.state.over and not engine_run.undecryptable:
            # A worker with the key records the end of one that can't be decrypted here.
            recorder.ended(engine_end(row, engine_run, loaded.pipeline, intake.run_store))


def engine_end(
    row: RunStateRow,
    engine_run: EngineRun,
    pipeline: Pipeline,
    run_store: RunStore,
    failure: Failure | None = None,
) -> Finished:
    """Return the end of a run as the engine stores it; `failure` is that of a run that timed out.

    Raises DatabaseUnavailable.
    """
    run = row.id
    steps = steps_held(run_store.steps(run), started_of(row, engine_run), row.from_step)
    if engine_run.state is State.DONE and engine_run.outcome is not None:
        return Finished(run, pipeline, **ending_of(engine_run.outcome), steps=steps)
    ended = datetime.fromtimestamp(engine_run.ended_at, UTC) if engine_run.ended_at else None
    if engine_run.state is State.CANCELLED and row.cancelled_by:
        return Finished(run, pipeline, Status.CANCELLED, steps=steps, ended_at=ended)
    if engine_run.state is State.CANCELLED:
        status, http_status, problem, detail = Status.TIMED_OUT, 504, "timed-out", None
    else:
        status, http_status, problem = Status.FAILED, 500, "pipeline-failed"
        detail, failure = engine_run.error, None
    return Finished(
        run,
        pipeline,
        status,
        http_status,
        problem=problem,
        detail=detail,
        steps=steps,
        failure=failure,
        ended_at=ended,
    )
