"""What Prometheus is told: counters and histograms of this process, or of all that share a folder."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec

Arguments = ParamSpec("Arguments")
SHARED = "PROMETHEUS_MULTIPROC_DIR"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


def share() -> str | None:
    """Have this process and those that it starts count together; return the folder for that, if it was made here."""
    if os.environ.get(SHARED):
        return None
    memory = Path("/dev/shm")  # noqa: S108  counters need no disk
    os.environ[SHARED] = tempfile.mkdtemp(prefix="penstock-metrics-", dir=memory if memory.is_dir() else None)
    return os.environ[SHARED]


class _Metrics:
    """The metrics of this process, made at first use: the library looks for the folder when it is imported."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram  # noqa: PLC0415  see above

        self.registry = CollectorRegistry()

        def counter(name: str, says: str, labels: tuple[str, ...] = ()) -> Any:  # noqa: ANN401  with labels or without
            return Counter(f"penstock_{name}", says, labels, registry=self.registry)

        self.calls = counter("calls", "Calls and durable runs that are over, by pipeline and outcome.", ("pipeline", "outcome"))
        self.seconds = Histogram("penstock_call_seconds", "How long they took.", ("pipeline",), buckets=BOUNDS, registry=self.registry)
        self.dropped = counter("records_dropped", "Records of runs that were not written, for too many waited.")
        self.counted_alone = counter("calls_counted_alone", "Calls counted in the memory of their process, for the storage of rates was away.")
        self.taken_over = counter("runs_taken_over", "Durable runs that were taken over from a worker that had ended.")
        self.waiting = self._gauge("runs_waiting", "Accepted durable runs that have not begun.", ("pipeline",))
        self.unattended = self._gauge("runs_unattended", "Of these, those that no living worker has the pipeline of.", ("pipeline",))
        self.workers = self._gauge("workers", "Worker processes that are alive.")
        self.age = self._gauge("snapshot_age_seconds", "How old the oldest view of access is.", mode="livemax")
        says = "1 while a process can't reach the storage of PENSTOCK_RATE_LIMIT_URL, else 0."
        self.rate_storage_away = self._gauge("rate_storage_away", says, mode="livemax")

    def _gauge(self, name: str, says: str, labels: tuple[str, ...] = (), mode: Any = "livemostrecent") -> Any:  # noqa: ANN401  with labels or without
        from prometheus_client import Gauge  # noqa: PLC0415  see above

        return Gauge(f"penstock_{name}", says, labels, registry=self.registry, multiprocess_mode=mode)


@functools.cache
def _made() -> _Metrics:
    return _Metrics()


def _harmless(count: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Return a function that counts, and counts nothing where the folder is gone or full: calls, records and the view of access go on."""

    @functools.wraps(count)
    def counted(*args: Arguments.args, **named: Arguments.kwargs) -> None:
        with suppress(OSError):
            count(*args, **named)

    return counted


@_harmless
def called(pipeline: str, outcome: str, number: int) -> None:
    """Count calls."""
    _made().calls.labels(pipeline, outcome).inc(number)


@_harmless
def took(pipeline: str, seconds: float, buckets: Sequence[int]) -> None:
    """Note how long calls took: all together, and how many of them were within each bound but not the one before."""
    histogram = _made().seconds.labels(pipeline)
    histogram._sum.inc(seconds)  # noqa: SLF001  the library takes observations one by one, which costs more than the calls' records
    for bucket, number in zip(histogram._buckets, buckets, strict=True):  # noqa: SLF001  as above
        if number:
            bucket.inc(number)


@_harmless
def dropped(records: int) -> None:
    """Count records that were not written."""
    _made().dropped.inc(records)


@_harmless
def counted_alone() -> None:
    """Count a call whose rates this process counted in its own memory."""
    _made().counted_alone.inc()


@_harmless
def rate_storage_away(away: int) -> None:
    """Note whether the storage of rates is away: 1 or 0."""
    _made().rate_storage_away.set(away)


@_harmless
def taken_over() -> None:
    """Count a run that was taken over."""
    _made().taken_over.inc()


@_harmless
def waiting(pipeline: str, runs: int, unattended: int) -> None:
    """Note how many accepted runs of a pipeline have not begun, and how many of them have no worker."""
    _made().waiting.labels(pipeline).set(runs)
    _made().unattended.labels(pipeline).set(unattended)


@_harmless
def workers(number: int) -> None:
    """Note how many worker processes are alive."""
    _made().workers.set(number)


@_harmless
def aged(seconds: float) -> None:
    """Note how old the view of access is."""
    _made().age.set(seconds)


@_harmless
def gone(pid: int) -> None:
    """Forget what only a living process can say."""
    if os.environ.get(SHARED):
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415  see _Metrics

        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # it has no types


def render() -> tuple[bytes, str]:
    """Return the exposition of all processes that share a folder, else of this one, and its media type."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest  # noqa: PLC0415  see _Metrics
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415  see _Metrics

    registry = _made().registry
    if os.environ.get(SHARED):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
    return generate_latest(registry), CONTENT_TYPE_LATEST
