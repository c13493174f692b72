"""Run one handler: the only place that does.

HTTP calls, durable runs, `call_pipeline`, schedules, redelivery and the test kit all come through
`Executor.execute`. What differs between them is passed in: the runner knows how steps are run and
until when, and `within` adds what surrounds a handler, such as a deadline on the connection or an
idempotency key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Protocol

import msgspec
import pluggy
import structlog

from penstock.contracts.call import Call, current_call
from penstock.contracts.forms import Fields
from penstock.contracts.steps import Runner
from penstock.contracts.steps import runner as current_runner
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer, checked_refusal, response_of
from penstock.errors import CalledPipelineFailed, PipelineCallError, Refusal
from penstock.http.problems import refused_response
from penstock.runs.failures import Failure, failure_at, failure_of
from penstock.runs.interrupts import Interrupted, NonDeterministicPipeline, ResultNotStorable
from penstock.runs.recorder import Recorder
from penstock.runs.records import Record, RecordedBodies
from penstock.runs.step_records import StepRecord

Handle = Callable[[], Answer]
Received = tuple[bytes | None, Fields | None]

SERVER_ERROR = 500  # the least status of a fault that is not the caller's


class HandlerRunner(Runner, Protocol):
    """Runs the steps of one handler.

    `began` is a `time.monotonic()` reading; `steps` are the records so far. `interruptible` says
    that somebody can continue the run where it raises Interrupted: the engine, or a parent.
    """

    began: float
    interruptible: bool
    steps: list[StepRecord]
    thread: int

    def begin(self) -> None:
        """Note the thread that the handler runs in."""


class Outcome(msgspec.Struct):
    """How a call ended: its response, and why it was rejected or failed.

    `failure` is for operators alone. `sent` says that the response is on its way already: the
    deadline passed while the handler was still busy.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    refusal: Refusal | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    sent: bool = False

    @classmethod
    def refused(cls, refusal: Refusal, run: str, failure: Failure | None = None) -> Outcome:
        """Return the outcome of a call that ends with a problem (RFC 9457)."""
        return cls(*refused_response(refusal, run), refusal, failure)

    @property
    def answer(self) -> Answer:
        """Status, headers and body. Raises the refusal where the call ended with one."""
        if self.refusal is not None:
            raise self.refusal
        return self.status, self.headers, self.body


class DeadlinePassed(Exception):
    """Raised by `within`: the handler outlasted its call.

    `refusal` is the caller's answer, `sent` says that it is on its way already. The handler may
    still be busy; its result is discarded.
    """

    def __init__(self, refusal: Refusal, *, sent: bool) -> None:
        super().__init__()
        self.refusal = refusal
        self.sent = sent


def pipeline_failed() -> Refusal:
    """Return the answer for a handler that failed. The reason is for operators alone."""
    return Refusal(
        500, "pipeline-failed", "The pipeline failed; its operator finds the reason under this run."
    )


def pipeline_changed(reason: str) -> Refusal:
    """Return how a run ends whose pipeline no longer fits what the run has recorded."""
    detail = f"The pipeline was changed while this run was under way: {reason}."
    return Refusal(500, "pipeline-changed", detail)


class Executor:
    """Runs handlers, tells observers, and turns everything that they raise into an outcome."""

    def __init__(
        self, plugins: pluggy.PluginManager, recorder: Callable[[], Recorder | None]
    ) -> None:
        """Create the executor of a process; `recorder` returns where records are written."""
        hooks = plugins.hook
        started, finished = hooks.penstock_call_started, hooks.penstock_call_finished
        self._started = started if started.get_hookimpls() else None
        self._finished = finished if finished.get_hookimpls() else None
        self._recorder = recorder
        self._log = structlog.get_logger("penstock.calls")

    def execute(
        self,
        endpoint: Endpoint,
        call: Call,
        runner: HandlerRunner,
        within: Callable[[Handle], Answer] | None = None,
        *,
        observed: bool = True,
    ) -> Outcome:
        """Run a handler and return its outcome.

        `within` is given what runs the handler. It returns the answer to the call, from the handler
        or from elsewhere, or raises DeadlinePassed. Only calls that passed a gate are `observed`:
        neither runs within another run, nor those that an operator starts.

        Raises Interrupted where the run can't continue in this process and its runner is
        interruptible.
        """
        if observed and self._started is not None:
            self._notify(self._started, call=call)
        handle = partial(run_handler, endpoint, call, runner)
        status = SERVER_ERROR
        try:
            outcome = self._outcome(endpoint, call, runner, within, handle)
            status = outcome.status
        finally:
            seconds = time.monotonic() - runner.began
            if observed and self._finished is not None:
                self._notify(self._finished, call=call, status=status, seconds=seconds)
        outcome.seconds = seconds
        return outcome

    def _outcome(
        self,
        endpoint: Endpoint,
        call: Call,
        runner: HandlerRunner,
        within: Callable[[Handle], Answer] | None,
        handle: Handle,
    ) -> Outcome:
        run, handler = call.run, endpoint.route.handler
        try:
            return Outcome(*(within(handle) if within is not None else handle()))
        except Refusal as error:
            server_fault = error.status >= SERVER_ERROR
            return Outcome.refused(error, run, failure_of(error, handler) if server_fault else None)
        except DeadlinePassed as passed:
            self._log_end("pipeline over its time limit", endpoint, runner, passed.refusal, run)
            refusal, sent = passed.refusal, passed.sent
            failure = None if sent else failure_at(refusal, runner.thread, handler)
            outcome = Outcome.refused(refusal, run, failure)
            outcome.sent = sent
            return outcome
        except BaseException as error:  # noqa: BLE001  plugin code; its fault ends its run alone
            if isinstance(error, Interrupted) and runner.interruptible:
                refusal = self._end_of(error, endpoint, run)
            else:
                refusal = self._failed(error, endpoint, run)
            return Outcome.refused(refusal, run, failure_of(error, handler))

    def _end_of(self, error: Interrupted, endpoint: Endpoint, run: str) -> Refusal:
        """Return how a run ends that its engine can't continue. Raises all other interruptions."""
        facts = {"pipeline": endpoint.pipeline.id, "run": run, "error": str(error)}
        if isinstance(error, NonDeterministicPipeline):
            self._log.error("pipeline changed", **facts)
            return pipeline_changed("its steps are not those that it did before")
        if isinstance(error, ResultNotStorable):
            self._log.error("result not stored", **facts)
            return pipeline_failed()
        raise error

    def _failed(self, error: BaseException, endpoint: Endpoint, run: str) -> Refusal:
        self._log.error(
            "pipeline failed",
            pipeline=endpoint.pipeline.id,
            run=run,
            error=type(error).__name__,
            exc_info=error,
        )
        return pipeline_failed()

    def _log_end(
        self, event: str, endpoint: Endpoint, runner: HandlerRunner, refusal: Refusal, run: str
    ) -> None:
        if refusal.code == "host-stopping":
            event = "host stopped before a call ended"
        seconds = round(time.monotonic() - runner.began, 3)
        self._log.warning(event, pipeline=endpoint.pipeline.id, run=run, seconds=seconds)

    def record(  # noqa: PLR0913  a record has that many parts
        self,
        endpoint: Endpoint,
        call: Call,
        outcome: Outcome,
        steps: list[StepRecord],
        *,
        seconds: float,
        parent: str | None = None,
        redelivers: str | None = None,
        request_id: str | None = None,
        received: Received | None = None,
    ) -> None:
        """Hand the record of a run that is over to the recorder.

        `received` is what was read of body and form, where not all of it may have been.
        """
        recorder = self._recorder()
        if recorder is None:
            return
        refusal = outcome.refusal
        recorder.over(
            Record(
                call.run,
                endpoint.pipeline,
                endpoint.name,
                outcome.status,
                int(seconds * 1e6),
                call.caller,
                refusal.code if refusal is not None else None,
                refusal.detail if refusal is not None else None,
                parent,
                request_id,
                steps or None,
                bodies_of(recorder, endpoint, call, outcome, received),
                redelivers,
                outcome.failure,
            )
        )

    def _notify(self, hook: pluggy.HookCaller, call: Call, **facts: object) -> None:
        def notify() -> None:
            current_call.set(call)
            hook(call=call, **facts)

        try:
            copy_context().run(notify)
        except BaseException:  # noqa: BLE001  an observer is plugin code; it must not change the answer
            self._log.exception("observer failed")


def run_handler(endpoint: Endpoint, call: Call, runner: HandlerRunner) -> Answer:
    """Run a handler in this thread and return its reply.

    The handler runs in a context of its own: what it, or a library, binds to the context is gone
    for the next call. Files that came with the call are closed at its end.

    Raises what the handler raises, or ReplyError.
    """
    runner.begin()
    try:
        return copy_context().run(_run, endpoint, call, runner)
    finally:
        call.end()


def _run(endpoint: Endpoint, call: Call, runner: HandlerRunner) -> Answer:
    current_runner.set(runner)
    current_call.set(call)
    try:
        return response_of(endpoint.run(call), endpoint.where, endpoint.check)
    except PipelineCallError as error:  # the caller sent nothing of what the other pipeline rejects
        raise CalledPipelineFailed(str(error)) from error
    except Refusal as error:
        raise checked_refusal(error, endpoint.where)  # noqa: B904  it is the same


def bodies_of(
    recorder: Recorder,
    endpoint: Endpoint,
    call: Call,
    outcome: Outcome,
    received: Received | None = None,
) -> RecordedBodies | None:
    """Return the bodies of a call for its record; None where its pipeline records none."""
    if not recorder.keeps(endpoint.pipeline, outcome.status):
        return None
    return RecordedBodies(
        call.path,
        call.query_string,
        call.content_type,
        *(received if received is not None else (call.body, None)),
        content_type_of(outcome.headers),
        outcome.body,
        call.params,
    )


def content_type_of(headers: list[tuple[str, str]]) -> str:
    """Return the media type of a response, empty where it has none."""
    return next((value for name, value in headers if name.lower() == "content-type"), "")
