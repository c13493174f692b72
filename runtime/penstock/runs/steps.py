"""Run the steps of a handler: attempts, pauses, time limits, and what is recorded of them."""

from __future__ import annotations

import contextvars
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from penstock.contracts.steps import Retry, Step, runner
from penstock.errors import DeadlineExceeded, PipelineError, StepTimedOut
from penstock.runs.interrupts import Interrupted, RunReleased
from penstock.runs.step_records import Attempt, StepRecord, describe_error, new_record
from penstock.runs.timeouts import TimedOut, run_with_deadline

Result = TypeVar("Result")
Called = tuple[Step[..., Any], tuple[Any, ...], Mapping[str, Any]]

MAX_RECORDED_STEPS = 1000  # steps of one run
# Attempts with a time limit that may run in this process, those included whose time is up.
MAX_TIMED_ATTEMPTS = 256
_aside = threading.BoundedSemaphore(MAX_TIMED_ATTEMPTS)


class StopSignal:
    """Stops the threads of one run.

    `cancel` is for a run that is finished for the engine, or belongs to another worker: nothing
    more of it may begin here. `drain` is for a worker that stops: the run ends at its next pause,
    and an attempt in progress may use the graceful timeout.
    """

    def __init__(self) -> None:
        self._wake = threading.Event()
        self.cancelled = False

    def cancel(self) -> None:
        """Stop the run at its next step, attempt or pause."""
        self.cancelled = True
        self._wake.set()

    def drain(self) -> None:
        """Stop the run at its next pause."""
        self._wake.set()

    def check(self) -> None:
        """Raise RunReleased where the run was cancelled."""
        if self.cancelled:
            raise RunReleased

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises RunReleased as soon as the run is to stop."""
        if self._wake.wait(seconds):
            raise RunReleased


NOT_STOPPABLE = StopSignal()  # inline runs end with their call


def _unowned(surely: bool) -> None:
    """Do nothing: an inline run belongs to no engine."""


@dataclass(frozen=True, slots=True)
class Term:
    """How long the steps of a run may continue: until the deadline, or until the run is stopped.

    `deadline` is a `time.monotonic()` reading. `confirm` raises RunReleased where the run no longer
    belongs to this process. It asks the engine if its argument is true, or if the last heartbeat
    of this process is so old that others may count it as dead.
    """

    deadline: float
    stop: StopSignal = NOT_STOPPABLE
    confirm: Callable[[bool], None] = _unowned

    def check(self) -> None:
        """Raise RunReleased or DeadlineExceeded where no further step may begin."""
        self.stop.check()
        self.confirm(False)
        if time.monotonic() >= self.deadline:
            raise DeadlineExceeded

    def sleep(self, seconds: float) -> None:
        """Sleep.

        Raises DeadlineExceeded at once where the run has less time left, and RunReleased as soon as
        it is to stop.
        """
        if time.monotonic() + seconds >= self.deadline:
            raise DeadlineExceeded
        self.stop.sleep(seconds)

    def pause(self, seconds: float) -> None:
        """Sleep between two attempts. Raises RunReleased where no further one may begin."""
        self.stop.sleep(seconds)
        self.confirm(True)

    def within(self, deadline: float) -> Term:
        """Return a term with an earlier deadline."""
        return replace(self, deadline=deadline)


def _unchanged() -> None:
    """Do nothing: the steps of an inline run are recorded with its end."""


def try_step(
    step: Step[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    term: Term,
    began: float,
    record: StepRecord,
    changed: Callable[[], None] = _unchanged,
) -> Any:  # noqa: ANN401  what the step returns
    """Run a step with its retries, and record each attempt.

    `began` is the `time.monotonic()` reading that attempts are counted from. `changed` is called
    before each attempt, and after one that is to be repeated.

    Raises what the last attempt raised, DeadlineExceeded where there was no time for one, or
    RunReleased where the run is to stop.
    """
    retry = step.retry
    pause = retry.backoff
    work = partial(step.function, *args, **kwargs)
    try:
        for number in range(1, retry.attempts + 1):
            tried = time.monotonic()
            if tried >= term.deadline:
                raise DeadlineExceeded  # noqa: TRY301  it is recorded as what any attempt raises
            attempt = Attempt(_ms(tried - began), 0.0)
            record.attempts.append(attempt)
            changed()
            try:
                return _once(work, step, term)
            except Interrupted:
                attempt.interrupted = True
                raise
            except BaseException as error:
                attempt.error = describe_error(error)
                if not isinstance(error, Exception):
                    raise
                wait = min(pause, retry.longest) * (
                    random.uniform(0.5, 1.0) if retry.jitter else 1.0  # noqa: S311  no secret
                )
                if (
                    number == retry.attempts
                    or not _helps(retry, error)
                    or time.monotonic() + wait >= term.deadline
                ):
                    raise
            finally:
                attempt.ms = _ms(time.monotonic() - tried)
            changed()
            term.pause(wait)
            pause *= 2
    except BaseException:
        record.failed = True
        raise
    finally:
        record.ms = max(0.0, round(_ms(time.monotonic() - began) - record.at, 3))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _helps(retry: Retry, error: Exception) -> bool:
    if isinstance(error, DeadlineExceeded) or (
        isinstance(error, PipelineError) and error.permanent
    ):
        return False
    kinds = retry.on if isinstance(retry.on, tuple) else (retry.on,)
    return isinstance(error, (StepTimedOut, *kinds))


def _once(work: Callable[[], Result], step: Step[..., Any], term: Term) -> Result:
    """Run one attempt, in a thread of its own where it has a time limit.

    There is no other way to leave code that hangs.
    """
    limit = (
        term.deadline
        if step.timeout is None
        else min(term.deadline, time.monotonic() + step.timeout)
    )
    inside = partial(_inside, work, term.within(limit))
    if step.timeout is None:
        return inside()
    if not _aside.acquire(blocking=False):
        raise StepTimedOut(
            f"{step.name} was not begun: {MAX_TIMED_ATTEMPTS} steps of this process are still busy,"
            " most of them beyond their time"
        )
    try:
        return run_with_deadline(inside, limit, _aside.release)
    except TimedOut:
        if limit >= term.deadline:
            raise DeadlineExceeded from None
        raise StepTimedOut(f"{step.name} took longer than {step.timeout:g} seconds") from None


def _inside(work: Callable[[], Result], term: Term) -> Result:
    token = runner.set(WithinStep(term))
    try:
        return work()
    finally:
        runner.reset(token)


def side_by_side(calls: Sequence[Callable[[], Any]], at_once: int) -> list[Any]:
    """Run calls in threads, and return their results in order.

    All calls run to their end, then the first failure, in order, is raised. If a call raises
    Interrupted, no further call begins, and that is raised.
    """
    interrupted: list[Interrupted] = []

    def run(call: Callable[[], Any]) -> Any:  # noqa: ANN401  what the call returns
        if interrupted:
            return None
        try:
            return call()
        except Interrupted as error:
            interrupted.append(error)

    with ThreadPoolExecutor(
        max_workers=max(1, min(at_once, len(calls))), thread_name_prefix="penstock-gather"
    ) as pool:
        waiting = [pool.submit(contextvars.copy_context().run, run, call) for call in calls]
    if interrupted:
        raise interrupted[0]
    return [future.result() for future in waiting]


class WithinStep:
    """Runs the steps that a step calls.

    They are part of the calling step: with their own retries and time limits, without records.
    """

    def __init__(self, term: Term) -> None:
        self.deadline = term.deadline
        self._term = term

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Run a step as part of this one."""
        self._term.check()
        record = StepRecord(step.name, 0.0)
        return try_step(step, args, kwargs, self._term, time.monotonic(), record)

    def gather(self, calls: Sequence[Called], at_once: int) -> list[Any]:
        """Run steps side by side."""
        return side_by_side([partial(self.step, *call) for call in calls], at_once)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._term.sleep(seconds)

    def call_pipeline(
        self,
        name: str,  # noqa: ARG002  it can't be done here
        body: object,  # noqa: ARG002
        path: str,  # noqa: ARG002
        method: str,  # noqa: ARG002
        *,
        wait: bool,  # noqa: ARG002
    ) -> object:
        """Raise RuntimeError: a step is recorded as a whole, and a pipeline has its own record."""
        raise RuntimeError("call_pipeline belongs into the handler, not into a step")

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Do nothing: a step is recorded as a whole."""


class Inline:
    """Runs the steps of an inline run, in the thread of its call."""

    __slots__ = ("_start", "began", "deadline", "interruptible", "steps", "thread")

    def __init__(
        self, deadline: float, start: Callable[..., object], *, interruptible: bool = False
    ) -> None:
        self.began = time.monotonic()
        self.deadline = deadline
        self.interruptible = interruptible
        self.steps: list[StepRecord] = []
        self.thread = 0
        self._start = start

    def begin(self) -> None:
        """Note the thread that the handler runs in."""
        self.thread = threading.get_ident()

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Run a step."""
        record = new_record(step, args, kwargs, _ms(time.monotonic() - self.began))
        if len(self.steps) < MAX_RECORDED_STEPS:
            self.steps.append(record)
        return try_step(step, args, kwargs, Term(self.deadline), self.began, record)

    def gather(self, calls: Sequence[Called], at_once: int) -> list[Any]:
        """Run steps side by side."""
        return side_by_side([partial(self.step, *call) for call in calls], at_once)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        Term(self.deadline).sleep(seconds)

    pause = sleep

    def call_pipeline(
        self, name: str, body: object, path: str, method: str, *, wait: bool
    ) -> object:
        """Start another pipeline. Raises DeadlineExceeded once the deadline has passed."""
        if time.monotonic() >= self.deadline:
            raise DeadlineExceeded
        return self._start(self, name, body, path, method, wait=wait)

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Do nothing: the caller gets the reply in a moment."""

    def within(self, deadline: float, start: Callable[..., object]) -> Inline:
        """Return the runner of a pipeline that this one waits for."""
        return Inline(deadline, start, interruptible=True)

    def once(
        self,
        name: str,  # noqa: ARG002  a durable run has a name for it
        work: Callable[[], Any],
        decode: Callable[[Any], object] = lambda left: left,
    ) -> object:
        """Run an operation of the runtime."""
        return decode(work())
