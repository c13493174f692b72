"""Write records of runs in batches, in a thread of its own, so that no call waits for the database.

**Threads.** Any thread may call the first group of methods; each is one or two appends to a deque.
The writer alone removes from these deques, and `_writing` allows one writer at a time: its thread,
or a thread that calls `flush`. A batch is read by index and removed only after it was written, so
calls may append meanwhile and no record is lost when the database fails.

**Durable runs.** The end of a run may be reported twice, by the thread that performed it and by
the reconciler. `_ending` keeps the first report; `db.runs.finish` ignores an end that is stored
already and returns the ends that are new, which are the ones to count.

**Faults.** An unavailable database leaves everything queued. Any other error means that one record
of the batch can't be written: each is then written alone, then without the data of callers and
plugin code, and is dropped and counted if that fails too. One bad record was once enough to stop
all others.

**Memory.** At most `MAX_QUEUED_RECORDS` records and `MAX_QUEUED_BYTES` of bodies wait; bodies are
dropped first.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

import structlog

from penstock import metrics, threads
from penstock.access.encryption import SecretBox
from penstock.contracts.call import ANONYMOUS, Caller
from penstock.contracts.pipeline import Pipeline
from penstock.db import durable_runs, rejected_calls
from penstock.db import runs as stored
from penstock.db.engine import Connection, Engine, writing
from penstock.db.failures import DatabaseUnavailable
from penstock.db.rejected_calls import RejectedCall
from penstock.errors import PenstockError
from penstock.runs.call_counter import CallCounter
from penstock.runs.failures import Clean
from penstock.runs.live_reports import NO_REPORTS, LiveReports, Reports
from penstock.runs.record_rows import RecordRows, bodies_are_recorded
from penstock.runs.records import Finished, Record, without_plugin_data
from penstock.runs.redaction import MAX_STORED_BODY_BYTES, Redactor
from penstock.runs.rejected_calls import RejectedCalls
from penstock.runs.run_log import RunLog

MAX_QUEUED_RECORDS = 50_000
MAX_QUEUED_BYTES = 32 * 1024 * 1024  # of bodies
BATCH_SIZE = 5_000  # records in one transaction
BATCH_INTERVAL_S = 0.25
EARLY_BATCH_SIZE = 2_000  # queued records that wake the writer before the interval ends
HEARTBEAT_TIMEOUT_S = 120.0  # the thread that writes counts as stuck after it
LOG_INTERVAL_S = 60.0  # between two log lines about records that wait or were dropped

Event = tuple[str, datetime] | Finished  # the start of a durable run, or its end
Result = TypeVar("Result")
Item = TypeVar("Item")


def finish_runs(connection: Connection, ends: Sequence[durable_runs.End]) -> dict[str, str]:
    """Store the ends of durable runs, and return the statuses of those that were new, by run."""
    return {run.id: run.status for run in durable_runs.finish(connection, ends)}


class _RecordQueue:
    """Records that wait, within limits of number and bytes."""

    def __init__(self) -> None:
        self.dropped = 0
        self._records: deque[Record] = deque()
        self._bytes = 0  # of bodies

    def __len__(self) -> int:
        return len(self._records)

    def append(self, record: Record) -> None:
        """Queue a record, without its bodies where they are too large; or drop it."""
        if len(self._records) >= MAX_QUEUED_RECORDS:
            self.dropped += 1
            return
        exchange = record.exchange
        if exchange is not None:
            size = len(exchange.body or b"") + len(exchange.reply)
            if size > 2 * MAX_STORED_BODY_BYTES or self._bytes + size > MAX_QUEUED_BYTES:
                exchange.body, exchange.reply = None, b""
            else:
                self._bytes += size
        self._records.append(record)

    def batch(self) -> list[Record]:
        """Return the oldest records; they stay queued."""
        return [self._records[index] for index in range(min(BATCH_SIZE, len(self._records)))]

    def remove(self, batch: Sequence[Record]) -> None:
        """Remove the oldest records, which were written."""
        for record in batch:
            self._records.popleft()
            if record.exchange is not None:
                self._bytes -= len(record.exchange.body or b"") + len(record.exchange.reply)


class _RareLog:
    """Logs errors that would repeat with every batch, one a minute."""

    def __init__(self) -> None:
        self._logged_at = float("-inf")
        self._log = structlog.get_logger("penstock")

    def error(self, event: str, **facts: object) -> None:
        """Log an event, unless there was one within the interval."""
        if time.monotonic() - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = time.monotonic()
            self._log.error(event, **facts)


class Recorder:
    """Records the runs of one environment and counts its calls."""

    def __init__(  # noqa: PLR0913  what it needs of a process
        self,
        engine: Engine,
        environment_id: int,
        box: SecretBox,
        redactor: Callable[[Pipeline], Redactor],
        allowed_bodies: Callable[[], str],
        *,
        finish: Callable[[Connection, Sequence[durable_runs.End]], Mapping[str, str]] = finish_runs,
        clean: Callable[[Pipeline], Clean] | None = None,
        run_log: RunLog | None = None,
    ) -> None:
        """Start the thread that writes.

        `redactor` and `clean` return what redacts the bodies of a pipeline and removes secrets from
        its texts. `allowed_bodies` returns which bodies the environment allows to be recorded:
        none, failed or all. `finish` stores ends of durable runs as `finish_runs` does.
        """
        self._engine = engine
        self._rows = RecordRows(environment_id, box, redactor, clean)
        self._counter = CallCounter(engine, environment_id)
        self._rejected = RejectedCalls()
        self._run_log = run_log
        self._environment_id = environment_id
        self._allowed_bodies = allowed_bodies
        self._finish = finish
        self._records = _RecordQueue()
        self._events: deque[Event] = deque()
        self._ending: set[str] = set()  # runs whose ends wait to be written
        self.live = LiveReports()  # any thread may note progress and steps of durable runs
        self._rare_log = _RareLog()
        self._wake = threading.Event()
        self._stop = False
        self._writing = threading.Lock()
        self._log = structlog.get_logger("penstock")
        self._thread = threads.start(
            "penstock-records", self._write_loop, limit=HEARTBEAT_TIMEOUT_S
        )

    # Called by the threads of calls: a few microseconds, and no lock.

    def over(self, record: Record) -> None:
        """Queue the record of a run that was answered at once."""
        self._records.append(record)
        if len(self._records) == EARLY_BATCH_SIZE:
            self._wake.set()

    def keeps(self, pipeline: Pipeline, http_status: int) -> bool:
        """Return whether the bodies of a call are recorded."""
        return bodies_are_recorded(pipeline, http_status, self._allowed_bodies)

    def rejected(
        self,
        pipeline: str,
        problem: str,
        caller: Caller = ANONYMOUS,
        describe: Callable[[int], RejectedCall] | None = None,
    ) -> None:
        """Count a rejected call by its problem type, and store it unless there are too many.

        `describe` returns the call for the id of the environment, and runs where it is stored.
        """
        self._counter.queue(pipeline, problem, caller)
        if describe is not None and self._rejected.accepts(pipeline, problem, caller.consumer_id):
            self._rejected.append(describe(self._environment_id))

    def counted(self, pipeline: str, outcome: str, caller: Caller = ANONYMOUS) -> None:
        """Count a call that was answered without a run of its own."""
        self._counter.queue(pipeline, outcome, caller)

    def began(self, run: str, at: datetime) -> None:
        """Record when a durable run started."""
        self._events.append((run, at))

    def ended(self, finished: Finished) -> None:
        """Record the end of a durable run; the first report counts."""
        if finished.run not in self._ending:
            self._ending.add(finished.run)
            self._events.append(finished)

    def knows_end(self, run: str) -> bool:
        """Return whether the end of a run waits to be written."""
        return run in self._ending

    def count(self, pipeline: str, outcome: str, micros: int | None) -> None:
        """Count a durable run that ended; `micros` is its duration in microseconds."""
        self._counter.add_run(pipeline, outcome, micros)

    # Called by the writer.

    def _write_loop(self, thread: threads.MonitoredThread) -> None:
        while not self._stop:
            thread.heartbeat()
            self._wake.wait(BATCH_INTERVAL_S)
            self._wake.clear()
            self.flush()

    def flush(self) -> None:
        """Write everything that is queued; what can't be written now stays queued."""
        with self._writing:
            for write in (self._write_records, self._write_durable, self._write_counts):
                try:
                    while write() == BATCH_SIZE:
                        self._thread.heartbeat()
                except PenstockError as error:
                    waiting = len(self._records) + len(self._events)
                    self._rare_log.error("run records wait", error=str(error), waiting=waiting)
                    break
                except Exception:  # noqa: BLE001  one fault must not stop the other writers
                    self._log.exception("run records not written")
            self._counter.report()
            if number := self._records.dropped:
                self._records.dropped = 0
                metrics.count_dropped_records(number)
                reason = "too many wait, or they can't be written"
                self._rare_log.error("run records dropped", records=number, reason=reason)

    def _write_counts(self) -> int:
        if self._run_log is not None:
            self._run_log.write(self._engine)
        self._counter.write(last=self._stop)
        return 0

    def _write_records(self) -> int:
        batch = self._records.batch()
        if not batch:
            return 0
        try:
            self._store_records(batch)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  one bad record must not stop the others
            for record in batch:
                self._write_alone(lambda item: self._store_records([item]), record, record.run)
        self._records.remove(batch)
        self._counter.add(batch)
        return len(batch)

    def _store_records(self, batch: Sequence[Record]) -> None:
        details = [self._details(record) for record in batch]
        stored.record(
            self._engine,
            [self._rows.run(record) for record in batch],
            [detail for detail in details if detail],
        )

    def _details(self, record: Record | Finished) -> stored.DetailValues | None:
        """Return steps and bodies of a run, None where that fails: the record is worth more."""
        try:
            return self._rows.details(record)
        except Exception as error:  # noqa: BLE001  as above
            self._rare_log.error("run detail not kept", run=record.run, exc_info=error)
            return None

    def _write_alone(self, write: Callable[[Item], Result], item: Item, run: str) -> Result | None:
        """Write one item, if need be without the data of callers and plugin code.

        It is dropped and counted where that fails too. Raises DatabaseUnavailable.
        """
        bare = without_plugin_data(item) if isinstance(item, Record | Finished) else item
        for attempt in (item, bare):
            try:
                return write(attempt)  # type: ignore[arg-type]  # of the type of the item
            except DatabaseUnavailable:
                raise
            except Exception:  # noqa: BLE001  as above
                self._log.exception("run record not taken", run=run)
        self._records.dropped += 1
        return None

    def _write_durable(self) -> int:
        reports = self.live.take()
        events = [self._events[index] for index in range(min(BATCH_SIZE, len(self._events)))]
        samples, left_out = self._rejected.queued(), self._rejected.left_out()
        if not (reports or events or samples or left_out):
            return 0
        try:
            ends = self._store_durable(events, reports, samples)
            if left_out:
                rejected_calls.count_left_out(self._engine, left_out)
        except DatabaseUnavailable:
            self.live.put_back(reports)
            raise
        self.live.written(reports)
        for event in events:
            self._events.popleft()
            if isinstance(event, Finished):
                self._ending.discard(event.run)
                if event.run in ends:
                    self._counter.add_run(event.pipeline.id, ends[event.run], event.micros)
        self._rejected.written(len(samples), left_out)
        return len(events)

    def _store_durable(
        self,
        events: Sequence[Event],
        reports: Reports,
        samples: Sequence[RejectedCall],
    ) -> Mapping[str, str]:
        """Store all in one transaction, or one by one where that fails; return the new ends."""
        try:
            return self._store_together(events, reports, samples)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  one bad record must not stop the others
            ends: dict[str, str] = {}
        for event in events:
            run = event[0] if isinstance(event, tuple) else event.run
            ends |= self._write_alone(lambda item: self._store_together([item]), event, run) or {}
        for run, report in reports.each():
            self._write_alone(lambda item: self._store_together(reports=item), report, run)
        for sample in samples:
            self._write_alone(lambda item: self._store_together(samples=[item]), sample, sample.id)
        return ends

    def _store_together(
        self,
        events: Sequence[Event] = (),
        reports: Reports = NO_REPORTS,
        samples: Sequence[RejectedCall] = (),
    ) -> Mapping[str, str]:
        finished = [event for event in events if isinstance(event, Finished)]
        ends = [self._rows.end(event, self._details(event)) for event in finished]
        with writing(self._engine) as connection:
            if began := [event for event in events if isinstance(event, tuple)]:
                durable_runs.start(connection, began)
            reports.store(connection)
            new_ends = self._finish(connection, ends) if ends else {}
            if samples:
                rejected_calls.record(connection, samples)
        return new_ends

    def stop(self) -> None:
        """Write what is queued, end the thread and close the database connections."""
        self._stop = True
        self._wake.set()
        with suppress(RuntimeError):
            self._thread.join(timeout=5)
        self.flush()
        self._engine.dispose()
