"""Counts of calls by pipeline, outcome and minute, for pages and metrics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from typing import TypeVar

from penstock import metrics
from penstock.db import call_counts
from penstock.db.call_counts import CallCount
from penstock.db.engine import Engine
from penstock.runs.ids import new_run_id

Key = TypeVar("Key")
MAX_QUEUED_CALLS = 50_000  # calls without a run of their own that wait to be counted


class _Count:
    """Number, duration and histogram of calls."""

    __slots__ = ("buckets", "calls", "changed", "micros")

    def __init__(self) -> None:
        self.calls = 0
        self.micros = 0
        self.buckets = [0] * (len(metrics.LATENCY_BUCKETS_S) + 1)
        self.changed = True

    def add(self, micros: int | None) -> None:
        self.calls += 1
        self.changed = True
        if micros is not None:
            self.micros += micros
            self.buckets[bisect_left(metrics.LATENCY_BUCKETS_S, micros / 1e6)] += 1


class CallCounter:
    """Counts the calls of one environment in this process.

    Each process writes rows of its own, and replaces them while their minute lasts. Calls come in
    on any thread through `queue`; everything else belongs to the thread that writes.
    """

    def __init__(self, engine: Engine, environment_id: int) -> None:
        self._engine = engine
        self._environment_id = environment_id
        self._process = new_run_id()
        self._queued: deque[tuple[str, str]] = deque(maxlen=MAX_QUEUED_CALLS)
        self._minutes: dict[tuple[int, str, str], _Count] = {}
        self._unreported: dict[tuple[str, str], _Count] = {}  # not in the metrics yet

    def queue(self, pipeline: str, outcome: str) -> None:
        """Count a call that has no duration, with the next `write`."""
        self._queued.append((pipeline, outcome))

    def add(self, pipeline: str, outcome: str, micros: int | None) -> None:
        """Count a call or a run that ended; `micros` is its duration in microseconds."""
        _count(self._minutes, (_minute(), pipeline, outcome)).add(micros)
        _count(self._unreported, (pipeline, outcome)).add(micros)

    def report(self) -> None:
        """Add the counts since the last report to this process's metrics."""
        unreported, self._unreported = self._unreported, {}
        for (pipeline, outcome), count in unreported.items():
            metrics.count_calls(pipeline, outcome, count.calls)
            metrics.observe_seconds(pipeline, count.micros / 1e6, count.buckets)

    def write(self) -> None:
        """Write the counts that changed. Raises DatabaseUnavailable; `write` again later then."""
        for _ in range(len(self._queued)):
            self.add(*self._queued.popleft(), None)
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


def _count(counts: dict[Key, _Count], key: Key) -> _Count:
    count = counts.get(key)
    if count is None:
        count = counts[key] = _Count()
    return count


def _minute() -> int:
    return int(time.time()) // call_counts.MINUTE * call_counts.MINUTE
