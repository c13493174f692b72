"""Durable runs.

What they are given, how their steps are done once, and what comes out, all as plain values that
outlive a process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from penstock import clock
from penstock.contracts.call import Caller
from penstock.contracts.sanitize import clean_text, safe_str, to_plain
from penstock.contracts.steps import Step
from penstock.db.engine import DatabaseUnavailable
from penstock.durable.engine import Document, RunExecutor
from penstock.endpoints.encoding import name_of, pack, type_named, unpack
from penstock.endpoints.replies import Answer
from penstock.errors import DeadlineExceeded, PipelineError, Refusal, StepFailed
from penstock.runs.failures import Failure, failure_of, remember
from penstock.runs.interrupts import EngineUnavailable, Interrupted, ResultNotStorable
from penstock.runs.steps import (
    MOST_RECORDED,
    Called,
    StepRecord,
    Term,
    describe_error,
    shifted,
    side_by_side,
    try_step,
)

LARGEST = 64 * 1024 * 1024  # bytes of what a step or a run leaves
# Headers that are for the call alone; credentials are not among those that handlers get.
NOT_KEPT = frozenset({"cookie", "idempotency-key"})


class RunInput(msgspec.Struct):
    """What a run was given: the call as its handler gets it.

    `ancestors` are the pipelines that wait for it.
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
        """Who called."""
        return Caller(
            self.consumer,
            self.consumer_id,
            self.key_id,
            self.subject,
            frozenset(self.scopes),
            self.claims,
        )

    def document(self) -> Document:
        """Return it as the engine keeps it."""
        return msgspec.to_builtins(self, builtin_types=(bytes,))  # type: ignore[no-any-return]  # a Struct becomes a dict

    @classmethod
    def of(cls, document: Document) -> RunInput:
        """Read it."""
        return msgspec.convert(document, cls)


def lasting(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a run keeps, of those that a handler gets."""
    return {name: value for name, value in headers.items() if name.lower() not in NOT_KEPT}


def outcome_of(
    answer: Answer | Refusal,
    steps: Sequence[StepRecord],
    micros: int,
    failure: Failure | None = None,
) -> Document:
    """Return how a run ended, as the engine keeps it."""
    known: Document = {"steps": msgspec.to_builtins(list(steps)), "micros": micros}
    if failure is not None:
        known["failure"] = msgspec.to_builtins(failure)
    if isinstance(answer, Refusal):
        return {**known, "status": answer.status, "problem": _problem(answer)}
    status, headers, body = answer
    return {**known, "status": status, "headers": [list(item) for item in headers], "body": body}


def check_size(answer: Answer) -> None:
    """Raise ResultNotStorable where a reply is too large to be kept."""
    if len(answer[2]) > LARGEST:
        raise ResultNotStorable(
            f"its reply has {len(answer[2])} bytes; {LARGEST} are the most that are kept"
        )


def _problem(refusal: Refusal) -> Document:
    kept: Document = {
        "status": refusal.status,
        "code": refusal.code,
        "title": refusal.title,
        "detail": refusal.detail,
    }
    kept["headers"] = [list(item) for item in refusal.headers]
    kept["extra"] = to_plain(refusal.extra)
    if isinstance(refusal, PipelineError):
        kept["permanent"] = refusal.permanent
    return kept


def refusal_of(kept: Mapping[str, Any]) -> PipelineError:
    """Return a refusal as it was raised."""
    headers, permanent = kept["headers"], kept.get("permanent")
    error = PipelineError(
        kept["status"],
        kept["title"],
        kept["detail"],
        type=kept["code"],
        headers=headers,
        permanent=permanent,
    )
    error.extra = dict(kept["extra"])
    return error


class DurableRunner:
    """Runs the steps of a durable run.

    Each is done once, and its result is what the engine kept of it.
    """

    def __init__(
        self,
        bench: RunExecutor,
        term: Term,
        start: Callable[..., object],
        say: Callable[[dict[str, object]], None],
        clean: Callable[[str], str] = str,
        *,
        began: float | None = None,
        offset: float = 0.0,
    ) -> None:
        """Take how long the run may go on, and what it calls.

        These start pipelines, tell progress and take secrets out of errors.

        `began` is when the run first did, as a `time.monotonic()` reading of this process, also
        where that was in another one: steps are counted from then. `offset` is how long after that
        the pipeline did whose steps these are, in milliseconds.
        """
        self.began = time.monotonic() if began is None else began
        self.interruptible = True  # the engine recovers the run
        self.thread = 0
        self.deadline = term.deadline
        self.said: dict[str, object] | None = None
        self.steps: list[StepRecord] = []
        self._bench = bench
        self._start = start
        self._say = say
        self._term = term
        self._clean = clean
        self._offset = offset

    def begin(self) -> None:
        """Note the thread that the handler runs in."""
        self.thread = threading.get_ident()

    def step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401  what the step returns
        """Run a step, or return what it did before."""
        self._term.check()
        return self._told(step, self._bench.once(step.name, partial(self._do, step, args, kwargs)))

    def gather(self, calls: Sequence[Called], at_once: int) -> list[Any]:
        """Run steps side by side; their turns are taken in order, whichever ends first."""
        self._term.check()
        turns = [(call, self._bench.later(call[0].name)) for call in calls]
        return side_by_side([partial(self._do_later, *turn) for turn in turns], at_once)

    def _do_later(self, call: Called, turn: Callable[[Callable[[], object]], object]) -> Any:  # noqa: ANN401  what the step returns
        self._term.check()
        return self._told(call[0], turn(partial(self._do, *call)))

    def _do(
        self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Document:
        """Do a step and return what the engine is to keep of it: a result, or what was raised."""
        record = StepRecord(step.name, self._now())
        try:
            value = _packed(
                step, try_step(step, args, kwargs, self._term, self.began, record), record
            )
        except Interrupted:
            raise
        except DeadlineExceeded:
            return {"record": self._kept(record), "out_of_time": True}
        except BaseException as error:  # noqa: BLE001  a step may raise anything, and raises it again when the run is taken up
            record.failed = True
            return {"record": self._kept(record), "raised": _raised(error, step)}
        return {"record": self._kept(record), "value": value}

    def _kept(self, record: StepRecord) -> object:
        for attempt in record.attempts:
            attempt.error = self._clean(attempt.error)
        return msgspec.to_builtins(record)

    def _told(self, step: Step[..., Any], left: object) -> Any:  # noqa: ANN401  what the step returns
        """Return what a step returned, or raise what it raised, from what the engine kept."""
        if not isinstance(left, dict):
            raise StepFailed(f"{step.name} left something that is not known here")
        if len(self.steps) < MOST_RECORDED:
            self.steps.append(shifted(msgspec.convert(left["record"], StepRecord), -self._offset))
        if left.get("out_of_time"):
            raise DeadlineExceeded
        if "raised" in left:
            raise _raise_again(left["raised"])
        return unpack(left["value"], step.returns)

    def sleep(self, seconds: float) -> None:
        """Wait.

        Until when is kept, so that a run that is taken up again waits for what is left of it.
        Raises DeadlineExceeded, as inline.
        """

        def until() -> Document:
            return (
                {"out_of_time": True}
                if time.monotonic() + seconds >= self.deadline
                else {"left": clock.now() + seconds}
            )

        self._term.check()
        left: Any = self._bench.once("sleep", until)
        if left.get("out_of_time"):
            raise DeadlineExceeded
        # A clock that was set back makes no pause longer.
        self._term.stop.sleep(min(seconds, self._bench.pause(left["left"])))

    def pause(self, seconds: float) -> None:
        """Wait within an operation of the runtime's own.

        It is done anew where the run is taken up again.
        """
        self._term.sleep(seconds)

    def within(self, deadline: float, start: Callable[..., object]) -> DurableRunner:
        """Return what runs the steps of a pipeline that this one waits for.

        They are this run's, each done once.
        """
        return DurableRunner(
            self._bench,
            self._term.within(deadline),
            start,
            self.tell,
            self._clean,
            began=self.began,
            offset=self._now(),
        )

    def once(
        self,
        name: str,
        work: Callable[[], Any],
        decode: Callable[[Any], object] = lambda left: left,
    ) -> object:
        """Do something of the runtime's own once, and tell of it again what it left or raised."""

        def do() -> Document:
            try:
                return {"left": work()}
            except DeadlineExceeded:
                return {"out_of_time": True}
            except Refusal as error:
                return {"problem": _problem(error)}
            except DatabaseUnavailable as error:
                raise EngineUnavailable(str(error)) from error

        left: Any = self._bench.once(name, do)
        if left.get("out_of_time"):
            raise DeadlineExceeded
        if "problem" in left:
            raise refusal_of(left["problem"])
        return decode(left["left"])

    def call_pipeline(
        self, name: str, body: object, path: str, method: str, *, wait: bool
    ) -> object:
        """Start another pipeline."""
        self._term.check()
        return self._start(self, name, body, path, method, wait=wait)

    def progress(self, done: float, of: float | None, note: str) -> None:
        """Say how far the run is."""
        self.tell({"done": done, "of": of, "note": clean_text(self._clean(note))[:255]})

    def tell(self, progress: dict[str, object]) -> None:
        """Pass progress on, and remember it: how a run ended has it too."""
        self.said = progress
        self._say(progress)

    def _now(self) -> float:
        return round((time.monotonic() - self.began) * 1000, 3)


def _packed(step: Step[..., Any], result: object, record: StepRecord) -> bytes:
    """Return the result of a step as it is kept.

    What can't be is a failure of the step, and stands in its record.
    """
    fault: Exception
    try:
        value = pack(result)
        if len(value) <= LARGEST:
            unpack(value, step.returns)
            return value
        fault = ValueError(
            f"{step.name} returned {len(value)} bytes; {LARGEST} are the most that are kept"
        )
    except msgspec.ValidationError as error:
        fault = TypeError(
            f"what {step.name} returned does not fit its annotation {_annotation(step.returns)}:"
            f" {safe_str(error)}"
        )
    except (TypeError, ValueError, RecursionError) as error:
        fault = TypeError(f"what {step.name} returned can't be kept: {safe_str(error)}")
    record.attempts[-1].error = describe_error(fault)
    raise fault


def _annotation(kind: Any) -> str:  # noqa: ANN401  any annotation
    return kind.__name__ if type(kind) is type else str(kind)


def _raised(error: BaseException, step: Step[..., Any]) -> Document:
    failure = msgspec.to_builtins(failure_of(error, step.function))
    return {**_told_error(error), "failure": failure}


def _told_error(error: BaseException) -> Document:
    kept: Document = {"type": name_of(type(error)), "text": describe_error(error)}
    if isinstance(error, Refusal):
        return {**kept, "problem": _problem(error)}
    if isinstance(error, ExceptionGroup):
        return {
            **kept,
            "message": safe_str(error.message),
            "group": [_told_error(item) for item in error.exceptions],
        }
    kept["args"] = [_any_packed(argument) for argument in _arguments(error)]
    kept["facts"] = {
        name: pack(value)
        for name, value in vars(error).items()
        if name.isidentifier() and _is_plain(value)
    }
    return kept


def _arguments(error: BaseException) -> list[object]:
    """Return what an exception was made of.

    An OSError says all of it only when it is to be pickled.
    """
    if isinstance(error, OSError):
        with suppress(Exception):
            return list(error.__reduce__()[1])
    return list(error.args)


def _any_packed(value: object) -> bytes:
    try:
        return pack(value)
    except (TypeError, ValueError, RecursionError):
        return pack(to_plain(value))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bytes)


def _raise_again(kept: Mapping[str, Any]) -> Exception:
    """Return an exception as it was raised, so that what catches it does so again.

    Return StepFailed for an exception of a type that is not here.
    """
    error = _made_again(kept)
    remember(error, msgspec.convert(kept["failure"], Failure))
    return error


def _made_again(kept: Mapping[str, Any]) -> Exception:
    if "problem" in kept:
        return refusal_of(kept["problem"])
    if "group" in kept:
        return ExceptionGroup(kept["message"], [_made_again(item) for item in kept["group"]])
    found = type_named(kept["type"])
    if found is None or not issubclass(found, Exception):
        return StepFailed(kept["text"])
    try:
        arguments = [unpack(argument) for argument in kept["args"]]
        if found.__module__ == "builtins":  # what these are made of is more than their arguments
            return found(*arguments)
        error = found.__new__(found, *arguments)
        error.args = tuple(arguments)
        vars(error).update({name: unpack(value) for name, value in kept["facts"].items()})
    except Exception:  # noqa: BLE001  a stranger's exception may want other arguments
        return StepFailed(kept["text"])
    return error
