"""Which runs belong to this process: a thread stops as soon as its run does not.

A run is lost when it is cancelled, when its time is up, or when other workers count this process as
dead and take it. The engine rejects what a lost run writes, but its side effects outside would be
repeated, so the thread is stopped early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penstock.contracts.pipeline import Handler
from penstock.contracts.run_status import UNFINISHED
from penstock.db.engine import Engine
from penstock.db.failures import DatabaseUnavailable
from penstock.durable.engine import EngineRun, State
from penstock.errors import DeadlineExceeded
from penstock.host.catalog import Catalog
from penstock.host.services import Services
from penstock.runs.failures import failure_at
from penstock.runs.interrupts import RunReleased
from penstock.runs.steps import StopSignal
from penstock.worker.heartbeat import INTERVAL_S, Heartbeat
from penstock.worker.performer import Performance
from penstock.worker.reconciler import engine_end
from penstock.worker.started import find_run, intake_of, recorder_of


class Ownership:
    """Checks that the runs performed here belong to this process."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        services: Callable[[], Services | None],
        heartbeat: Heartbeat,
        active: Mapping[str, Performance],
    ) -> None:
        """Take the runs that threads of this process perform, by id."""
        self._engine = engine
        self._catalog, self._services = catalog, services
        self._heartbeat = heartbeat
        self._active = active

    def confirm(self, run: str, stop: StopSignal, surely: bool) -> None:
        """Raise RunReleased where a run does not belong to this process any more.

        The engine is asked where `surely`, or where heartbeats are overdue, so that a step costs no
        query as a rule. Without the database it waits, for the owner is unknown.
        """
        while surely or self._heartbeat.overdue:
            try:
                if self._owns(intake_of(self._services()).run_store.look([run]).get(run)):
                    return
            except DatabaseUnavailable:
                if not self._heartbeat.overdue:
                    return
                stop.sleep(INTERVAL_S)
            else:
                raise RunReleased

    def release_lost(self) -> None:
        """Stop the threads whose runs do not belong to this process. Raises DatabaseUnavailable."""
        for run, engine_run in (
            intake_of(self._services()).run_store.look(list(self._active)).items()
        ):
            active = self._active.get(run)
            if (
                active is None
                or active.stop.cancelled
                or self._owns(engine_run)
                or engine_run.state in {State.DONE, State.BROKEN}
            ):
                continue
            active.stop.cancel()
            if engine_run.state is State.CANCELLED and active.handler is not None:
                self._record_timeout(run, engine_run, active.thread, active.handler)

    def _owns(self, engine_run: EngineRun | None) -> bool:
        return (
            engine_run is not None
            and engine_run.state is State.RUNNING
            and engine_run.holder in {"", self._heartbeat.process}
        )

    def _record_timeout(
        self, run: str, engine_run: EngineRun, thread: int, handler: Handler
    ) -> None:
        """Record where the handler of a timed out run is, while its thread still has the frame."""
        row = find_run(self._engine, run)
        loaded = self._catalog.loaded.get(row.pipeline) if row is not None else None
        if row is None or loaded is None or row.cancelled_by or row.status not in UNFINISHED:
            return
        failure = failure_at(DeadlineExceeded(), thread, handler)
        run_store = intake_of(self._services()).run_store
        recorder_of(self._services()).ended(
            engine_end(row, engine_run, loaded.pipeline, run_store, failure)
        )
