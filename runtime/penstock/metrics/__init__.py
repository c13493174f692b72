"""Metrics for Prometheus, of this process or of all processes that share a folder.

An age is computed when it is read. A process stores the time at which the age began, so an age
grows if nothing updates it any more. `time.monotonic` is one clock for all processes of a host.
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, ParamSpec

import structlog

from penstock.metrics.catalog import BY_NAME, LATENCY_BUCKETS_S, METRICS, RUN_BUCKETS_S
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
    "LATENCY_BUCKETS_S",
    "METRICS",
    "RUN_BUCKETS_S",
    "RejectedReloads",
    "create_shared_folder",
    "fold_process",
    "owner_fds",
    "record_rejected_reload",
    "rejected_reloads",
]

Arguments = ParamSpec("Arguments")
MAX_ATTEMPTS, ATTEMPT_PAUSE_S = 50, 0.01  # to read the files of other processes
# The database counts as away if any process has had no answer for that long.
MAX_ROUND_S = 30.0
# Two threads that import the library at once, by two of its modules, find one of them half done.
_first_use = threading.Lock()

MONOTONIC_AGES = ("penstock_snapshot_age_seconds", "penstock_database_answered_age_seconds")
WALL_AGES = ("penstock_runs_waiting_age_seconds", "penstock_runs_unattended_age_seconds")
UP, ANSWERED = "penstock_database_up", "penstock_database_answered_age_seconds"


class _Metrics:
    """The metrics of this process, created at first use.

    prometheus_client reads the name of the folder when it is imported, so it is imported here.
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
            metric = BY_NAME[name]
            return Counter(name, metric.help, metric.labels, registry=self.registry)

        def histogram(name: str, bounds: Sequence[float]) -> Any:  # noqa: ANN401  as above
            metric = BY_NAME[name]
            return Histogram(
                name, metric.help, metric.labels, buckets=bounds, registry=self.registry
            )

        self.calls = counter("penstock_calls_total")
        self.seconds = histogram("penstock_call_seconds", LATENCY_BUCKETS_S)
        self.runs = counter("penstock_runs_total")
        self.run_seconds = histogram("penstock_run_seconds", RUN_BUCKETS_S)
        self.dropped = counter("penstock_records_dropped_total")
        self.counted_alone = counter("penstock_calls_counted_alone_total")
        self.taken_over = counter("penstock_runs_taken_over_total")

    def put(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        """Set a gauge.

        A gauge is created here, under the lock, because its initial 0 may have a meaning: no scrape
        must see it before the value is set.
        """
        from prometheus_client import Gauge  # noqa: PLC0415  see above

        if name in self._gauges:
            self._set(name, value, labels)
            return
        with self._creating, locked(fcntl.LOCK_EX):
            if name not in self._gauges:
                metric = BY_NAME[name]
                mode: Any = metric.mode
                self._gauges[name] = Gauge(
                    name,
                    metric.help,
                    metric.labels,
                    registry=self.registry,
                    multiprocess_mode=mode,
                )
            self._set(name, value, labels)

    def _set(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)


def _metrics() -> _Metrics:
    with _first_use:
        return _created()


@functools.cache
def _created() -> _Metrics:
    return _Metrics()


def _harmless(count: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Return a function that counts, or does nothing if the folder is missing or full.

    Neither may fail a start or a call.
    """

    @functools.wraps(count)
    def wrapper(*args: Arguments.args, **named: Arguments.kwargs) -> None:
        with suppress(OSError):
            count(*args, **named)

    return wrapper


@_harmless
def count_calls(pipeline: str, outcome: str, number: int) -> None:
    """Count finished calls of a pipeline (`version/name`) with the same outcome."""
    _metrics().calls.labels(pipeline, outcome).inc(number)


@_harmless
def observe_seconds(pipeline: str, seconds: float, buckets: Sequence[int]) -> None:
    """Add the durations of several calls of a pipeline.

    `seconds` is their sum, `buckets` the number of calls in each bucket of LATENCY_BUCKETS_S.
    """
    _observe(_metrics().seconds.labels(pipeline), seconds, buckets)


@_harmless
def count_runs(pipeline: str, status: str, number: int) -> None:
    """Count runs of a pipeline that ended with the same status, and that no call waited for."""
    _metrics().runs.labels(pipeline, status).inc(number)


@_harmless
def observe_run_seconds(pipeline: str, seconds: float, buckets: Sequence[int]) -> None:
    """Add the durations of several such runs, as `observe_seconds`; buckets of RUN_BUCKETS_S."""
    _observe(_metrics().run_seconds.labels(pipeline), seconds, buckets)


def _observe(histogram: Any, seconds: float, buckets: Sequence[int]) -> None:  # noqa: ANN401  the library's type
    histogram._sum.inc(seconds)  # noqa: SLF001  the library accepts single observations only, which cost more than a record
    for bucket, number in zip(histogram._buckets, buckets, strict=True):  # noqa: SLF001  as above
        if number:
            bucket.inc(number)


@_harmless
def count_dropped_records(records: int) -> None:
    """Count records that were dropped."""
    _metrics().dropped.inc(records)


@_harmless
def count_local_rate_check() -> None:
    """Count a call whose rate limits this process counted in memory."""
    _metrics().counted_alone.inc()


@_harmless
def count_recovered_run() -> None:
    """Count a run that was recovered."""
    _metrics().taken_over.inc()


@_harmless
def set_gauge(name: str, value: float, *labels: str) -> None:
    """Set a gauge of this process.

    For an age, `value` is the time at which it began: a `time.monotonic()` reading for the names in
    MONOTONIC_AGES; seconds since the epoch, or 0 for none, for those in WALL_AGES.
    """
    _metrics().put(name, value, labels)


def forget_process(pid: int) -> None:
    """Keep the counters of a process that ended, and remove its gauges."""
    try:
        fold_process(pid)
    except Exception:  # noqa: BLE001  a damaged file, or a full disk; the caller must still manage its processes
        structlog.get_logger("penstock").exception(
            "the counters of a process that ended are lost", pid=pid
        )


def gauge_value(name: str) -> float | None:
    """Return the value of a gauge without labels, None if no process has set it.

    It covers all processes that share the folder.
    """
    for metric in _collected():
        if metric.name == name:
            return float(metric.samples[0].value) if metric.samples else None
    return None


def render() -> tuple[bytes, str]:
    """Return all metrics in Prometheus' text format, and its media type.

    They cover all processes that share the folder, or this one if there is no folder.
    """
    _metrics()
    from prometheus_client import (  # noqa: PLC0415  see _Metrics
        CONTENT_TYPE_LATEST,
        generate_latest,
    )

    return generate_latest(_Exposition()), CONTENT_TYPE_LATEST


class _Exposition:
    def collect(self) -> Iterable[Any]:
        """Yield all metrics."""
        yield from _collected()
        yield _sample("penstock_build_info", 1, version("penstock"), platform.python_version())
        if os.environ.get(SHARED):
            reloads = rejected_reloads()
            yield _sample("penstock_reloads_rejected_total", reloads.number if reloads else 0)


def _collect(collector: Any) -> list[Any]:  # noqa: ANN401  the library's type
    """Return all metrics. A process may have created its file and not written its head yet."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return list(collector.collect())
        except struct.error:
            time.sleep(ATTEMPT_PAUSE_S)
    return list(collector.collect())


def _collected() -> Iterator[Any]:
    """Yield the metrics of all processes, with ages in place of start times."""
    registry = _metrics().registry
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415  see _Metrics

    with locked(fcntl.LOCK_SH) as folder:
        collector: Any = (
            registry if folder is None else MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]  # the library ships no types
        )
        metrics = _collect(collector)
    silent = any(
        metric.name == ANSWERED
        and any(time.monotonic() - item.value > MAX_ROUND_S for item in metric.samples)
        for metric in metrics
    )
    for metric in metrics:
        if metric.name in MONOTONIC_AGES:
            metric.samples = [
                item._replace(value=time.monotonic() - item.value) for item in metric.samples
            ]
        elif metric.name in WALL_AGES:
            metric.samples = [
                item._replace(value=max(0.0, time.time() - item.value) if item.value else 0.0)
                for item in metric.samples
            ]
        elif metric.name == UP and silent:
            metric.samples = [item._replace(value=0.0) for item in metric.samples]
        yield metric


def _sample(name: str, value: float, *labels: str) -> Any:  # noqa: ANN401  the library's type
    from prometheus_client.core import (  # noqa: PLC0415  see _Metrics
        Metric as PrometheusMetric,
    )

    row = BY_NAME[name]
    metric = PrometheusMetric(name.removesuffix("_total"), row.help, row.kind)
    metric.add_sample(name, dict(zip(row.labels, labels, strict=True)), value)
    return metric
