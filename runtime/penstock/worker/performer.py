"""Perform one durable run in a worker: its call, its handler, and how that ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from penstock import clock
from penstock.contracts.call import Call
from penstock.contracts.pipeline import Handler
from penstock.db.runs import FullRunRow
from penstock.durable.engine import Document, RunExecutor, RunStore
from penstock.durable.runner import DurableRunner, RunInput, check_size, outcome_of
from penstock.durable.status import body_of, ending_of
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer
from penstock.errors import DeadlineExceeded, Refusal
from penstock.execution.perform import (
    Observers,
    ParentRun,
    SubpipelineRunner,
    client_of,
    failed,
    handle,
    why_failed,
)
from penstock.host.compilation import LoadedPipeline
from penstock.host.host import Host
from penstock.runs.failures import Clean, cleaned
from penstock.runs.ids import millis_of
from penstock.runs.interrupts import (
    EngineUnavailable,
    NonDeterministicPipeline,
    ResultNotStorable,
    RunReleased,
)
from penstock.runs.recorder import Recorder
from penstock.runs.records import Finished, RecordedBodies
from penstock.runs.steps import StopSignal, Term

# Seconds after its acceptance in which nobody can have begun a run before without that being
# recorded.
FRESH = 2.0


@dataclass(slots=True)
class Performance:
    """A run under way here.

    What stops it, the thread that performs it, and the handler, once it is known.
    """

    stop: StopSignal
    thread: int
    handler: Handler | None = None


class Performer:
    """Performs the durable runs of one environment's pipelines."""

    def __init__(
        self,
        host: Host,
        bench: RunExecutor,
        find: Callable[[str], FullRunRow | None],
        confirm: Callable[[str, StopSignal, bool], None],
    ) -> None:
        """Take what finds a run's record.

        What raises RunReleased where this process lost a run.
        """
        self.starter = SubpipelineRunner(host)
        self._host = host
        self._bench = bench
        self._find = find
        self._confirm = confirm
        self._observers = Observers(host)
        self._log = structlog.get_logger("penstock.worker")

    def perform(
        self, run: str, given: RunInput, active: Performance, recorder: Recorder, ledger: RunStore
    ) -> Document:
        """Perform a run and return how it ended.

        Raises RunReleased where it is over, or another process's, by then.
        """
        item = self._host.catalog.loaded.get(given.pipeline)
        endpoint = endpoint_of(item, given.method, given.route)
        if item is None or endpoint is None:
            return outcome_of(_changed("its handler is not there any more"), [], 0)
        active.handler = endpoint.route.handler
        started = self._started(run, given, ledger)
        began = time.monotonic() - max(0.0, clock.now() - started)
        recorder.began(run, datetime.fromtimestamp(started, UTC))
        deadline = began + item.pipeline.durable.timeout
        call = self._call(run, given, endpoint, deadline)
        context = ParentRun(call, tuple(given.ancestors), given.traceparent)
        clean = self._host.view.cleaner(item.pipeline)
        term = Term(deadline, active.stop, partial(self._confirm, run, active.stop))
        runner = DurableRunner(
            self._bench,
            term,
            self.starter.start(context),
            partial(recorder.progress, run),
            clean,
            began=began,
        )
        self._observers.started(call)
        outcome = outcome_of(failed(), [], 0)
        try:
            how, error = self._handled(endpoint, call, runner, deadline)
            outcome = _outcome(how, error, endpoint, runner, clean) | {"started_at": started}
        finally:
            call.end()
            self._observers.finished(call, outcome["status"], time.monotonic() - began)
        if active.stop.cancelled:  # it was over before this, and its consumer was told so
            raise RunReleased
        recorder.ended(self._record(run, item, call, outcome, runner, recorder))
        return outcome

    def _handled(
        self, endpoint: Endpoint, call: Call, runner: DurableRunner, deadline: float
    ) -> tuple[Answer | Refusal, BaseException | None]:
        """Run the handler.

        Return its reply, or what its caller is told instead, with what was raised.
        """
        about = {"pipeline": endpoint.pipeline.id, "run": call.run}
        try:
            answer = handle(endpoint, call, runner)
            check_size(answer)
            if time.monotonic() >= deadline:
                raise DeadlineExceeded  # noqa: TRY301  as a step would
        except NonDeterministicPipeline as error:
            self._log.error("pipeline changed", **about, error=str(error))
            return _changed("its steps are not those that it did before"), error
        except ResultNotStorable as error:
            self._log.error("result not kept", **about, error=str(error))
            return failed(), error
        except EngineUnavailable:
            raise
        except Refusal as error:
            return error, error
        except BaseException as error:  # noqa: BLE001  a stranger's handler may raise anything; it ends its run, not the worker
            self._log.exception("pipeline failed", **about, error=type(error).__name__)
            return failed(), error
        return answer, None

    def _started(self, run: str, given: RunInput, ledger: RunStore) -> float:
        """Return when a run was first begun, perhaps in another worker, in seconds since the epoch.

        Never before it came.
        """
        now, came = clock.now(), millis_of(run) / 1000
        row = self._find(run)
        known: datetime | None = row.started_at if row is not None else None
        if known is not None:
            return max(came, min(now, known.timestamp()))
        if now - given.accepted_at < FRESH:
            return max(came, now)
        # Those before came with it from another run.
        done = [step.started_at for step in ledger.steps(run) if step.started_at >= came]
        return max(came, min([now, *done]))

    def _call(self, run: str, given: RunInput, endpoint: Endpoint, deadline: float) -> Call:
        access = self._host.view.access
        pipeline = endpoint.pipeline
        return Call(
            method=given.method,
            path=given.path,
            pipeline=pipeline.name,
            version=pipeline.version,
            environment=given.environment,
            run=run,
            deadline=deadline,
            caller=given.caller,
            params=given.params,
            query_string=given.query_string,
            content_type=given.content_type,
            read_headers=lambda: given.headers,
            read_body=lambda: given.body,
            read_form=lambda _: {name: list(values) for name, values in (given.form or {}).items()},
            variables=access.variables if access is not None else {},
            read_secrets=lambda: access.secrets_for(pipeline.id) if access is not None else {},
            read_http=client_of(run, deadline, given.traceparent),
        )

    @staticmethod
    def _record(
        run: str,
        item: LoadedPipeline,
        call: Call,
        outcome: Document,
        runner: DurableRunner,
        recorder: Recorder,
    ) -> Finished:
        exchange = None
        if recorder.keeps(item.pipeline, outcome["status"]):
            exchange = RecordedBodies(
                call.path,
                call.query_string,
                call.content_type,
                call.body,
                None,
                *body_of(outcome, run),
                call.params,
            )
        return Finished(
            run, item.pipeline, **ending_of(outcome), steps=runner.steps, exchange=exchange
        )


def endpoint_of(item: LoadedPipeline | None, method: str, path: str) -> Endpoint | None:
    """Return a handler of a pipeline by its method and its path as declared."""
    endpoints = item.endpoints if item is not None else ()
    return next(
        (one for one in endpoints if (one.route.method, one.route.path) == (method, path)), None
    )


def _changed(how: str) -> Refusal:
    return Refusal(
        500, "pipeline-changed", f"The pipeline was changed while this run was under way: {how}."
    )


def _outcome(
    how: Answer | Refusal,
    error: BaseException | None,
    endpoint: Endpoint,
    runner: DurableRunner,
    clean: Clean,
) -> Document:
    """Return how a run ended, as the engine keeps it; what can't be kept has failed."""
    micros = int((time.monotonic() - runner.began) * 1e6)
    more: Document = {"progress": runner.said} if runner.said is not None else {}
    failure = why_failed(error, endpoint) if error is not None else None
    kept = cleaned(failure, clean) if failure is not None else None
    return outcome_of(how, runner.steps, micros, kept) | more
