"""Steps: parts of a handler that are retried, timed and recorded, and run once in a durable run."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, get_type_hints

from penstock.contracts.options import Check, option, problems_of_options, whole_number

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_PARALLEL_STEPS = 8
MAX_PARALLEL_STEPS = 64

Label = str | Callable[..., object]


def _is_pause(value: object) -> bool:
    return isinstance(value, int | float) and value >= 0


def _are_exceptions(value: object) -> bool:
    types = value if isinstance(value, tuple) else (value,)
    return all(isinstance(item, type) and issubclass(item, Exception) for item in types)


SECONDS_FROM_0 = Check(_is_pause, "is no pause", "give seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class Retry:
    """How a step is retried if it raises an exception.

    Example: `@step(retry=Retry(attempts=5, backoff=1, on=ConnectionError))`.

    Args:
        attempts: Number of attempts, including the first. Default 3.
        backoff: Seconds before the second attempt; twice as long before each further one. Default
            0.2.
        jitter: Whether each pause is shortened by a random part, so that many callers do not retry
            at the same moment. Default True.
        on: Exceptions that are retried. Default: all. A `PipelineError` that is `permanent` is
            never retried.
        longest: Longest pause, in seconds. Default 60.

    Raises:
        ValueError: An option is wrong.

    """

    attempts: int = option(
        3,
        whole_number(1, fault="is no number of attempts", fix="give a number, 1 or more"),
    )
    backoff: float = option(0.2, SECONDS_FROM_0)
    jitter: bool = option(
        True,
        Check(
            lambda value: isinstance(value, bool),
            "is neither True nor False",
            "write jitter=False, or leave it out",
        ),
    )
    on: tuple[type[Exception], ...] | type[Exception] = option(
        Exception,
        Check(_are_exceptions, "names no exceptions", "give exceptions, such as ConnectionError"),
    )
    longest: float = option(60.0, SECONDS_FROM_0)

    def __post_init__(self) -> None:
        for problem, fix in problems_of_options(self, "Retry({})"):
            raise ValueError(f"{problem}: {fix}")


ONCE = Retry(attempts=1)


class Runner(Protocol):
    """Runs the steps of the current run. The runtime implements it, one object for each run.

    `deadline` is the end of the run's time, as a `time.monotonic()` reading.
    """

    deadline: float

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Return the result of a step, with its retries and its timeout."""

    def gather(
        self,
        calls: Sequence[tuple[Step[..., Any], tuple[Any, ...], Mapping[str, Any]]],
        at_once: int,
    ) -> list[Any]:
        """Return the results of steps that run in parallel, at most `at_once` at a time."""

    def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""

    def call_pipeline(
        self, name: str, body: object, path: str, method: str, *, wait: bool
    ) -> object:
        """Return the reply of another pipeline, or the id of its run without `wait`."""

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Report the progress of the run."""


runner: ContextVar[Runner | None] = ContextVar("penstock_runner", default=None)


class Step(Generic[P, R]):
    """A function that is a step if a handler calls it, and a plain function elsewhere."""

    def __init__(
        self,
        function: Callable[P, R],
        retry: Retry,
        timeout: float | None,
        label: Label | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name: str = function.__name__
        self.retry = retry
        self.timeout = timeout
        self.label = label

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of the step, or of the function if there is no run."""
        current = runner.get()
        if current is None:
            return self.function(*args, **kwargs)
        return cast("R", current.step(self, args, kwargs))

    @functools.cached_property
    def returns(self) -> Any:  # noqa: ANN401  any annotation
        """The return annotation of the function, or `Any`."""
        return get_type_hints(self.function, include_extras=True).get("return", Any)

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The signature of the function."""
        return inspect.signature(self.function)

    @functools.cached_property
    def first_parameter(self) -> str:
        """The name of the first parameter, empty if there is none."""
        return next(iter(self.signature.parameters), "")

    def __repr__(self) -> str:
        """Return the name of the step."""
        return f"<Step {self.name}>"


def step(
    *_bare: object,
    retry: Retry = ONCE,
    timeout: float | None = None,
    label: Label | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Return a decorator that turns a function into a step.

    Example: `@step(retry=Retry(attempts=4), timeout=5)`.

    A durable run stores the result of each step and decodes it by the return annotation. A
    recovered run does not repeat a finished step. So put every side effect into a step, and let the
    code between steps be deterministic.

    Args:
        retry: How a failed step is retried. Default: not at all.
        timeout: Seconds for one attempt, and never more than the run has left. Default: what the
            run has left.
        label: What names one call of the step to operators, beside the name of the step: a text
            with the names of arguments (`"invoice {number}"`), or a function of the arguments. It
            is redacted, stored in clear, and has 100 characters at most. Default: the first
            argument, if that is a whole number, a Decimal, a date, a UUID or an enum. With `""`
            there is none.

    Raises:
        TypeError: The decorator has no parentheses, the label is neither a text nor a function, or
            the function is async, a generator or a method.
        ValueError: The timeout is not above 0.

    """
    if _bare:
        raise TypeError("write @step() above a step, with parentheses")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise TypeError(f"step(timeout={timeout!r}): give a number of seconds")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"step(timeout={timeout!r}): give seconds above 0")
    if not isinstance(retry, Retry):
        raise TypeError(f"step(retry={retry!r}): write Retry(attempts=…)")
    _check_label(label)

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
        return Step(function, retry, timeout, label)

    return make


def _check_label(label: object) -> None:
    """Raise TypeError where a label is neither a text nor a function."""
    if label is not None and not isinstance(label, str) and not callable(label):
        raise TypeError(f"step(label={label!r}): give a text, or a function of the arguments")


def _is_method(function: Callable[..., object]) -> bool:
    within, _, _ = getattr(function, "__qualname__", "").rpartition(".")
    code = getattr(function, "__code__", None)
    return (
        bool(within)
        and not within.endswith("<locals>")
        and code is not None
        and code.co_varnames[:1] in {("self",), ("cls",)}
    )


def gather(*calls: functools.partial[R], at_once: int = DEFAULT_PARALLEL_STEPS) -> list[R]:
    """Return the results of steps that run in parallel threads, in the order of the arguments.

    Example: `gather(partial(price, "A"), partial(price, "B"))`.

    All steps run to their end. Then the first failure, in order, is raised.

    Args:
        *calls: `functools.partial` of a step, one for each call.
        at_once: Steps that run at a time, 1 to 64. Default 8.

    Raises:
        TypeError: An argument is no `functools.partial` of a step.
        ValueError: `at_once` is out of bounds.

    """
    if not 1 <= at_once <= MAX_PARALLEL_STEPS:
        raise ValueError(
            f"gather(at_once={at_once!r}): give a number from 1 to {MAX_PARALLEL_STEPS}"
        )
    for call in calls:
        if not isinstance(call, functools.partial) or not isinstance(call.func, Step):
            raise TypeError("gather takes steps: gather(partial(price, sku), …)")
    current = runner.get()
    if current is None:
        return [call() for call in calls]
    return current.gather([(call.func, call.args, call.keywords) for call in calls], at_once)  # type: ignore[misc]  # they are steps, see above


def sleep(seconds: float) -> None:
    """Wait for a number of seconds. A recovered run waits for the rest of the time only.

    Raises:
        DeadlineExceeded: The run has less time left.

    """
    current = runner.get()
    if current is None:
        time.sleep(max(0.0, seconds))
    else:
        current.sleep(max(0.0, seconds))


def call_pipeline(
    name: str, body: object = None, *, path: str = "/", method: str = "POST", wait: bool = True
) -> object:
    """Return the reply of another pipeline, as decoded JSON. It runs for the same consumer.

    Internal pipelines can be called too; blocked and disabled ones can't.

    Args:
        name: `orders`, or `v1/orders` if there are several major versions.
        body: JSON value that the other pipeline receives as its body.
        path: Path of the handler. Default `/`.
        method: HTTP method of the handler. Default POST.
        wait: Whether to wait for the reply. With False the handler must be durable, and the id of
            the accepted run is returned.

    Raises:
        PipelineCallError: The other pipeline failed or returned an error. If it is not caught, this
            run fails too (500); `raise error.passed_on()` returns the other's error to the caller.
        PipelineError: The other pipeline is blocked, disabled or busy (503).
        RuntimeError: There is no run.

    """
    current = runner.get()
    if current is None:
        raise RuntimeError("call_pipeline belongs into a handler: there is no run here")
    return current.call_pipeline(name, body, path, method, wait=wait)
