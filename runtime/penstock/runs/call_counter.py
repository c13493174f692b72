"""Counts of calls and of durable runs, for pages and metrics.

Calls are counted by pipeline, outcome and minute; and by hour, consumer, key, pipeline and class.
Runs that no call waited for are a series of their own: their minutes are no latency of calls.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

from penstock import metrics
from penstock.contracts.call import ANONYMOUS, Caller
from penstock.contracts.outcomes import RUN, class_of
from penstock.contracts.run_status import status_of
from penstock.db import call_counts, consumer_counts
from penstock.db.call_counts import CallCount
from penstock.db.consumer_counts import NOT_KNOWN, CountKey
from penstock.db.engine import Engine
from penstock.runs.ids import new_run_id
from penstock.runs.records import Record

Key = TypeVar("Key")
MAX_QUEUED_CALLS = 50_000  # calls without a run of their own that wait to be counted
CONSUMERS_INTERVAL_S = 10.0  # between two writes of the counts by consumer
MAX_COUNTED = 20_000  # counts by consumer that wait; then they are written at once


class _Count:
    """Number, duration and histogram of calls or of runs."""

    __slots__ = ("buckets", "calls", "changed", "micros")

    def __init__(self, buckets: int) -> None:
        self.calls = 0
        self.micros = 0
        self.buckets = [0] * buckets
        self.changed = True

    def add(self, calls: int, micros: int, buckets: Sequence[int]) -> None:
        self.calls += calls
        self.changed = True
        self.micros += micros
        for index, number in enumerate(buckets):
            self.buckets[index] += number


class CallCounter:
    """Counts the calls and the durable runs of one environment in this process.

    Each process writes rows of its own, and replaces them while their minute lasts. Calls come in
    on any thread through `queue`; everything else belongs to the thread that writes.
    """

    def __init__(self, engine: Engine, environment_id: int) -> None:
        self._engine = engine
        self._environment_id = environment_id
        self._process = new_run_id()
        self._queued: deque[tuple[str, str, Caller]] = deque(maxlen=MAX_QUEUED_CALLS)
        self._minutes: dict[tuple[int, str, str], _Count] = {}
        self._unreported: dict[tuple[str, str], _Count] = {}  # not in the metrics yet
        self._by_consumer: dict[CountKey, int] = {}
        self._write_at = time.monotonic() + CONSUMERS_INTERVAL_S

    def queue(self, pipeline: str, outcome: str, caller: Caller = ANONYMOUS) -> None:
        """Count a call that has no duration, with the next `write`."""
        self._queued.append((pipeline, outcome, caller))

    def add(self, records: Iterable[Record]) -> None:
        """Count what records are of: calls, or runs within others or by an operator.

        Records are grouped first: one alone would take longer to count than to write.
        """
        groups: dict[tuple[str, int, str | None, bool, int | None, str | None], list[int]] = {}
        for record in records:
            caller = record.caller
            group = (
                record.pipeline.id,
                record.http_status,
                record.problem,
                record.parent is None and record.redelivers is None,
                caller.consumer_id,
                caller.key_id,
            )
            durations = groups.get(group)
            if durations is None:
                groups[group] = [record.micros]
            else:
                durations.append(record.micros)
        for (pipeline, status, problem, called, consumer, key), durations in groups.items():
            outcome = status_of(status, problem).value
            if called:
                self._count(pipeline, outcome, len(durations), durations)
                self._count_caller(pipeline, outcome, consumer, key, len(durations))
            else:
                self._count(pipeline, RUN + outcome, len(durations), durations)

    def add_run(self, pipeline: str, status: str, micros: int | None) -> None:
        """Count a run that no call waited for; `micros` is its duration in microseconds."""
        self._count(pipeline, RUN + status, 1, () if micros is None else (micros,))

    def _count(self, pipeline: str, outcome: str, calls: int, durations: Sequence[int]) -> None:
        of_run = outcome.startswith(RUN)
        bounds = metrics.RUN_BUCKETS_S if of_run else metrics.LATENCY_BUCKETS_S
        buckets = [0] * (len(bounds) + 1)
        for micros in durations:
            buckets[bisect_left(bounds, micros / 1e6)] += 1
        total = sum(durations)
        _counted(self._minutes, (_minute(), pipeline, outcome), buckets).add(calls, total, buckets)
        _counted(self._unreported, (pipeline, outcome), buckets).add(calls, total, buckets)

    def _count_caller(
        self, pipeline: str, outcome: str, consumer: int | None, key: str | None, calls: int
    ) -> None:
        hour = int(time.time()) // consumer_counts.HOUR * consumer_counts.HOUR
        count = CountKey(hour, consumer or NOT_KNOWN, key or "", pipeline, class_of(outcome))
        self._by_consumer[count] = self._by_consumer.get(count, 0) + calls

    def _count_queued(self) -> None:
        """Count the calls that have no run of their own."""
        groups: dict[tuple[str, str, int | None, str | None], int] = {}
        for _ in range(len(self._queued)):
            pipeline, outcome, caller = self._queued.popleft()
            group = (pipeline, outcome, caller.consumer_id, caller.key_id)
            groups[group] = groups.get(group, 0) + 1
        for (pipeline, outcome, consumer, key), calls in groups.items():
            self._count(pipeline, outcome, calls, ())
            self._count_caller(pipeline, outcome, consumer, key, calls)

    def report(self) -> None:
        """Add the counts since the last report to this process's metrics."""
        unreported, self._unreported = self._unreported, {}
        for (pipeline, outcome), count in unreported.items():
            seconds = count.micros / 1e6
            if outcome.startswith(RUN):
                metrics.count_runs(pipeline, outcome.removeprefix(RUN), count.calls)
                metrics.observe_run_seconds(pipeline, seconds, count.buckets)
            else:
                metrics.count_calls(pipeline, outcome, count.calls)
                metrics.observe_seconds(pipeline, seconds, count.buckets)

    def write(self, *, last: bool = False) -> None:
        """Write the counts that changed; those by consumer at intervals, or at the `last` time.

        Raises DatabaseUnavailable; `write` again later then.
        """
        self._count_queued()
        changed = [(key, count) for key, count in self._minutes.items() if count.changed]
        if changed:
            call_counts.write(self._engine, [self._row(*key, count) for key, count in changed])
            for _, count in changed:
                count.changed = False
        current = _minute()
        for key in [
            key for key, count in self._minutes.items() if key[0] < current and not count.changed
        ]:
            del self._minutes[key]
        due = last or time.monotonic() >= self._write_at or len(self._by_consumer) >= MAX_COUNTED
        if due and self._by_consumer:
            consumer_counts.add(self._engine, self._environment_id, self._by_consumer)
            self._by_consumer = {}
        if due:
            self._write_at = time.monotonic() + CONSUMERS_INTERVAL_S

    def _row(self, minute: int, pipeline: str, outcome: str, count: _Count) -> CallCount:
        return CallCount(
            environment_id=self._environment_id,
            span=call_counts.MINUTE,
            since=minute,
            pipeline=pipeline,
            outcome=outcome,
            process=self._process,
            calls=count.calls,
            micros=count.micros,
            buckets=count.buckets,
        )


def _counted(counts: dict[Key, _Count], key: Key, buckets: Sequence[int]) -> _Count:
    count = counts.get(key)
    if count is None:
        count = counts[key] = _Count(len(buckets))
    return count


def _minute() -> int:
    return int(time.time()) // call_counts.MINUTE * call_counts.MINUTE
