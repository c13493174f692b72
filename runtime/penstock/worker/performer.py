"""Perform one durable run in a worker: its call, its handler, and how the run ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from penstock import clock
from penstock.contracts.pipeline import Handler
from penstock.db.runs import FullRunRow
from penstock.durable.engine import Document, RunExecutor, RunStore
from penstock.durable.outcomes import check_size, outcome_of
from penstock.durable.runner import DurableRunner, RunInput
from penstock.durable.status import body_of, ending_of
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer
from penstock.errors import DeadlineExceeded
from penstock.execution import Execution
from penstock.execution.executor import Handle, Outcome, pipeline_changed
from penstock.execution.subpipelines import ParentRun
from penstock.host.catalog import Catalog
from penstock.host.compilation import LoadedPipeline
from penstock.host.view import CurrentView
from penstock.runs.failures import Clean, cleaned
from penstock.runs.ids import millis_of
from penstock.runs.interrupts import RunReleased
from penstock.runs.recorder import Recorder
from penstock.runs.records import Finished, RecordedBodies
from penstock.runs.running_steps import RunningSteps, interrupted_steps
from penstock.runs.steps import StopSignal, Term

# Seconds after the acceptance of a run in which no other worker can have begun it unrecorded.
UNRECORDED_START_S = 2.0


@dataclass(slots=True)
class Performance:
    """A run in progress in this process.

    `stop` stops the run, `thread` performs it, and `handler` is set once it is known.
    """

    stop: StopSignal
    thread: int
    handler: Handler | None = None


class Performer:
    """Performs the durable runs of one environment's pipelines."""

    def __init__(
        self,
        execution: Execution,
        catalog: Catalog,
        view: CurrentView,
        executor: RunExecutor,
        find: Callable[[str], FullRunRow | None],
        confirm: Callable[[str, StopSignal, bool], None],
    ) -> None:
        """Create the performer of a worker.

        `find` returns the record of a run. `confirm` raises RunReleased where the run no longer
        belongs to this process.
        """
        self.subpipelines = execution.subpipelines
        self._calls = execution.calls
        self._handlers = execution.executor
        self._catalog, self._view = catalog, view
        self._engine = executor
        self._find = find
        self._confirm = confirm

    def perform(
        self, run: str, given: RunInput, active: Performance, recorder: Recorder, store: RunStore
    ) -> Document:
        """Perform a run and return how it ended.

        Raises RunReleased where the run was cancelled or recovered by another process meanwhile.
        """
        item = self._catalog.loaded.get(given.pipeline)
        endpoint = endpoint_of(item, given.method, given.route)
        if item is None or endpoint is None:
            return outcome_of(pipeline_changed("its handler is not there any more"), [], 0)
        active.handler = endpoint.route.handler
        row = self._find(run)
        started = self._started(row, run, given, store)
        now = clock.now()
        began = time.monotonic() - max(0.0, now - started)
        recorder.began(run, datetime.fromtimestamp(started, UTC))
        deadline = began + item.pipeline.durable.timeout
        call = self._calls.of_input(run, given, endpoint, deadline)
        parent = ParentRun(call, tuple(given.ancestors), given.traceparent)
        clean = self._view.cleaner(item.pipeline)
        runner = DurableRunner(
            self._engine,
            Term(deadline, active.stop, partial(self._confirm, run, active.stop)),
            self.subpipelines.bind(parent),
            partial(recorder.live.note_progress, run),
            _running_steps(row, run, recorder, clean, (now - started) * 1000),
            began=began,
        )
        outcome = self._handlers.execute(endpoint, call, runner, partial(_storable, deadline))
        ending = _ending(outcome, runner, clean) | {"started_at": started}
        if active.stop.cancelled:  # the run was over before, and its consumer knows it as such
            raise RunReleased
        bodies = None
        if recorder.keeps(item.pipeline, outcome.status):
            bodies = RecordedBodies(
                call.path,
                call.query_string,
                call.content_type,
                call.body,
                None,
                *body_of(ending, run),
                call.params,
            )
        recorder.ended(
            Finished(run, item.pipeline, **ending_of(ending), steps=runner.steps, exchange=bodies)
        )
        return ending

    def _started(self, row: FullRunRow | None, run: str, given: RunInput, store: RunStore) -> float:
        """Return when a run first began, perhaps in another worker, in seconds since the epoch.

        Never before its acceptance.
        """
        now, accepted = clock.now(), millis_of(run) / 1000
        recorded: datetime | None = row.started_at if row is not None else None
        if recorded is not None:
            return max(accepted, min(now, recorded.timestamp()))
        if now - given.accepted_at < UNRECORDED_START_S:
            return max(accepted, now)
        # Steps before the acceptance came with the run from the one that it redelivers.
        steps = [step.started_at for step in store.steps(run) if step.started_at >= accepted]
        return max(accepted, min([now, *steps]))


def _running_steps(
    row: FullRunRow | None, run: str, recorder: Recorder, clean: Clean, now_ms: float
) -> RunningSteps:
    """Return what keeps the steps of a run that are running, with those of the worker before.

    `now_ms` is in milliseconds since the start of the run.
    """
    changed = partial(recorder.live.note_steps, run)
    if row is None or not (row.running_steps or row.recoveries):
        return RunningSteps(changed, clean)
    earlier = interrupted_steps(row.running_steps, now_ms)
    return RunningSteps(changed, clean, earlier, recorder.flush)


def endpoint_of(item: LoadedPipeline | None, method: str, path: str) -> Endpoint | None:
    """Return a handler of a pipeline by its method and its path as declared."""
    endpoints = item.endpoints if item is not None else ()
    return next(
        (
            endpoint
            for endpoint in endpoints
            if (endpoint.route.method, endpoint.route.path) == (method, path)
        ),
        None,
    )


def _storable(deadline: float, handle: Handle) -> Answer:
    """Return the answer of a handler, once it is known to be storable and in time."""
    answer = handle()
    check_size(answer)
    if time.monotonic() >= deadline:
        raise DeadlineExceeded
    return answer


def _ending(outcome: Outcome, runner: DurableRunner, clean: Clean) -> Document:
    """Return how a run ended, as the engine stores it."""
    micros = int((time.monotonic() - runner.began) * 1e6)
    failure = cleaned(outcome.failure, clean) if outcome.failure is not None else None
    answer = outcome.refusal or (outcome.status, outcome.headers, outcome.body)
    progress: Document = (
        {"progress": runner.last_progress} if runner.last_progress is not None else {}
    )
    return outcome_of(answer, runner.steps, micros, failure) | progress
