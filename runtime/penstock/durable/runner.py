"""Durable runs: their input, and steps that run once although a run may be recovered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from penstock import clock
from penstock.contracts.call import Caller
from penstock.contracts.sanitize import clean_text
from penstock.contracts.steps import Step
from penstock.db.failures import DatabaseUnavailable
from penstock.durable.engine import Document, RunExecutor
from penstock.durable.outcomes import problem_document, refusal_of
from penstock.durable.step_outputs import error_document, pack_result, stored_error
from penstock.endpoints.encoding import unpack
from penstock.errors import DeadlineExceeded, Refusal, StepFailed
from penstock.runs.interrupts import EngineUnavailable, Interrupted
from penstock.runs.running_steps import RunningSteps
from penstock.runs.step_records import Attempt, StepRecord, new_record, redact_step, shifted
from penstock.runs.steps import (
    MAX_RECORDED_STEPS,
    Called,
    Term,
    side_by_side,
    try_step,
)

# Headers that concern the call only. Handlers get no credentials, so these need no filter here.
NOT_STORED = frozenset({"cookie", "idempotency-key"})


class RunInput(msgspec.Struct):
    """The input of a run: the call as its handler gets it.

    `accepted_at` is in seconds since the epoch. `ancestors` are the ids of the pipelines that wait
    for the run.
    """

    pipeline: str
    method: str
    route: str
    path: str
    environment: str
    accepted_at: float
    params: dict[str, str] = {}  # msgspec copies defaults
    query_string: str = ""
    headers: dict[str, str] = {}
    content_type: str = ""
    body: bytes = b""
    form: dict[str, list[str]] | None = None
    consumer: str | None = None
    consumer_id: int | None = None
    key_id: str | None = None
    subject: str | None = None
    scopes: list[str] = []
    claims: dict[str, Any] = {}
    traceparent: str | None = None
    ancestors: list[str] = []

    @property
    def caller(self) -> Caller:
        """The caller."""
        return Caller(
            self.consumer,
            self.consumer_id,
            self.key_id,
            self.subject,
            frozenset(self.scopes),
            self.claims,
        )

    def document(self) -> Document:
        """Return the input as the engine stores it."""
        return msgspec.to_builtins(self, builtin_types=(bytes,))  # type: ignore[no-any-return]  # a Struct becomes a dict

    @classmethod
    def of(cls, document: Document) -> RunInput:
        """Return the input from what the engine stores."""
        return msgspec.convert(document, cls)


def stored_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to store with a run, of those that a handler gets."""
    return {name: value for name, value in headers.items() if name.lower() not in NOT_STORED}


class DurableRunner:
    """Runs the steps of one durable run.

    The engine stores the output of each step. After a recovery the handler runs again from its
    start, and a step that has an output returns it and does not run.
    """

    def __init__(
        self,
        executor: RunExecutor,
        term: Term,
        start: Callable[..., object],
        report: Callable[[dict[str, object]], None],
        running: RunningSteps,
        *,
        began: float | None = None,
        offset: float = 0.0,
    ) -> None:
        """Take the term of the run, and what the run calls.

        `start` starts another pipeline, `report` records progress, and `running` takes the steps
        that are running. `began` is when the run first started, as a `time.monotonic()` reading of
        this process even if that was in another one; the times of steps are relative to it.
        `offset` is when the pipeline of these steps started, in milliseconds after `began`.
        """
        self.began = time.monotonic() if began is None else began
        self.interruptible = True  # the engine recovers the run
        self.thread = 0
        self.deadline = term.deadline
        self.last_progress: dict[str, object] | None = None
        self.steps: list[StepRecord] = []
        self._executor = executor
        self._start = start
        self._report = report
        self._term = term
        self._running = running
        self._clean = running.clean
        self._offset = offset

    def begin(self) -> None:
        """Note the thread that the handler runs in."""
        self.thread = threading.get_ident()

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Run a step, or return the result that it had before a recovery."""
        self._term.check()
        work = partial(self._run, step, args, kwargs)
        return self._result(step, self._executor.run_step(step.name, work))

    def gather(self, calls: Sequence[Called], at_once: int) -> list[Any]:
        """Run steps in parallel; their numbers are reserved in order, whichever ends first."""
        self._term.check()
        reserved = [(call, self._executor.reserve_step(call[0].name)) for call in calls]
        return side_by_side([partial(self._run_reserved, *item) for item in reserved], at_once)

    def _run_reserved(
        self, call: Called, run_step: Callable[[Callable[[], object]], object]
    ) -> Any:  # noqa: ANN401  what the step returns
        self._term.check()
        return self._result(call[0], run_step(partial(self._run, *call)))

    def _run(
        self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Document:
        """Run a step and return the output to store: its result, or what it raised.

        An interrupted step remains among the running ones: it has no output.
        """
        record = new_record(step, args, kwargs, self._now())
        redact_step(record, self._clean)
        number = self._executor.step_number()
        self._running.begin(number, record)
        output = self._output(step, args, kwargs, record)
        self._running.end(number)
        return output

    def _output(
        self,
        step: Step[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        record: StepRecord,
    ) -> Document:
        changed = self._running.attempted
        try:
            result = try_step(step, args, kwargs, self._term, self.began, record, changed)
            value = pack_result(step, result, record)
        except Interrupted:
            raise
        except DeadlineExceeded:
            return {"record": self._stored(record), "out_of_time": True}
        except BaseException as error:  # noqa: BLE001  a step may raise anything, and raises it again after a recovery
            record.failed = True
            return {"record": self._stored(record), "raised": error_document(error, step)}
        return {"record": self._stored(record), "value": value}

    def _stored(self, record: StepRecord) -> object:
        redact_step(record, self._clean)
        return msgspec.to_builtins(record)

    def _result(self, step: Step[..., Any], output: object) -> Any:  # noqa: ANN401  what the step returns
        """Return the result of a step, or raise what it raised, from its stored output."""
        if not isinstance(output, dict):
            raise StepFailed(f"the stored output of {step.name} has an unknown form")
        if len(self.steps) < MAX_RECORDED_STEPS:
            self.steps.append(shifted(msgspec.convert(output["record"], StepRecord), -self._offset))
        if output.get("out_of_time"):
            raise DeadlineExceeded
        if "raised" in output:
            raise stored_error(output["raised"])
        return unpack(output["value"], step.returns)

    def sleep(self, seconds: float) -> None:
        """Wait.

        The end of the pause is stored, so that a recovered run waits only for the rest of it.
        Raises DeadlineExceeded where the run has less time left.
        """

        def until() -> Document:
            return (
                {"out_of_time": True}
                if time.monotonic() + seconds >= self.deadline
                else {"left": clock.now() + seconds}
            )

        self._term.check()
        output: Any = self._executor.run_step("sleep", until)
        if output.get("out_of_time"):
            raise DeadlineExceeded
        # A clock that was set back makes no pause longer.
        self._term.stop.sleep(min(seconds, self._executor.seconds_until(output["left"])))

    def pause(self, seconds: float) -> None:
        """Wait within an operation of the runtime, which a recovered run repeats."""
        self._term.sleep(seconds)

    def within(self, deadline: float, start: Callable[..., object]) -> DurableRunner:
        """Return the runner of a pipeline that this one waits for; its steps are this run's."""
        return DurableRunner(
            self._executor,
            self._term.within(deadline),
            start,
            self.report,
            self._running,
            began=self.began,
            offset=self._now(),
        )

    def once(
        self,
        name: str,
        work: Callable[[], Any],
        decode: Callable[[Any], object] = lambda output: output,
    ) -> object:
        """Run an operation of the runtime as a step, and return its output through `decode`."""

        def do() -> Document:
            number, at = self._executor.step_number(), self._now()
            self._running.begin(number, StepRecord(name, at, attempts=[Attempt(at, 0.0)]))
            self._running.attempted()
            output = perform()
            self._running.end(number)
            return output

        def perform() -> Document:
            try:
                return {"left": work()}
            except DeadlineExceeded:
                return {"out_of_time": True}
            except Refusal as error:
                return {"problem": problem_document(error)}
            except DatabaseUnavailable as error:
                raise EngineUnavailable(str(error)) from error

        output: Any = self._executor.run_step(name, do)
        if output.get("out_of_time"):
            raise DeadlineExceeded
        if "problem" in output:
            raise refusal_of(output["problem"])
        return decode(output["left"])

    def call_pipeline(
        self, name: str, body: object, path: str, method: str, *, wait: bool
    ) -> object:
        """Start another pipeline."""
        self._term.check()
        return self._start(self, name, body, path, method, wait=wait)

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Record the progress of the run."""
        self.report({"done": done, "of": of, "note": clean_text(self._clean(note))[:255]})

    def report(self, progress: dict[str, object]) -> None:
        """Record progress, and keep it for the outcome of the run."""
        self.last_progress = progress
        self._report(progress)

    def _now(self) -> float:
        return round((time.monotonic() - self.began) * 1000, 3)
