"""All metrics: name, kind, help text and labels.

The reference page lists the same rows. `mode` is prometheus_client's name for how the values of
several processes become one.
"""

from __future__ import annotations

from typing import NamedTuple

# Upper bounds of the histogram of latencies, in seconds.
LATENCY_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


# The same of durable runs: up to a day.
RUN_BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)


class Metric(NamedTuple):
    """One metric, as Prometheus shows it."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    mode: str = "livemostrecent"


METRICS = (
    Metric(
        "penstock_calls_total",
        "counter",
        "Calls that were answered, by outcome.",
        ("pipeline", "outcome"),
    ),
    Metric(
        "penstock_call_seconds",
        "histogram",
        "Duration of calls.",
        ("pipeline",),
    ),
    Metric(
        "penstock_runs_total",
        "counter",
        "Durable runs, and runs within other runs, that ended.",
        ("pipeline", "status"),
    ),
    Metric(
        "penstock_run_seconds",
        "histogram",
        "Duration of these runs, from their start.",
        ("pipeline",),
    ),
    Metric(
        "penstock_records_dropped_total",
        "counter",
        "Records of runs that were dropped because the queue was full.",
    ),
    Metric(
        "penstock_calls_counted_alone_total",
        "counter",
        "Calls whose rate limits one process counted in memory, because Redis was away.",
    ),
    Metric(
        "penstock_runs_taken_over_total",
        "counter",
        "Durable runs that were recovered from a worker that ended.",
    ),
    Metric(
        "penstock_runs_waiting",
        "gauge",
        "Accepted durable runs that have not started.",
        ("pipeline",),
    ),
    Metric(
        "penstock_runs_waiting_age_seconds",
        "gauge",
        "Age of the oldest run that has not started.",
    ),
    Metric(
        "penstock_runs_unattended",
        "gauge",
        "Runs that have not started and whose pipeline no living worker serves.",
        ("pipeline",),
    ),
    Metric(
        "penstock_runs_unattended_age_seconds",
        "gauge",
        "Age of the oldest run whose pipeline no living worker serves.",
    ),
    Metric("penstock_workers", "gauge", "Living processes for durable runs, on all hosts."),
    Metric(
        "penstock_processes_waiting",
        "gauge",
        "Processes of this server that wait for the database to start.",
        (),
        "livesum",
    ),
    Metric(
        "penstock_pipelines",
        "gauge",
        "Pipelines by listener and state: served, non-conformant, blocked or disabled.",
        ("listener", "state"),
    ),
    Metric(
        "penstock_reloads_rejected_total",
        "counter",
        "Rejected reloads since this server started.",
    ),
    Metric(
        "penstock_snapshot_age_seconds",
        "gauge",
        "Age of the oldest view of access of any process.",
        (),
        "livemin",
    ),
    Metric(
        "penstock_database_up",
        "gauge",
        "1 while the database answers all processes, else 0.",
        (),
        "livemin",
    ),
    Metric(
        "penstock_database_answered_age_seconds",
        "gauge",
        "Time since the last answer of the database, for the process that has waited longest.",
        (),
        "livemin",
    ),
    Metric(
        "penstock_database_read_only",
        "gauge",
        "1 while the database answers and accepts no changes.",
        (),
        "livemax",
    ),
    Metric(
        "penstock_clock_difference_seconds",
        "gauge",
        "Seconds that the database's clock is ahead of this host's clock.",
        (),
        "livemostrecent",
    ),
    Metric(
        "penstock_database_disk_full",
        "gauge",
        "1 while the database's disk is full, or was full a minute ago.",
        (),
        "livemax",
    ),
    Metric(
        "penstock_redis_up",
        "gauge",
        "1 while Redis answers, else 0; absent if rate limits do not use Redis.",
        (),
        "livemin",
    ),
    Metric(
        "penstock_threads_stuck",
        "gauge",
        "Background threads without a heartbeat within their limits.",
        (),
        "livesum",
    ),
    Metric(
        "penstock_start_time_seconds",
        "gauge",
        "Start time of the oldest process of this server, in seconds since the epoch.",
        (),
        "livemin",
    ),
    Metric(
        "penstock_build_info",
        "gauge",
        "1, with the versions of Penstock and Python as labels.",
        ("version", "python"),
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
