"""Steps.

The parts of a handler that are tried again, timed and recorded, and that a durable run does once.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")

AT_ONCE = 8
MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Retry:
    """How a step that fails is tried again.

    Args:
        attempts: How often it is tried in all.
        backoff: Seconds before the second attempt, twice that before each further one.
        jitter: Whether each pause is cut by a random part, so that many callers do not come back at
            once.
        on: The exceptions that a retry can help with. A `PipelineError` that is `permanent` is
            never tried again.
        longest: The longest pause, in seconds.

    Raises:
        ValueError: It makes no sense.

    """

    attempts: int = 3
    backoff: float = 0.2
    jitter: bool = True
    on: tuple[type[Exception], ...] | type[Exception] = Exception
    longest: float = 60.0

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts!r}): give a number, 1 or more")
        if not self.backoff >= 0 or not self.longest >= 0:
            raise ValueError("Retry: backoff and longest are seconds, 0 or more")
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise ValueError(f"Retry(on={self.on!r}): give exceptions")


ONCE = Retry(attempts=1)


class Runner(Protocol):
    """What runs the steps of the run that a thread is in.

    `deadline` is a `time.monotonic()` reading.
    """

    deadline: float

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Run a step."""

    def gather(
        self,
        calls: Sequence[tuple[Step[..., Any], tuple[Any, ...], Mapping[str, Any]]],
        at_once: int,
    ) -> list[Any]:
        """Run steps side by side."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def call_pipeline(
        self, name: str, body: object, path: str, method: str, *, wait: bool
    ) -> object:
        """Start another pipeline."""

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Say how far the run is."""


runner: ContextVar[Runner | None] = ContextVar("penstock_runner", default=None)


class Step(Generic[P, R]):
    """A function that is a step wherever a handler calls it.

    Elsewhere it is the function it was.
    """

    def __init__(self, function: Callable[P, R], retry: Retry, timeout: float | None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name: str = function.__name__
        self.retry = retry
        self.timeout = timeout

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it."""
        current = runner.get()
        if current is None:
            return self.function(*args, **kwargs)
        return cast("R", current.step(self, args, kwargs))

    @functools.cached_property
    def returns(self) -> Any:  # noqa: ANN401  any annotation
        """The type of its result as annotated; `Any` where it does not say."""
        return get_type_hints(self.function, include_extras=True).get("return", Any)

    def __repr__(self) -> str:
        """Name it."""
        return f"<Step {self.name}>"


def step(
    *_bare: object, retry: Retry = ONCE, timeout: float | None = None
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a step: `@step(retry=Retry(attempts=4), timeout=5)`.

    In a durable run its result is kept, and read again as its return annotation says; a run that is
    taken up again does not run it a second time; so what has an effect belongs into a step, and
    what stands between steps must come out the same each time.

    Args:
        retry: How it is tried again where it fails; by default it is not.
        timeout: Seconds that one attempt may take; it never gets more than its run has left.

    Raises:
        TypeError: It was written without parentheses, or above something that is no plain function:
            async, a generator, a method.
        ValueError: The timeout makes no sense.

    """
    if _bare:
        raise TypeError("write @step() above a step, with parentheses")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise TypeError(f"step(timeout={timeout!r}): give a number of seconds")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"step(timeout={timeout!r}): give seconds above 0")
    if not isinstance(retry, Retry):
        raise TypeError(f"step(retry={retry!r}): write Retry(attempts=…)")

    def make(function: Callable[P, R]) -> Step[P, R]:
        if not callable(function) or isinstance(function, Step | type):
            raise TypeError("a step is a plain function")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__name__} is async, which the runtime is not; write it with def"
            )
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{function.__name__} yields; a step is done when it returns, so let it return a"
                " list"
            )
        if _is_method(function):
            raise TypeError(f"{function.__qualname__} is a method; a step is a plain function")
        return Step(function, retry, timeout)

    return make


def _is_method(function: Callable[..., object]) -> bool:
    within, _, _ = getattr(function, "__qualname__", "").rpartition(".")
    code = getattr(function, "__code__", None)
    return (
        bool(within)
        and not within.endswith("<locals>")
        and code is not None
        and code.co_varnames[:1] in {("self",), ("cls",)}
    )


def gather(*calls: functools.partial[R], at_once: int = AT_ONCE) -> list[R]:
    """Run steps side by side, in threads, and return their results in order.

    `gather(partial(price, "A"), partial(price, "B"))`.

    All of them are run to their end; then the first failure, in order, is raised. At most `at_once`
    run at a time.

    Raises:
        TypeError: Something else than `functools.partial` of a step was given.
        ValueError: `at_once` makes no sense.

    """
    if not 1 <= at_once <= MOST_AT_ONCE:
        raise ValueError(f"gather(at_once={at_once!r}): give a number from 1 to {MOST_AT_ONCE}")
    for call in calls:
        if not isinstance(call, functools.partial) or not isinstance(call.func, Step):
            raise TypeError("gather takes steps: gather(partial(price, sku), …)")
    current = runner.get()
    if current is None:
        return [call() for call in calls]
    return current.gather([(call.func, call.args, call.keywords) for call in calls], at_once)  # type: ignore[misc]  # they are steps, see above


def sleep(seconds: float) -> None:
    """Wait. A durable run that is taken up again waits for what is left of it, and no longer.

    Raises:
        DeadlineExceeded: The run has less time left than that.

    """
    current = runner.get()
    if current is None:
        time.sleep(max(0.0, seconds))
    else:
        current.sleep(max(0.0, seconds))


def call_pipeline(
    name: str, body: object = None, *, path: str = "/", method: str = "POST", wait: bool = True
) -> object:
    """Start another pipeline for the consumer that calls this one.

    Return its reply, as decoded JSON.

    `name` is `orders`, or `v1/orders` where there are several majors. Internal pipelines can be
    started too; those that are refused or disabled here can't. With `wait=False` it must be a
    durable one: it is accepted, and the id of its run is returned.

    Raises:
        PipelineCallError: It refused or failed. Where that is not caught, this pipeline has failed
            (500); `raise error.passed_on()` answers as the other did.
        PipelineError: It is refused, disabled or busy here (503).
        RuntimeError: It was called outside of a run.

    """
    current = runner.get()
    if current is None:
        raise RuntimeError("call_pipeline belongs into a handler: there is no run here")
    return current.call_pipeline(name, body, path, method, wait=wait)
