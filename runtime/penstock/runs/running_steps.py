"""Steps of a durable run that have no stored output yet, with their attempts so far.

**Why.** The engine stores the output of a step when the step is over. A step that runs for an hour
would be invisible for an hour, and its attempts would be lost if its worker died. So these steps
are stored with the run, in batches by the thread that writes records: an attempt that ends its
process within a quarter of a second may be missing. After a recovery each change is written before
the attempt begins, because the run may have ended the worker before.

**Threads.** Steps of `gather` begin and end in threads of their own, while the writer reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable

import msgspec

from penstock.contracts.sanitize import as_json
from penstock.runs.failures import Clean
from penstock.runs.records import steps_of
from penstock.runs.step_records import Attempt, StepRecord

MAX_ATTEMPTS = 100  # of a step, the last ones


def _do_nothing() -> None:
    """Do nothing: the writer writes within a quarter of a second."""


class RunningSteps:
    """The steps of one run that are running in this process, by their numbers in the engine."""

    def __init__(
        self,
        changed: Callable[[RunningSteps], None],
        clean: Clean,
        earlier: Iterable[StepRecord] = (),
        flush: Callable[[], None] = _do_nothing,
    ) -> None:
        """Take the steps that an earlier worker began, and what is called.

        `changed` is called after each change, and `flush` before each attempt.
        """
        self._steps: dict[int, StepRecord] = {}
        self._earlier = {record.number: record for record in earlier}
        self._lock = threading.Lock()
        self._changed = changed
        self.clean = clean
        self._flush = flush
        # What the database has; nothing of this worker yet, so that the first report is written.
        self.written: bytes | None = b"" if self._earlier else None

    def begin(self, number: int, record: StepRecord) -> None:
        """Add a step, with the attempts that an earlier worker began."""
        record.number = number
        with self._lock:
            earlier = self._earlier.pop(number, None)
            if earlier is not None and earlier.name == record.name:
                record.attempts[:0] = earlier.attempts
                record.at = earlier.at
            self._steps[number] = record

    def attempted(self) -> None:
        """Report that an attempt of a step is to begin, or is to be repeated."""
        self._changed(self)
        self._flush()

    def end(self, number: int) -> None:
        """Remove a step, whose output is to be stored."""
        with self._lock:
            self._steps.pop(number, None)
        self._changed(self)

    def snapshot(self) -> bytes | None:
        """Return the steps as they are stored with the run; None without any."""
        with self._lock:
            return self._encoded()

    def _encoded(self) -> bytes | None:
        records = [*self._earlier.values(), *self._steps.values()]
        return as_json([self._stored(record) for record in records]) if records else None

    def _stored(self, record: StepRecord) -> StepRecord:
        attempts = [
            msgspec.structs.replace(attempt, error=self.clean(attempt.error))
            if attempt.error
            else attempt
            for attempt in record.attempts[-MAX_ATTEMPTS:]
        ]
        return msgspec.structs.replace(record, attempts=attempts)


def interrupted_steps(stored: bytes | None, now_ms: float) -> list[StepRecord]:
    """Return stored steps whose worker has ended, each with its last attempt as interrupted.

    `now_ms` is in milliseconds since the start of the run: the attempt ended before.
    """
    records = steps_of(stored)
    for record in records:
        for attempt in record.attempts:
            if _is_open(attempt):
                attempt.interrupted = True
                attempt.ms = max(0.0, round(now_ms - attempt.at, 3))
        record.ms = max([0.0, *(each.at + each.ms - record.at for each in record.attempts)])
    return records


def unfinished_steps(
    stored: bytes | None, done: Container[int], now_ms: float, *, running: bool
) -> list[StepRecord]:
    """Return the steps without output, in order.

    `done` has the numbers of those with an output. They are running if the run is; else they were
    interrupted, and `now_ms` is when the run ended, as above.
    """
    if not running:
        records = interrupted_steps(stored, now_ms)
    else:
        records = steps_of(stored)
        for record in records:
            record.running = True
            record.ms = max(0.0, round(now_ms - record.at, 3))
            for attempt in record.attempts:
                if _is_open(attempt):
                    attempt.ms = max(0.0, round(now_ms - attempt.at, 3))
    left = [record for record in records if record.number not in done]
    return sorted(left, key=lambda record: record.number)


def _is_open(attempt: Attempt) -> bool:
    """Return whether an attempt has not ended: its duration is written when it ends."""
    return not (attempt.ms or attempt.error or attempt.interrupted)
