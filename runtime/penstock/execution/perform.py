"""Perform one call that was let through: run its handler, and what its handler starts.

The same for a call that waits and for a durable run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import msgspec
import pluggy
import structlog

from penstock import clock
from penstock.contracts.call import Call, Caller, current_call
from penstock.contracts.run_status import status_of
from penstock.contracts.sanitize import as_json
from penstock.contracts.steps import runner
from penstock.durable.engine import Document
from penstock.durable.engine import State as Far
from penstock.durable.intake import RunRequest
from penstock.durable.outcomes import refusal_of
from penstock.durable.runner import DurableRunner, RunInput
from penstock.durable.status import PROBLEM
from penstock.endpoints.encoding import encode_json
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer, checked_refusal, response_of
from penstock.endpoints.router import Routes
from penstock.errors import (
    CalledPipelineFailed,
    DeadlineExceeded,
    NotStarted,
    PipelineCallError,
    PipelineError,
    Refusal,
)
from penstock.gate.compliance import State
from penstock.host.host import Host
from penstock.runs.failures import Failure, failure_of
from penstock.runs.http_client import Client, trace_of
from penstock.runs.ids import derived_run_id, millis_of, new_run_id
from penstock.runs.interrupts import Interrupted, KeyMissing
from penstock.runs.records import Record, RecordedBodies
from penstock.runs.steps import Inline

DEEPEST = 16  # pipelines that start one another
LOOK = (0.05, 0.1, 0.2, 0.5)  # seconds between looks at a run that is waited for
JSON = "application/json"


@dataclass(slots=True)
class ParentRun:
    """What a pipeline that another one starts needs to know of that one.

    Its call, and those that wait for it.
    """

    call: Call
    ancestors: tuple[str, ...]
    traceparent: str | None = None
    started: int = 0


@dataclass(frozen=True, slots=True)
class Child:
    """A run that is to be started: its id, the handler, and what that gets."""

    run: str
    identifier: str
    endpoint: Endpoint
    params: dict[str, str]
    path: str
    body: bytes
    query: str = ""
    content_type: str = JSON


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded of a call: all of it, or it can't be run again."""

    path: str
    query: str
    body: bytes
    content_type: str


def failed() -> Refusal:
    """Return the answer for a handler that raised: it does not say what."""
    return Refusal(
        500, "pipeline-failed", "The pipeline failed; its operator finds the reason under this run."
    )


def handle(endpoint: Endpoint, call: Call, run: Inline | DurableRunner) -> Answer:
    """Run a handler in this thread, its steps by `run`, and return its reply.

    Raises what it raises, or ReplyError.

    It runs in a context of its own: what it, or a library, binds to the thread's is not there for
    the next call.
    """
    return copy_context().run(_handle, endpoint, call, run)


def _handle(endpoint: Endpoint, call: Call, run: Inline | DurableRunner) -> Answer:
    runner.set(run)
    current_call.set(call)
    try:
        return response_of(endpoint.run(call), endpoint.where, endpoint.check)
    except PipelineCallError as error:  # its own caller did nothing that the other one refuses
        raise CalledPipelineFailed(str(error)) from error
    except Refusal as error:
        raise checked_refusal(error, endpoint.where)  # noqa: B904  it is the same


def why_failed(error: BaseException, endpoint: Endpoint) -> Failure | None:
    """Return why a handler failed, for its record.

    None where it refused its call, which is no failure.
    """
    if isinstance(error, Refusal) and error.status < 500:  # noqa: PLR2004  the least status of a fault of ours
        return None
    return failure_of(error, endpoint.route.handler)


def client_of(run: str, deadline: float, traceparent: str | None) -> Callable[[], Client]:
    """Return what makes the HTTP client of a run, when it is first asked for."""
    return lambda: Client(run, deadline, trace_of(traceparent, run))


class Observers:
    """Tells plugins of calls, where any wants to be told; what they raise changes nothing."""

    def __init__(self, host: Host) -> None:
        hooks = host.catalog.plugins.manager.hook
        self._started = (
            hooks.penstock_call_started if hooks.penstock_call_started.get_hookimpls() else None
        )
        self._finished = (
            hooks.penstock_call_finished if hooks.penstock_call_finished.get_hookimpls() else None
        )
        self._log = structlog.get_logger("penstock.calls")

    def started(self, call: Call) -> None:
        """Tell that a call has begun."""
        if self._started is not None:
            self._tell(self._started, call=call)

    def finished(self, call: Call, status: int, seconds: float) -> None:
        """Tell that a call is over."""
        if self._finished is not None:
            self._tell(self._finished, call=call, status=status, seconds=seconds)

    def _tell(self, hook: pluggy.HookCaller, call: Call, **facts: object) -> None:
        def tell() -> None:
            current_call.set(call)
            hook(call=call, **facts)

        try:
            copy_context().run(tell)
        except BaseException:  # noqa: BLE001  a stranger's observer may raise anything; it must not change the answer
            self._log.exception("observer failed")


class SubpipelineRunner:
    """Starts pipelines for pipelines."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._routes = Routes(
            (
                (identifier, endpoint)
                for identifier, item in host.catalog.loaded.items()
                for endpoint in item.endpoints
            ),
            (),
        )
        self._log = structlog.get_logger("penstock.calls")

    def start(self, context: ParentRun) -> Callable[..., object]:
        """Return what starts pipelines for one call."""

        def start(
            run: Inline | DurableRunner,
            name: str,
            body: object,
            path: str,
            method: str,
            *,
            wait: bool,
        ) -> object:
            if len(context.ancestors) >= DEEPEST:
                raise NotStarted(
                    f"{name} was not started: {DEEPEST} pipelines wait for one another already"
                )
            identifier, endpoint, params = self._find(name, path, method)
            context.started += 1
            own = context.call.run
            made = derived_run_id(millis_of(own), own, "child", context.started)
            child = Child(
                made,
                identifier,
                endpoint,
                params,
                f"/{identifier}{path}",
                b"" if body is None else encode_json(body),
            )
            if endpoint.route.durable:
                return self._start_durable(context, run, child, wait=wait)
            if not wait:
                raise NotStarted(
                    f"{endpoint.route} of {identifier} can't be left alone: give it"
                    ' mode="durable", or wait for it'
                )
            return self._start_here(context, run, child)

        return start

    def _find(self, name: str, path: str, method: str) -> tuple[str, Endpoint, dict[str, str]]:
        """Return a handler of a pipeline that may be started here.

        Raises NotStarted, or PipelineError where it is refused or disabled.
        """
        identifiers = [
            identifier
            for identifier, item in self._host.catalog.loaded.items()
            if name in {identifier, item.pipeline.name}
        ]
        if len(identifiers) != 1:
            known = f"{len(identifiers)} pipelines are" if identifiers else "no pipeline is"
            raise NotStarted(f"{known} named {name!r} here; write an id, such as v1/orders")
        identifier = identifiers[0]
        if not self.may_start(identifier):
            raise PipelineError(
                503,
                "Pipeline unavailable",
                "A pipeline that this one needs is not available.",
                type="pipeline-unavailable",
            )
        found = self._routes.find(f"/{identifier}{path}")
        endpoint = found[0].endpoints.get(method) if found is not None else None
        if found is None or endpoint is None:
            raise NotStarted(f"{identifier} has no handler for {method} {path}")
        return identifier, endpoint, dict(zip(endpoint.in_path, found[1], strict=True))

    def may_start(self, identifier: str) -> bool:
        """Say whether a pipeline may be started here, by another or by the clock.

        It is served, or for no listener, and not disabled.
        """
        item = self._host.catalog.loaded.get(identifier)
        if item is None or item.broken:
            return False
        evaluated, internal = (
            self._host.view.evaluated.external.get(identifier),
            self._host.view.evaluated.internal.get(identifier),
        )
        if evaluated is None or internal is None:
            return False
        exposed = item.pipeline.trigger.external or item.pipeline.trigger.internal
        return (
            evaluated.served
            or internal.served
            or (not exposed and evaluated.state is State.INTERNAL)
        )

    def _start_here(self, context: ParentRun, run: Inline | DurableRunner, child: Child) -> object:
        """Run a handler in the thread of its caller, within the time that the caller has left."""
        parent = context.call
        deadline = min(run.deadline, time.monotonic() + child.endpoint.pipeline.trigger.timeout)
        call = self._call(child, deadline, parent.caller, context.traceparent)
        within = ParentRun(call, (*context.ancestors, child.identifier), context.traceparent)
        outcome = self._perform(
            call, child.endpoint, run.within(deadline, self.start(within)), parent=parent.run
        )
        if isinstance(outcome, DeadlineExceeded) and time.monotonic() >= run.deadline:
            raise outcome  # the time of both is up
        try:
            return _value(outcome)
        except Refusal as error:
            raise PipelineCallError(child.identifier, error) from error

    def again(
        self, endpoint: Endpoint, asked: Recorded, caller: Caller, redelivers: str
    ) -> tuple[str, str]:
        """Run a handler in this thread with what was recorded of a call.

        Return the new run and what became of it.
        """
        found = self._routes.find(asked.path)
        params = dict(zip(endpoint.in_path, found[1], strict=True)) if found is not None else {}
        child = Child(
            new_run_id(),
            endpoint.pipeline.id,
            endpoint,
            params,
            asked.path,
            asked.body,
            asked.query,
            asked.content_type,
        )
        deadline = time.monotonic() + endpoint.pipeline.trigger.timeout
        call = self._call(child, deadline, caller, None)
        inner = Inline(deadline, self.start(ParentRun(call, (child.identifier,))))
        outcome = self._perform(call, endpoint, inner, redelivers=redelivers)
        status = (
            status_of(outcome.status, outcome.code)
            if isinstance(outcome, Refusal)
            else status_of(outcome[0], None)
        )
        return child.run, status.value

    def _call(self, child: Child, deadline: float, caller: Caller, traceparent: str | None) -> Call:
        pipeline, access = child.endpoint.pipeline, self._host.view.access
        return Call(
            method=child.endpoint.route.method,
            path=child.path,
            pipeline=pipeline.name,
            version=pipeline.version,
            environment=self._host.settings.environment,
            run=child.run,
            deadline=deadline,
            caller=caller,
            params=child.params,
            query_string=child.query,
            content_type=child.content_type,
            read_body=lambda: child.body,
            variables=access.variables if access is not None else {},
            read_secrets=lambda: access.secrets_for(pipeline.id) if access is not None else {},
            read_http=client_of(child.run, deadline, traceparent),
        )

    def _perform(
        self,
        call: Call,
        endpoint: Endpoint,
        run: Inline | DurableRunner,
        *,
        parent: str | None = None,
        redelivers: str | None = None,
    ) -> Answer | Refusal:
        """Run a handler and record it; return its reply, or how it refused or failed."""
        began = time.monotonic()
        outcome: Answer | Refusal = failed()
        failure: Failure | None = None
        try:
            outcome = handle(endpoint, call, run)
        except Refusal as error:
            outcome = error
            failure = why_failed(error, endpoint)
        except Interrupted:
            raise
        except BaseException as error:  # noqa: BLE001  a stranger's handler may raise anything; it ends its run, not the process
            self._log.exception(
                "pipeline failed",
                pipeline=endpoint.pipeline.id,
                run=call.run,
                error=type(error).__name__,
            )
            failure = why_failed(error, endpoint)
        finally:
            call.end()
        services = self._host.services
        recorder = services.recorder if services is not None else None
        if recorder is None:
            return outcome
        refused = outcome if isinstance(outcome, Refusal) else None
        status = refused.status if refused is not None else outcome[0]  # type: ignore[index]  # it is an answer
        kept = None
        if recorder.keeps(endpoint.pipeline, status):
            answered = (
                (PROBLEM, as_json(refused.document(call.run)))
                if refused is not None
                else (JSON, outcome[2])  # type: ignore[index]  # the same
            )
            kept = RecordedBodies(
                call.path,
                call.query_string,
                call.content_type,
                call.body,
                None,
                *answered,
                call.params,
            )
        recorder.over(
            Record(
                call.run,
                endpoint.pipeline,
                str(endpoint.route),
                status,
                int((time.monotonic() - began) * 1e6),
                call.caller,
                refused.code if refused else None,
                refused.detail if refused else None,
                parent,
                None,
                run.steps or None,
                kept,
                redelivers,
                failure,
            )
        )
        return outcome

    def _start_durable(
        self, context: ParentRun, run: Inline | DurableRunner, child: Child, *, wait: bool
    ) -> object:
        """Have a run accepted, once however often it is asked for.

        Wait for its end, or return its id.
        """
        identifier, endpoint = child.identifier, child.endpoint
        if wait and identifier in context.ancestors:
            raise NotStarted(f"{identifier} waits for this run, which can't wait for it in turn")
        services, caller = self._host.services, context.call.caller
        accepting = services.run_intake if services is not None else None
        if accepting is None:
            raise NotStarted("no durable runs can be accepted in this process")
        given = RunInput(
            pipeline=identifier,
            method=endpoint.route.method,
            route=endpoint.route.path,
            path=child.path,
            environment=context.call.environment,
            accepted_at=clock.now(),
            params=child.params,
            content_type=child.content_type,
            body=child.body,
            consumer=caller.consumer,
            consumer_id=caller.consumer_id,
            key_id=caller.key_id,
            subject=caller.subject,
            scopes=sorted(caller.scopes),
            claims=dict(caller.claims),
            traceparent=context.traceparent,
            ancestors=[*context.ancestors, identifier] if wait else [identifier],
        )
        wanted = RunRequest(
            child.run, given, endpoint.pipeline, endpoint.route, parent=context.call.run
        )

        def accept() -> str:
            accepting.accept(wanted)
            return child.run

        # The id is what the step left: a run that was started again from a later step has its child
        # from the run before.
        left = run.once(f"call_pipeline {identifier}", accept)
        started = left if isinstance(left, str) else child.run
        if not wait:
            return started
        try:
            return run.once(
                f"wait for {identifier}", lambda: self._wait(started, run), decode=_outcome
            )
        except DeadlineExceeded:
            raise
        except Refusal as error:
            raise PipelineCallError(identifier, error) from error

    def _wait(self, child: str, run: Inline | DurableRunner) -> Document:
        """Return how a run ended that another one waits for.

        Raises DeadlineExceeded where that comes too late, RunReleased where it is to stop,
        KeyMissing.
        """
        services = self._host.services
        ledger = services.run_store if services is not None else None
        looks = itertools.chain(LOOK, itertools.repeat(LOOK[-1]))
        while ledger is not None:
            held = ledger.look([child], outcomes=True).get(child)
            if held is not None and held.state is Far.DONE and held.outcome is not None:
                return held.outcome
            if held is not None and held.undecryptable:
                raise KeyMissing(held.undecryptable)
            if held is None or held.state.over:
                raise PipelineError(
                    500, "Not ended well", f"The run {child} was cancelled, or could not go on."
                )
            run.pause(next(looks))
        raise DeadlineExceeded


def _outcome(left: Any) -> object:  # noqa: ANN401  what the engine kept
    return _value(
        refusal_of(left["problem"]) if "problem" in left else (left["status"], [], left["body"])
    )


def _value(outcome: Answer | Refusal) -> object:
    """Return what a pipeline replied, as decoded JSON, or as text where it is none.

    Raises Refusal, also for a reply with an error's status.
    """
    if isinstance(outcome, Refusal):
        raise outcome
    status, _, body = outcome
    try:
        value: object = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = body.decode(errors="replace")
    if status >= 400:  # noqa: PLR2004  the least status of an error
        raise PipelineError(status, "The pipeline refused", f"It answered {status}.", reply=value)
    return value
