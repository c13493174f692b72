"""What Prometheus is told.

Counters, histograms and gauges of this process, or of all that share a folder.

An age is computed when it is read. What a process stores is the moment from which it counts, so the
age of something that nothing refreshes any more grows. `time.monotonic` is one clock for all
processes of a host.
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, NamedTuple, ParamSpec

import structlog

from penstock.metrics.shared import VARIABLE as SHARED
from penstock.metrics.shared import (
    RejectedReloads,
    create_shared_folder,
    fold_process,
    locked,
    owner_fds,
    record_rejected_reload,
    rejected_reloads,
)

__all__ = [
    "BOUNDS",
    "TABLE",
    "RejectedReloads",
    "create_shared_folder",
    "fold_process",
    "owner_fds",
    "record_rejected_reload",
    "rejected_reloads",
]

Arguments = ParamSpec("Arguments")
# seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Without an answer of the database to any one process, and it counts as away whatever the processes
# say.
LONGEST_ROUND_S = 30.0


class Row(NamedTuple):
    """A metric as Prometheus sees it.

    `mode` says which of the processes' values counts (prometheus_client's words).
    """

    name: str
    kind: str
    says: str
    labels: tuple[str, ...] = ()
    mode: str = "livemostrecent"


TABLE = (
    Row(
        "penstock_calls_total",
        "counter",
        "Calls and durable runs that are over.",
        ("pipeline", "outcome"),
    ),
    Row("penstock_call_seconds", "histogram", "How long they took.", ("pipeline",)),
    Row(
        "penstock_records_dropped_total",
        "counter",
        "Records of runs that were not written, for too many waited.",
    ),
    Row(
        "penstock_calls_counted_alone_total",
        "counter",
        "Calls counted in the memory of their process, for Redis was away.",
    ),
    Row(
        "penstock_runs_taken_over_total",
        "counter",
        "Durable runs that were taken over from a worker that had ended.",
    ),
    Row(
        "penstock_runs_waiting",
        "gauge",
        "Accepted durable runs that have not begun.",
        ("pipeline",),
    ),
    Row("penstock_runs_waiting_age_seconds", "gauge", "How long the oldest of them has waited."),
    Row(
        "penstock_runs_unattended",
        "gauge",
        "Those of them whose pipeline no living worker has.",
        ("pipeline",),
    ),
    Row(
        "penstock_runs_unattended_age_seconds", "gauge", "How long the oldest of these has waited."
    ),
    Row("penstock_workers", "gauge", "Processes for durable runs that are alive, on all hosts."),
    Row(
        "penstock_processes_waiting",
        "gauge",
        "Processes of this server that wait for the database to start.",
        (),
        "livesum",
    ),
    Row(
        "penstock_pipelines",
        "gauge",
        "Pipelines by listener and state: served, non-conformant, blocked or disabled.",
        ("listener", "state"),
    ),
    Row(
        "penstock_reloads_rejected_total",
        "counter",
        "Reloads that were rejected since this server was started.",
    ),
    Row(
        "penstock_snapshot_age_seconds",
        "gauge",
        "How old the oldest view of access is.",
        (),
        "livemin",
    ),
    Row(
        "penstock_database_up",
        "gauge",
        "1 while the database answers all processes, else 0.",
        (),
        "livemin",
    ),
    Row(
        "penstock_database_answered_age_seconds",
        "gauge",
        "How long the process that has waited longest has had no answer.",
        (),
        "livemin",
    ),
    Row(
        "penstock_database_read_only",
        "gauge",
        "1 while the database answers and takes no changes.",
        (),
        "livemax",
    ),
    Row(
        "penstock_clock_difference_seconds",
        "gauge",
        "Seconds that the database's clock is ahead of this host's.",
        (),
        "livemostrecent",
    ),
    Row(
        "penstock_database_disk_full",
        "gauge",
        "1 while the database's disk is full, or was a minute ago.",
        (),
        "livemax",
    ),
    Row(
        "penstock_redis_up",
        "gauge",
        "1 while Redis answers, else 0; absent where calls are not counted there.",
        (),
        "livemin",
    ),
    Row(
        "penstock_threads_stuck",
        "gauge",
        "Background threads without a heartbeat within their limits.",
        (),
        "livesum",
    ),
    Row(
        "penstock_start_time_seconds",
        "gauge",
        "When the oldest process of this server was started, in seconds since the epoch.",
        (),
        "livemin",
    ),
    Row(
        "penstock_build_info",
        "gauge",
        "1, with the version of Penstock and of Python.",
        ("version", "python"),
    ),
)
_ROWS = {row.name: row for row in TABLE}
MONOTONIC = ("penstock_snapshot_age_seconds", "penstock_database_answered_age_seconds")
WALL = ("penstock_runs_waiting_age_seconds", "penstock_runs_unattended_age_seconds")
UP, ANSWERED = "penstock_database_up", "penstock_database_answered_age_seconds"


class _Metrics:
    """The metrics of this process, made at first use.

    The library looks for the folder when it is imported.
    """

    def __init__(self) -> None:
        from prometheus_client import (  # noqa: PLC0415  see above
            CollectorRegistry,
            Counter,
            Histogram,
        )

        self.registry = CollectorRegistry()
        self._gauges: dict[str, Any] = {}
        self._creating = threading.Lock()

        def counter(name: str) -> Any:  # noqa: ANN401  with labels or without
            row = _ROWS[name]
            return Counter(name, row.says, row.labels, registry=self.registry)

        seconds = _ROWS["penstock_call_seconds"]
        self.calls = counter("penstock_calls_total")
        self.seconds = Histogram(
            seconds.name, seconds.says, seconds.labels, buckets=BOUNDS, registry=self.registry
        )
        self.dropped = counter("penstock_records_dropped_total")
        self.counted_alone = counter("penstock_calls_counted_alone_total")
        self.taken_over = counter("penstock_runs_taken_over_total")

    def put(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        """Set a gauge.

        One that was never set has no value, and no scrape sees the 0 that it is created with, which
        may mean something.
        """
        from prometheus_client import Gauge  # noqa: PLC0415  see above

        if name in self._gauges:
            self._set(name, value, labels)
            return
        with self._creating, locked(fcntl.LOCK_EX):
            if name not in self._gauges:
                row = _ROWS[name]
                mode: Any = row.mode
                self._gauges[name] = Gauge(
                    name, row.says, row.labels, registry=self.registry, multiprocess_mode=mode
                )
            self._set(name, value, labels)

    def _set(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)


@functools.cache
def _made() -> _Metrics:
    return _Metrics()


def _harmless(count: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Return a function that counts, and counts nothing where the folder is gone or full.

    Starts, calls and records go on.
    """

    @functools.wraps(count)
    def counted(*args: Arguments.args, **named: Arguments.kwargs) -> None:
        with suppress(OSError):
            count(*args, **named)

    return counted


@_harmless
def count_calls(pipeline: str, outcome: str, number: int) -> None:
    """Count calls."""
    _made().calls.labels(pipeline, outcome).inc(number)


@_harmless
def observe_seconds(pipeline: str, seconds: float, buckets: Sequence[int]) -> None:
    """Note how long calls took.

    All together, and how many of them were within each bound but not the one before.
    """
    histogram = _made().seconds.labels(pipeline)
    histogram._sum.inc(seconds)  # noqa: SLF001  the library takes observations one by one, which costs more than the calls' records
    for bucket, number in zip(histogram._buckets, buckets, strict=True):  # noqa: SLF001  as above
        if number:
            bucket.inc(number)


@_harmless
def count_dropped_records(records: int) -> None:
    """Count records that were not written."""
    _made().dropped.inc(records)


@_harmless
def count_local_rate_check() -> None:
    """Count a call whose rates this process counted in its own memory."""
    _made().counted_alone.inc()


@_harmless
def count_recovered_run() -> None:
    """Count a run that was taken over."""
    _made().taken_over.inc()


@_harmless
def set_gauge(name: str, value: float, *labels: str) -> None:
    """Set a gauge of this process.

    For one that is shown as an age it is the moment from which that counts, 0 for none.

    The moment is a `time.monotonic()` reading for what `MONOTONIC` names, and in seconds since the
    epoch for what `WALL` names.
    """
    _made().put(name, value, labels)


def forget_process(pid: int) -> None:
    """Forget what only a living process can say, and go on counting what it has counted."""
    try:
        fold_process(pid)
    except Exception:  # noqa: BLE001  a damaged file, or no room: whoever calls this has processes to look after
        structlog.get_logger("penstock").exception(
            "the counts of a process that has ended are lost", pid=pid
        )


def gauge_value(name: str) -> float | None:
    """Return a gauge without labels, over all processes that share a folder.

    None where none of them has set it.
    """
    for metric in _collected():
        if metric.name == name:
            return float(metric.samples[0].value) if metric.samples else None
    return None


def render() -> tuple[bytes, str]:
    """Return the exposition, and its media type.

    It is of all processes that share a folder, else of this one.
    """
    from prometheus_client import (  # noqa: PLC0415  see _Metrics
        CONTENT_TYPE_LATEST,
        generate_latest,
    )

    return generate_latest(_Exposition()), CONTENT_TYPE_LATEST


class _Exposition:
    def collect(self) -> Iterable[Any]:
        """Yield all metrics."""
        yield from _collected()
        yield _metric("penstock_build_info", 1, version("penstock"), platform.python_version())
        if os.environ.get(SHARED):
            known = rejected_reloads()
            yield _metric("penstock_reloads_rejected_total", known.number if known else 0)


def _collected() -> Iterator[Any]:
    """Yield the metrics of all processes, with ages in place of moments."""
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415  see _Metrics

    with locked(fcntl.LOCK_SH) as folder:
        collector: Any = (
            _made().registry if folder is None else MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]  # it has no types
        )
        metrics = list(collector.collect())
    silent = any(
        metric.name == ANSWERED
        and any(time.monotonic() - item.value > LONGEST_ROUND_S for item in metric.samples)
        for metric in metrics
    )
    for metric in metrics:
        if metric.name in MONOTONIC:
            metric.samples = [
                item._replace(value=time.monotonic() - item.value) for item in metric.samples
            ]
        elif metric.name in WALL:
            metric.samples = [
                item._replace(value=max(0.0, time.time() - item.value) if item.value else 0.0)
                for item in metric.samples
            ]
        elif metric.name == UP and silent:
            metric.samples = [item._replace(value=0.0) for item in metric.samples]
        yield metric


def _metric(name: str, value: float, *labels: str) -> Any:  # noqa: ANN401  the library's type
    from prometheus_client.core import Metric  # noqa: PLC0415  see _Metrics

    row = _ROWS[name]
    metric = Metric(name.removesuffix("_total"), row.says, row.kind)
    metric.add_sample(name, dict(zip(row.labels, labels, strict=True)), value)
    return metric
