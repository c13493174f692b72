"""Start pipelines for pipelines, and run recorded calls again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.contracts.call import Call, Caller
from penstock.contracts.run_status import status_of
from penstock.durable.engine import Document, State
from penstock.durable.intake import RunRequest
from penstock.durable.outcomes import refusal_of
from penstock.durable.runner import DurableRunner
from penstock.endpoints.encoding import encode_json
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer
from penstock.endpoints.router import Routes
from penstock.errors import (
    DeadlineExceeded,
    NotStarted,
    PipelineCallError,
    PipelineError,
    Refusal,
    quoted,
)
from penstock.execution.calls import JSON, CallFactory, run_input
from penstock.execution.executor import Executor
from penstock.gate.compliance import Evaluation
from penstock.gate.compliance import State as Exposure
from penstock.host.catalog import Catalog
from penstock.host.compilation import LoadedPipeline
from penstock.host.services import Services
from penstock.host.view import CurrentView
from penstock.runs.ids import derived_run_id, millis_of, new_run_id
from penstock.runs.interrupts import KeyMissing
from penstock.runs.steps import Inline

MAX_DEPTH = 16  # pipelines that wait for one another
# Seconds between two polls for the end of a run that another one waits for.
POLL_INTERVALS_S = (0.05, 0.1, 0.2, 0.5)
ERROR = 400  # the least status of an error


Runner = Inline | DurableRunner


@dataclass(slots=True)
class ParentRun:
    """The call that starts other pipelines, and the pipelines that wait for it.

    `started` is the number of runs that it has started so far.
    """

    call: Call
    ancestors: tuple[str, ...]
    traceparent: str | None = None
    started: int = 0


@dataclass(frozen=True, slots=True)
class Subrun:
    """A run to be started: its id, its handler and its input."""

    run: str
    endpoint: Endpoint
    params: dict[str, str]
    path: str
    body: bytes
    query: str = ""
    content_type: str = JSON

    @property
    def identifier(self) -> str:
        """The id of its pipeline."""
        return self.endpoint.pipeline.id


@dataclass(frozen=True, slots=True)
class RecordedInput:
    """The whole input of a recorded call, so that the call can be run again."""

    path: str
    query: str
    body: bytes
    content_type: str


def is_startable(
    item: LoadedPipeline | None, external: Evaluation | None, internal: Evaluation | None
) -> bool:
    """Return whether another pipeline or a schedule may start a pipeline.

    It is served, or on no listener, and not disabled.
    """
    if item is None or item.broken or external is None or internal is None:
        return False
    exposed = item.pipeline.trigger.external or item.pipeline.trigger.internal
    return (
        external.served or internal.served or (not exposed and external.state is Exposure.INTERNAL)
    )


class SubpipelineRunner:
    """Starts pipelines for other pipelines of the same environment."""

    def __init__(
        self,
        catalog: Catalog,
        view: CurrentView,
        services: Callable[[], Services | None],
        executor: Executor,
        calls: CallFactory,
    ) -> None:
        self._catalog, self._view, self._services = catalog, view, services
        self._executor = executor
        self._calls = calls
        self._routes = Routes(
            (
                (identifier, endpoint)
                for identifier, item in catalog.loaded.items()
                for endpoint in item.endpoints
            ),
            (),
        )

    def bind(self, parent: ParentRun) -> Callable[..., object]:
        """Return the function that `call_pipeline` calls within one run."""

        def start(
            runner: Runner, name: str, body: object, path: str, method: str, *, wait: bool
        ) -> object:
            if len(parent.ancestors) >= MAX_DEPTH:
                raise NotStarted(
                    f"{name} was not started: {MAX_DEPTH} pipelines wait for one another already"
                )
            endpoint, params = self._find(name, path, method)
            parent.started += 1
            own = parent.call.run
            run = derived_run_id(millis_of(own), own, "child", parent.started)
            content = b"" if body is None else encode_json(body)
            child = Subrun(run, endpoint, params, f"/{endpoint.pipeline.id}{path}", content)
            if endpoint.route.durable:
                return self._start_durable(parent, runner, child, wait=wait)
            if not wait:
                raise NotStarted(
                    f"{endpoint.route} of {child.identifier} can't be left alone: give it"
                    ' mode="durable", or wait for it'
                )
            return self._run_here(parent, runner, child)

        return start

    def _find(self, name: str, path: str, method: str) -> tuple[Endpoint, dict[str, str]]:
        """Return a handler that may be started, and the parameters of its path.

        Raises NotStarted, or PipelineError where its pipeline is blocked or disabled.
        """
        identifiers = [
            identifier
            for identifier, item in self._catalog.loaded.items()
            if name in {identifier, item.pipeline.name}
        ]
        if len(identifiers) != 1:
            number = f"{len(identifiers)} pipelines are" if identifiers else "no pipeline is"
            raise NotStarted(f"{number} named {quoted(name)} here; write an id, such as v1/orders")
        identifier = identifiers[0]
        if not self.may_start(identifier):
            raise PipelineError(
                503,
                "Pipeline unavailable",
                "A pipeline that this one needs is not available.",
                type="pipeline-unavailable",
            )
        match = self._routes.find(f"/{identifier}{path}")
        endpoint = match[0].endpoints.get(method) if match is not None else None
        if match is None or endpoint is None:
            raise NotStarted(f"{identifier} has no handler for {method} {path}")
        return endpoint, dict(zip(endpoint.in_path, match[1], strict=True))

    def may_start(self, identifier: str) -> bool:
        """Return whether another pipeline or a schedule may start a pipeline.

        It is served, or on no listener, and not disabled.
        """
        evaluated = self._view.evaluated
        return is_startable(
            self._catalog.loaded.get(identifier),
            evaluated.external.get(identifier),
            evaluated.internal.get(identifier),
        )

    def _run_here(self, parent: ParentRun, runner: Runner, child: Subrun) -> object:
        """Run a handler in the thread of its caller, within the time that the caller has left."""
        timeout = child.endpoint.pipeline.trigger.timeout
        deadline = min(runner.deadline, time.monotonic() + timeout)
        call = self._call(child, deadline, parent.call.caller, parent.traceparent)
        nested = ParentRun(call, (*parent.ancestors, child.identifier), parent.traceparent)
        inner = runner.within(deadline, self.bind(nested))
        outcome = self._executor.execute(child.endpoint, call, inner, observed=False)
        self._executor.record(
            child.endpoint,
            call,
            outcome,
            inner.steps,
            seconds=outcome.seconds,
            parent=parent.call.run,
        )
        refusal = outcome.refusal
        if isinstance(refusal, DeadlineExceeded) and time.monotonic() >= runner.deadline:
            raise refusal  # the time of both is up
        try:
            return _value(outcome.answer)
        except Refusal as error:
            raise PipelineCallError(child.identifier, error) from error

    def rerun(
        self, endpoint: Endpoint, recorded: RecordedInput, caller: Caller, redelivers: str
    ) -> tuple[str, str]:
        """Run a handler in this thread with a recorded input.

        Return the id of the new run, and its status.
        """
        match = self._routes.find(recorded.path)
        params = dict(zip(endpoint.in_path, match[1], strict=True)) if match is not None else {}
        child = Subrun(
            new_run_id(),
            endpoint,
            params,
            recorded.path,
            recorded.body,
            recorded.query,
            recorded.content_type,
        )
        deadline = time.monotonic() + endpoint.pipeline.trigger.timeout
        call = self._call(child, deadline, caller, None)
        runner = Inline(deadline, self.bind(ParentRun(call, (child.identifier,))))
        outcome = self._executor.execute(endpoint, call, runner, observed=False)
        self._executor.record(
            endpoint,
            call,
            outcome,
            runner.steps,
            seconds=outcome.seconds,
            redelivers=redelivers,
        )
        problem = outcome.refusal.code if outcome.refusal is not None else None
        return child.run, status_of(outcome.status, problem).value

    def _call(
        self, child: Subrun, deadline: float, caller: Caller, traceparent: str | None
    ) -> Call:
        return self._calls.create(
            child.endpoint,
            child.run,
            deadline,
            caller,
            path=child.path,
            params=child.params,
            query_string=child.query,
            content_type=child.content_type,
            traceparent=traceparent,
            read_body=lambda: child.body,
        )

    def _start_durable(
        self, parent: ParentRun, runner: Runner, child: Subrun, *, wait: bool
    ) -> object:
        """Accept a run once, also when its parent is recovered.

        Return its result where the parent waits for it, else its id.
        """
        identifier, endpoint = child.identifier, child.endpoint
        if wait and identifier in parent.ancestors:
            raise NotStarted(f"{identifier} waits for this run, which can't wait for it in turn")
        services = self._services()
        intake = services.run_intake if services is not None else None
        if intake is None:
            raise NotStarted("no durable runs can be accepted in this process")
        given = run_input(
            endpoint,
            parent.call.environment,
            parent.call.caller,
            path=child.path,
            params=child.params,
            content_type=child.content_type,
            body=child.body,
            traceparent=parent.traceparent,
            ancestors=[*parent.ancestors, identifier] if wait else [identifier],
        )
        request = RunRequest(
            child.run, given, endpoint.pipeline, endpoint.route, parent=parent.call.run
        )

        def accept() -> str:
            intake.accept(request)
            return child.run

        # The id is the step's result: a run that was started again from a later step has the child
        # of the run before.
        stored = runner.once(f"call_pipeline {identifier}", accept)
        started = stored if isinstance(stored, str) else child.run
        if not wait:
            return started
        try:
            return runner.once(
                f"wait for {identifier}", lambda: self._wait(started, runner), decode=_result
            )
        except DeadlineExceeded:
            raise
        except Refusal as error:
            raise PipelineCallError(identifier, error) from error

    def _wait(self, child: str, runner: Runner) -> Document:
        """Return how a run ended that another one waits for.

        Raises DeadlineExceeded where it does not end in time, RunReleased where the parent is to
        stop, and KeyMissing.
        """
        services = self._services()
        store = services.run_store if services is not None else None
        intervals = itertools.chain(POLL_INTERVALS_S, itertools.repeat(POLL_INTERVALS_S[-1]))
        while store is not None:
            run = store.look([child], outcomes=True).get(child)
            if run is not None and run.state is State.DONE and run.outcome is not None:
                return run.outcome
            if run is not None and run.undecryptable:
                raise KeyMissing(run.undecryptable)
            if run is None or run.state.over:
                raise PipelineError(
                    500, "Not ended well", f"The run {child} was cancelled, or could not continue."
                )
            runner.pause(next(intervals))
        raise DeadlineExceeded


def _result(stored: Any) -> object:  # noqa: ANN401  a document of the engine
    if "problem" in stored:
        raise refusal_of(stored["problem"])
    return _value((stored["status"], [], stored["body"]))


def _value(answer: Answer) -> object:
    """Return a pipeline's reply as decoded JSON, or as text where it is none.

    Raises PipelineError for a reply with the status of an error.
    """
    status, _, body = answer
    try:
        value: object = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = body.decode(errors="replace")
    if status >= ERROR:
        detail = f"It answered {status}."
        raise PipelineError(status, "The pipeline rejected the call", detail, reply=value)
    return value
