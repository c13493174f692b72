"""Run the steps of a handler: attempts, pauses, time limits, and what is recorded of them."""

from __future__ import annotations

import contextvars
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from penstock.contracts.masks import shortened
from penstock.contracts.steps import Retry, Step, runner
from penstock.errors import OutOfTime, PipelineError, StepTimedOut
from penstock.runs.aside import TimeIsUp, run_aside
from penstock.runs.plain import said

Result = TypeVar("Result")
Called = tuple[Step[..., Any], tuple[Any, ...], Mapping[str, Any]]

MOST_RECORDED = 1000  # steps of one run
LONGEST_TEXT = 500  # characters of an error
MOST_LEFT_BEHIND = 256  # attempts with a time limit that may run in this process, those included whose time is up
_aside = threading.BoundedSemaphore(MOST_LEFT_BEHIND)


class Attempt(msgspec.Struct, omit_defaults=True):
    """One try of a step: when it began, in milliseconds since its run did, how long it took, and what it raised."""

    at: float
    ms: float
    error: str = ""


class StepRecord(msgspec.Struct, omit_defaults=True):
    """What is known of a step of a run: its attempts, and whether it failed. `number` is the engine's, where there is one."""

    name: str
    at: float
    ms: float = 0.0
    attempts: list[Attempt] = []  # msgspec copies defaults
    failed: bool = False
    number: int = 0


def told(error: BaseException) -> str:
    """Return what an error says, in one line that is not too long."""
    return shortened(" ".join(f"{type(error).__name__}: {said(error)}".split()), LONGEST_TEXT)


def try_step(step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], deadline: float, began: float, record: StepRecord) -> Any:  # noqa: ANN401  what the step returns
    """Run a step with its retries, and record each attempt; `deadline` and `began` are `time.monotonic()` readings of its run.

    Raises what the last attempt raised, or OutOfTime where there was no time for one.
    """
    retry = step.retry
    pause = retry.backoff
    work = partial(step.function, *args, **kwargs)
    started = time.monotonic()
    try:
        for number in range(1, retry.attempts + 1):
            tried = time.monotonic()
            if tried >= deadline:
                raise OutOfTime  # noqa: TRY301  it is recorded as what any attempt raises
            attempt = Attempt(_ms(tried - began), 0.0)
            record.attempts.append(attempt)
            try:
                return _once(work, step, deadline)
            except BaseException as error:
                attempt.error = told(error)
                if not isinstance(error, Exception):
                    raise
                wait = min(pause, retry.longest) * (random.uniform(0.5, 1.0) if retry.jitter else 1.0)  # noqa: S311  no secret
                if number == retry.attempts or not _helps(retry, error) or time.monotonic() + wait >= deadline:
                    raise
            finally:
                attempt.ms = _ms(time.monotonic() - tried)
            time.sleep(wait)
            pause *= 2
    except BaseException:
        record.failed = True
        raise
    finally:
        record.ms = _ms(time.monotonic() - started)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _helps(retry: Retry, error: Exception) -> bool:
    if isinstance(error, OutOfTime) or (isinstance(error, PipelineError) and error.permanent):
        return False
    kinds = retry.on if isinstance(retry.on, tuple) else (retry.on,)
    return isinstance(error, (StepTimedOut, *kinds))


def _once(work: Callable[[], Result], step: Step[..., Any], deadline: float) -> Result:
    """Run one attempt, in a thread of its own where it has a time limit: nothing else ends what is stuck."""
    limit = deadline if step.timeout is None else min(deadline, time.monotonic() + step.timeout)
    inside = partial(_inside, work, limit)
    if step.timeout is None:
        return inside()
    if not _aside.acquire(blocking=False):
        raise StepTimedOut(f"{step.name} was not begun: {MOST_LEFT_BEHIND} steps of this process are still busy, most of them beyond their time")
    try:
        return run_aside(inside, limit, _aside.release)
    except TimeIsUp:
        if limit >= deadline:
            raise OutOfTime from None
        raise StepTimedOut(f"{step.name} took longer than {step.timeout:g} seconds") from None


def _inside(work: Callable[[], Result], deadline: float) -> Result:
    token = runner.set(WithinStep(deadline))
    try:
        return work()
    finally:
        runner.reset(token)


def side_by_side(calls: Sequence[Callable[[], Any]], at_once: int) -> list[Any]:
    """Run calls in threads, all to their end, and return their results in order; the first failure, in order, is raised then."""
    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(calls))), thread_name_prefix="penstock-gather") as pool:
        waiting = [pool.submit(contextvars.copy_context().run, call) for call in calls]
    return [future.result() for future in waiting]


def wait_within(seconds: float, deadline: float) -> None:
    """Wait, where the run has that much time left. Raises OutOfTime at once where it has not."""
    if time.monotonic() + seconds >= deadline:
        raise OutOfTime
    time.sleep(seconds)


class WithinStep:
    """Runs what a step does itself: a step that it calls is part of it, with its own retries and time limit, and no record of its own."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Run a step as part of this one."""
        now = time.monotonic()
        return try_step(step, args, kwargs, self.deadline, now, StepRecord(step.name, 0.0))

    def gather(self, calls: Sequence[Called], at_once: int) -> list[Any]:
        """Run steps side by side."""
        return side_by_side([partial(self.step, *call) for call in calls], at_once)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        wait_within(seconds, self.deadline)

    def call_pipeline(self, name: str, body: object, path: str, method: str, *, wait: bool) -> object:  # noqa: ARG002  it can't be done here
        """Refuse: what a pipeline does is recorded by itself, and a step is done as a whole."""
        raise RuntimeError("call_pipeline belongs into the handler, not into a step")

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Say nothing: a step is done as a whole."""


class Inline:
    """Runs the steps of a call that is answered at once, in its own thread."""

    __slots__ = ("_start", "began", "deadline", "steps")

    def __init__(self, deadline: float, start: Callable[..., object]) -> None:
        self.began = time.monotonic()
        self.deadline = deadline
        self.steps: list[StepRecord] = []
        self._start = start

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Run a step."""
        record = StepRecord(step.name, _ms(time.monotonic() - self.began))
        if len(self.steps) < MOST_RECORDED:
            self.steps.append(record)
        return try_step(step, args, kwargs, self.deadline, self.began, record)

    def gather(self, calls: Sequence[Called], at_once: int) -> list[Any]:
        """Run steps side by side."""
        return side_by_side([partial(self.step, *call) for call in calls], at_once)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        wait_within(seconds, self.deadline)

    def call_pipeline(self, name: str, body: object, path: str, method: str, *, wait: bool) -> object:
        """Start another pipeline."""
        return self._start(self, name, body, path, method, wait=wait)

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Say nothing: the caller has the reply in a moment."""

    def within(self, deadline: float, start: Callable[..., object]) -> Inline:
        """Return what runs the steps of a pipeline that this one waits for."""
        return Inline(deadline, start)

    def once(self, name: str, work: Callable[[], Any], decode: Callable[[Any], object] = lambda left: left) -> object:  # noqa: ARG002  a durable run has a name for it
        """Do something of the runtime's own."""
        return decode(work())
