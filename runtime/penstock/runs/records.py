"""Records of runs, written in batches by a thread of their own.

A call hands over what it was, and goes on.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
import structlog

from penstock import metrics, threads
from penstock.access.encryption import SecretBox
from penstock.contracts import sanitize
from penstock.contracts.call import ANONYMOUS, Caller
from penstock.contracts.masks import shortened
from penstock.contracts.pipeline import Pipeline
from penstock.db import call_counts
from penstock.db import runs as stored
from penstock.db.engine import Connection, DatabaseUnavailable, Engine, writing
from penstock.errors import PenstockError
from penstock.runs.failures import Clean, Failure, cleaned
from penstock.runs.ids import new_run_id
from penstock.runs.redaction import LARGEST, Redactor
from penstock.runs.steps import StepRecord

MOST = 50_000  # records that wait
MOST_BYTES = 32 * 1024 * 1024  # of bodies that wait
AT_ONCE = 5_000  # records in one transaction
PAUSE = 0.25  # seconds between two batches
SOON = 2_000  # records that wake the writer earlier
SAMPLE = 10.0  # seconds between two samples of calls rejected for the same reason
SAMPLES = 60  # in a minute, of all rejected calls
STUCK = 120.0  # seconds without a heartbeat, and the thread that writes counts as stuck
TELL = 60.0  # seconds between two lines of the log about what was dropped
LONGEST_DETAIL = 2000  # characters


def fit(text: str | None, most: int) -> str | None:
    """Return a text as a column takes it.

    No longer, of whole characters, and without API keys and tokens, none cut in two either.
    """
    if text is None or len(text) <= most:
        return None if text is None else sanitize.clean_text(text)[:most]
    return sanitize.clean_text(shortened(text.replace("\0", ""), most))


class Status(StrEnum):
    """What became of a run."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CLIENT_ERROR = "client_error"  # its handler answered 4xx
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({Status.ACCEPTED, Status.RUNNING})


def status_of(http_status: int, problem: str | None) -> Status:
    """Return what a reply says of its run."""
    if http_status < 400:  # noqa: PLR2004  the least status of an error
        return Status.SUCCEEDED
    if problem == "timed-out":
        return Status.TIMED_OUT
    return Status.CLIENT_ERROR if http_status < 500 else Status.FAILED  # noqa: PLR2004  the least status of a fault of ours


class RecordedBodies(msgspec.Struct, gc=False):
    """What a call asked for and was given.

    Path with its parameters, query and bodies, as they came and went.
    """

    path: str
    query: str
    content_type: str
    body: bytes | None
    form: Any
    reply_type: str
    reply: bytes
    params: Mapping[str, str] = {}  # msgspec copies defaults


class Record(msgspec.Struct):
    """A run that is over. Its moment is in its id, a UUIDv7; `micros` is how long it took."""

    run: str
    pipeline: Pipeline
    route: str
    http_status: int
    micros: int
    caller: Caller = ANONYMOUS
    problem: str | None = None
    detail: str | None = None
    parent: str | None = None
    request_id: str | None = None
    steps: list[StepRecord] | None = None
    exchange: RecordedBodies | None = None
    redelivers: str | None = None
    failure: Failure | None = None

    @property
    def status(self) -> Status:
        """What became of it."""
        return status_of(self.http_status, self.problem)


class Finished(msgspec.Struct):
    """How a durable run ended; what is None is not known here.

    `ended_at` counts where `micros` is not known, and now where neither is.
    """

    run: str
    pipeline: Pipeline
    status: Status
    http_status: int | None = None
    micros: int | None = None
    problem: str | None = None
    detail: str | None = None
    steps: list[StepRecord] | None = None
    exchange: RecordedBodies | None = None
    failure: Failure | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


Event = tuple[str, datetime] | Finished
Result = TypeVar("Result")
Told = TypeVar("Told")


class _Counted:
    """What is counted of one pipeline and outcome within one minute."""

    __slots__ = ("buckets", "calls", "changed", "micros")

    def __init__(self) -> None:
        self.calls = 0
        self.micros = 0
        self.buckets = [0] * (len(metrics.BOUNDS) + 1)
        self.changed = True

    def add(self, micros: int | None) -> None:
        self.calls += 1
        self.changed = True
        if micros is not None:
            self.micros += micros
            self.buckets[bisect_left(metrics.BOUNDS, micros / 1e6)] += 1


def _item(counted: dict[Any, _Counted], key: tuple[object, ...]) -> _Counted:
    item = counted.get(key)
    if item is None:
        item = counted[key] = _Counted()
    return item


def noted(connection: Connection, ends: Sequence[stored.End]) -> dict[str, str]:
    """Note how durable runs ended, and return the statuses of those of which that was not known."""
    return {row["id"]: row["status"] for row in stored.finish(connection, ends)}


class Recorder:
    """Takes records of one environment's runs, counts calls, and writes both.

    What there is no room for is dropped, counted and said.
    """

    def __init__(
        self,
        engine: Engine,
        environment_id: int,
        box: SecretBox,
        sensitive: Callable[[Pipeline], Redactor],
        most_bodies: Callable[[], str],
        *,
        finish: Callable[[Connection, Sequence[stored.End]], Mapping[str, str]] = noted,
        clean: Callable[[Pipeline], Clean] | None = None,
    ) -> None:
        """Take how a pipeline's bodies are made safe, and what bodies the environment lets be kept.

        `clean` returns what takes secrets out of texts of a pipeline; without it those are hidden
        that `sensitive` knows. `finish` notes the ends of durable runs, and returns the statuses of
        those that it did not know of.
        """
        self._engine = engine
        self._environment_id = environment_id
        self._box = box
        self._sensitive = sensitive
        self._most_bodies = most_bodies
        self._finish = finish
        self._clean = clean or (lambda pipeline: sensitive(pipeline).text)
        self._process = new_run_id()
        self._over: deque[Record] = deque()
        self._durable: deque[Event] = deque()
        self._ending: set[str] = set()  # runs whose ends wait to be written
        self._said: dict[str, dict[str, object]] = {}
        self._rejected: deque[tuple[str, str]] = deque(maxlen=MOST)
        self._samples: deque[dict[str, object]] = deque(maxlen=SAMPLES)
        self._sampled: dict[tuple[str, str], float] = {}
        self._counted: dict[tuple[int, str, str], _Counted] = {}
        self._untold: dict[tuple[str, str], _Counted] = {}  # what the metrics do not know yet
        self._bytes = 0
        self._dropped = 0
        self._told_at = float("-inf")
        self._wake = threading.Event()
        self._stop = False
        self._writing = threading.Lock()
        self._log = structlog.get_logger("penstock")
        self._thread = threads.start("penstock-records", self._write_on, limit=STUCK)

    # What calls do: a few microseconds, and no waiting.

    def over(self, record: Record) -> None:
        """Take the record of a run that was answered at once."""
        waiting = len(self._over)
        if waiting >= MOST:
            self._dropped += 1
            return
        exchange = record.exchange
        if exchange is not None:
            size = len(exchange.body or b"") + len(exchange.reply)
            if size > 2 * LARGEST or self._bytes + size > MOST_BYTES:
                exchange.body, exchange.reply = None, b""
            else:
                self._bytes += size
        self._over.append(record)
        if waiting == SOON:
            self._wake.set()

    def keeps(self, pipeline: Pipeline, http_status: int) -> bool:
        """Say whether the bodies of a call are to be kept with its record."""
        wanted = pipeline.record_bodies
        if wanted == "none" or pipeline.trigger.login or (most := self._most_bodies()) == "none":
            return False
        return http_status >= 400 or (wanted == "all" and most == "all")  # noqa: PLR2004  the least status of an error

    def rejected(
        self,
        pipeline: str,
        problem: str,
        *,
        address: str = "",
        reason: str | None = None,
        consumer_id: int | None = None,
    ) -> None:
        """Count a call that the gate rejected, and keep a sample now and then.

        An attack must not fill the table.
        """
        self._rejected.append((pipeline, problem))
        now = time.monotonic()
        if (
            now - self._sampled.get((pipeline, problem), float("-inf")) >= SAMPLE
            and len(self._samples) < SAMPLES
        ):
            self._sampled[pipeline, problem] = now
            self._samples.append(
                {
                    "id": new_run_id(),
                    "environment_id": self._environment_id,
                    "pipeline": pipeline,
                    "problem": problem,
                    "address": address[:64],
                    "reason": fit(reason, 255),
                    "consumer_id": consumer_id,
                }
            )

    def counted(self, pipeline: str, outcome: str) -> None:
        """Count a call that was answered without a run of its own."""
        self._rejected.append((pipeline, outcome))

    def began(self, run: str, at: datetime) -> None:
        """Note that a durable run has begun."""
        self._durable.append((run, at))

    def ended(self, finished: Finished) -> None:
        """Note how a durable run ended; what is said of it first counts."""
        if finished.run not in self._ending:
            self._ending.add(finished.run)
            self._durable.append(finished)

    def knows_end(self, run: str) -> bool:
        """Say whether the end of a run waits to be written."""
        return run in self._ending

    def progress(self, run: str, said: dict[str, object]) -> None:
        """Note how far a durable run is; the last word counts."""
        self._said[run] = said

    # What the writer does.

    def _write_on(self, thread: threads.MonitoredThread) -> None:
        while not self._stop:
            thread.heartbeat()
            self._wake.wait(PAUSE)
            self._wake.clear()
            self.flush()

    def flush(self) -> None:
        """Write what waits; what can't be written waits on."""
        with self._writing:
            for write in (self._write_over, self._write_durable, self._write_counts):
                try:
                    while write() == AT_ONCE:
                        self._thread.heartbeat()
                except PenstockError as error:
                    self._tell(
                        "run records wait",
                        error=str(error),
                        waiting=len(self._over) + len(self._durable),
                    )
                    break
                except Exception:  # noqa: BLE001  whatever it is, the others must be written
                    self._log.exception("run records not written")
            self._tell_metrics()
            if self._dropped:
                number, self._dropped = self._dropped, 0
                metrics.count_dropped_records(number)
                self._tell(
                    "run records dropped",
                    records=number,
                    reason="too many wait, or they can't be written",
                )

    def _tell(self, event: str, **facts: object) -> None:
        if time.monotonic() - self._told_at >= TELL:
            self._told_at = time.monotonic()
            self._log.error(event, **facts)

    def _write_over(self) -> int:
        batch = [self._over[index] for index in range(min(AT_ONCE, len(self._over)))]
        if not batch:
            return 0
        try:
            self._record(batch)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  one that can't be written must not keep the others
            for record in batch:
                self._alone(lambda one: self._record([one]), record, record.run)
        for record in batch:
            self._over.popleft()
            if record.exchange is not None:
                self._bytes -= len(record.exchange.body or b"") + len(record.exchange.reply)
            self.count(record.pipeline.id, record.status.value, record.micros)
        return len(batch)

    def _record(self, batch: Sequence[Record]) -> None:
        details = [self._fit_detail(record) for record in batch]
        stored.record(
            self._engine,
            [self._row(record) for record in batch],
            [detail for detail in details if detail],
        )

    def _alone(self, write: Callable[[Told], Result], told: Told, about: str) -> Result | None:
        """Write one record, without its text where it can't be written with it.

        Else it is dropped, counted and said. Raises DatabaseUnavailable.
        """
        for one in (told, _bare(told)):
            try:
                return write(one)
            except DatabaseUnavailable:
                raise
            except Exception:  # noqa: BLE001  as above
                self._log.exception("run record not taken", run=about)
        self._dropped += 1
        return None

    def _row(self, record: Record) -> tuple[Any, ...]:
        caller = record.caller
        return (
            record.run,
            self._environment_id,
            record.pipeline.id,
            fit(record.pipeline.version, 64),
            fit(record.route, 255),
            False,
            caller.consumer_id,
            fit(caller.subject, 255),
            record.status.value,
            record.http_status,
            record.micros,
            None,
            fit(record.problem, 64),
            fit(record.detail, LONGEST_DETAIL),
            record.parent,
            record.redelivers,
            record.request_id,
        )

    def _fit_detail(self, told: Record | Finished) -> stored.DetailValues | None:
        """Return steps and bodies of a run, or None where they can't be made.

        That must cost neither the record nor its batch.
        """
        try:
            return self._detail(told)
        except Exception as error:  # noqa: BLE001  as above
            self._tell("run detail not kept", run=told.run, exc_info=error)
            return None

    def _detail(self, told: Record | Finished) -> stored.DetailValues | None:
        steps, exchange, failure = told.steps, told.exchange, told.failure
        if not steps and exchange is None and failure is None:
            return None
        clean = self._clean(told.pipeline)
        for attempt in (
            attempt for step in steps or () for attempt in step.attempts if attempt.error
        ):
            attempt.error = clean(attempt.error)
        return (
            told.run,
            sanitize.as_json(steps) if steps else None,
            self.sealed(told.pipeline, exchange) if exchange is not None else None,
            sanitize.as_json(cleaned(failure, clean)) if failure is not None else None,
        )

    def sealed(self, pipeline: Pipeline, exchange: RecordedBodies) -> bytes:
        """Return what may be kept of a call's bodies, sealed."""
        sensitive = self._sensitive(pipeline)
        if exchange.form:
            sent = sensitive.form(exchange.form)
        else:
            sent = (
                sensitive.body(exchange.content_type, exchange.body)
                if exchange.body is not None
                else {}
            )
        sent |= {
            "path": sensitive.path(exchange.path, exchange.params),
            "query": sensitive.query(exchange.query),
        }
        kept = {"input": sent, "output": sensitive.body(exchange.reply_type, exchange.reply)}
        return self._box.encrypt(sanitize.as_json(kept))

    def _write_durable(self) -> int:
        said, self._said = self._said, {}
        events = [self._durable[index] for index in range(min(AT_ONCE, len(self._durable)))]
        samples = [self._samples[index] for index in range(len(self._samples))]
        if not (said or events or samples):
            return 0
        try:
            fresh = self._put(events, said, samples)
        except DatabaseUnavailable:
            self._said = said | self._said
            raise
        for event in events:
            self._durable.popleft()
            if isinstance(event, Finished):
                self._ending.discard(event.run)
                if event.run in fresh:
                    self.count(event.pipeline.id, fresh[event.run], event.micros)
        for _ in samples:
            self._samples.popleft()
        return len(events)

    def _put(
        self,
        events: Sequence[Event],
        said: dict[str, dict[str, object]],
        samples: Sequence[dict[str, object]],
    ) -> Mapping[str, str]:
        """Write records of durable runs, all at once; return the ends that were not known.

        Where one can't be written, write them one by one.
        """
        try:
            return self._put_together(events, said, samples)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  one that can't be written must not keep the others
            fresh: dict[str, str] = {}
            for event in events:
                about = event[0] if isinstance(event, tuple) else event.run
                fresh.update(
                    self._alone(lambda one: self._put_together([one], {}, ()), event, about) or {}
                )
            for run, what in said.items():
                self._alone(lambda one: self._put_together((), dict([one]), ()), (run, what), run)
            for sample in samples:
                self._alone(
                    lambda one: self._put_together((), {}, [one]), sample, str(sample["id"])
                )
            return fresh

    def _put_together(
        self,
        events: Sequence[Event],
        said: dict[str, dict[str, object]],
        samples: Sequence[dict[str, object]],
    ) -> Mapping[str, str]:
        fresh: Mapping[str, str] = {}
        ended = [self._end(event) for event in events if isinstance(event, Finished)]
        with writing(self._engine) as connection:
            if began := [event for event in events if isinstance(event, tuple)]:
                stored.start(connection, began)
            if said:
                stored.progress(connection, said.items())
            if ended:
                fresh = self._finish(connection, ended)
            if samples:
                stored.refuse(connection, samples)
        return fresh

    def _end(self, event: Finished) -> stored.End:
        details = (self._fit_detail(event) or (None,) * 4)[1:]
        problem, detail = fit(event.problem, 64), fit(event.detail, LONGEST_DETAIL)
        return stored.End(
            event.run,
            event.status.value,
            event.http_status,
            event.micros,
            problem,
            detail,
            *details,
            started_at=event.started_at,
            ended_at=event.ended_at,
        )

    def count(self, pipeline: str, outcome: str, micros: int | None) -> None:
        """Count a call or a run that is over."""
        minute = int(time.time()) // call_counts.MINUTE * call_counts.MINUTE
        _item(self._counted, (minute, pipeline, outcome)).add(micros)
        _item(self._untold, (pipeline, outcome)).add(micros)

    def _tell_metrics(self) -> None:
        untold, self._untold = self._untold, {}
        for (pipeline, outcome), item in untold.items():
            metrics.count_calls(pipeline, outcome, item.calls)
            metrics.observe_seconds(pipeline, item.micros / 1e6, item.buckets)

    def _write_counts(self) -> int:
        for _ in range(len(self._rejected)):
            self.count(*self._rejected.popleft(), None)
        changed = [(key, item) for key, item in self._counted.items() if item.changed]
        if changed:
            rows = [
                {
                    "environment_id": self._environment_id,
                    "span": call_counts.MINUTE,
                    "since": minute,
                    "pipeline": pipeline,
                    "outcome": outcome,
                    "process": self._process,
                    "calls": item.calls,
                    "micros": item.micros,
                    "buckets": item.buckets,
                }
                for (minute, pipeline, outcome), item in changed
            ]
            call_counts.write(self._engine, rows)
            for _, item in changed:
                item.changed = False
        current = int(time.time()) // call_counts.MINUTE * call_counts.MINUTE
        for key in [
            key for key, item in self._counted.items() if key[0] < current and not item.changed
        ]:
            del self._counted[key]
        return 0

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stop = True
        self._wake.set()
        with suppress(RuntimeError):
            self._thread.join(timeout=5)
        self.flush()
        self._engine.dispose()


def _bare(told: Told) -> Told:
    """Return a record without what strangers may have put into it."""
    return (
        msgspec.structs.replace(told, detail=None, steps=None, exchange=None, failure=None)
        if isinstance(told, Record | Finished)
        else told
    )


def steps_of(encoded: bytes | None) -> list[StepRecord]:
    """Return the steps of a run as they were written."""
    return msgspec.json.decode(encoded, type=list[StepRecord]) if encoded else []


def failure_from(encoded: bytes | None) -> Failure | None:
    """Return why a run failed as it was written."""
    return msgspec.json.decode(encoded, type=Failure) if encoded else None


def first_id(moment: float) -> str:
    """Return the least id of a run that came in at a moment or later.

    The moment is in seconds since the epoch.
    """
    text = f"{max(0, int(moment * 1000)):012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"
