"""What Prometheus is told: counters and histograms of this process, or of all that share `PROMETHEUS_MULTIPROC_DIR`."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
SHARED = "PROMETHEUS_MULTIPROC_DIR"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds

_registry = CollectorRegistry()
_calls = Counter("penstock_calls", "Calls and durable runs that are over, by pipeline and outcome.", ("pipeline", "outcome"), registry=_registry)
_seconds = Histogram("penstock_call_seconds", "How long they took.", ("pipeline",), buckets=BOUNDS, registry=_registry)
_dropped = Counter("penstock_records_dropped", "Records of runs that were not written, for the queue was full.", registry=_registry)
_uncounted = Counter("penstock_calls_uncounted", "Calls that passed their rates uncounted, for their storage was away.", registry=_registry)
_taken_over = Counter("penstock_runs_taken_over", "Durable runs that were taken over from a worker that had ended.", registry=_registry)
_age = Gauge("penstock_snapshot_age_seconds", "How old the oldest view of access is.", registry=_registry, multiprocess_mode="livemax")


def called(pipeline: str, outcome: str, times: int) -> None:
    """Count calls."""
    _calls.labels(pipeline, outcome).inc(times)


def took(pipeline: str, seconds: float) -> None:
    """Note how long a call took."""
    _seconds.labels(pipeline).observe(seconds)


def dropped(records: int) -> None:
    """Count records that were not written."""
    _dropped.inc(records)


def uncounted() -> None:
    """Count a call that passed uncounted."""
    _uncounted.inc()


def taken_over() -> None:
    """Count a run that was taken over."""
    _taken_over.inc()


def aged(seconds: float) -> None:
    """Note how old the view of access is."""
    _age.set(seconds)


def render() -> bytes:
    """Return the exposition of all processes that share a folder, else of this one."""
    if not os.environ.get(SHARED):
        return generate_latest(_registry)
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # it has no types
    return generate_latest(shared)
