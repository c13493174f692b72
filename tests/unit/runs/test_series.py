"""Series for charts: bounded, of calls alone, on both databases."""

from __future__ import annotations

import time

import pytest
from support.place import Place

from penstock.contracts.call import Caller
from penstock.db import call_counts
from penstock.db.call_counts import CallCount
from penstock.metrics import LATENCY_BUCKETS_S, RUN_BUCKETS_S
from penstock.runs.call_counter import CallCounter
from penstock.runs.series import (
    BY,
    Series,
    environment_activity,
    intervals,
    pipeline_activity,
    series_of,
)

FAST = [0, 0, 10] + [0] * (len(LATENCY_BUCKETS_S) - 2)
LONG = [0] * len(RUN_BUCKETS_S) + [5]


def count(place: Place, pipeline: str, outcome: str, calls: int, buckets: list[int]) -> None:
    """Count calls of an hour that ended, three hours ago."""
    since = int(time.time()) // 3600 * 3600 - 3 * 3600
    row = CallCount(1, 3600, since, pipeline, outcome, "p", calls, 9000, buckets)
    call_counts.write(place.engine, [row])


@pytest.fixture
def counted(place: Place) -> Place:
    for number in range(9):
        count(place, f"v1/p{number}", "succeeded", 10 + number, FAST)
    count(place, "v1/p0", "invalid-api-key", 4, [])
    count(place, "v1/p0", "run:failed", 50, LONG)
    count(place, "v1/p0", "failed", 3, FAST)
    return place


def lines(place: Place, metric: str, by: str) -> dict[str, Series]:
    now = time.time()
    chosen = intervals(1, now - 86_400, now, 900)
    found = series_of(place.engine, metric, by, chosen)
    assert all(len(item.values) == len(chosen.times) <= 25 for item in found)
    return {item.name: item for item in found}


def total(series: Series) -> float:
    return sum(value or 0 for value in series.values)


def test_calls_are_by_class_and_durable_runs_are_no_calls(counted: Place) -> None:
    by_class = lines(counted, "calls", "class")
    assert [(name, total(item)) for name, item in by_class.items()] == [
        ("succeeded", 126),
        ("client_error", 0),
        ("rejected", 4),
        ("failed", 3),
    ]
    assert {name: total(item) for name, item in lines(counted, "runs", "class").items()} == {
        "failed": 50
    }
    assert {n: total(item) for n, item in lines(counted, "rejections", "reason").items()} == {
        "invalid-api-key": 4
    }


def test_six_series_are_shown_and_the_others_are_one(counted: Place) -> None:
    by_pipeline = lines(counted, "calls", "pipeline")

    assert len(by_pipeline) == 7
    assert next(iter(by_pipeline)) == "v1/p8"
    assert total(by_pipeline["other"]) == 133 - sum(
        total(item) for name, item in by_pipeline.items() if name != "other"
    )


def test_latency_is_of_calls_alone(counted: Place) -> None:
    quantiles = lines(counted, "latency", "quantile")
    (p95,) = [value for value in quantiles["p95"].values if value is not None]

    assert list(quantiles) == ["p50", "p95", "p99"]
    assert p95 <= LATENCY_BUCKETS_S[2]
    assert len(lines(counted, "latency", "pipeline")) == 6


def test_activity_ranks_pipelines(counted: Place) -> None:
    now = time.time()
    chosen = intervals(1, now - 86_400, now, 900)

    whole = environment_activity(counted.engine, "test", chosen)
    (busiest,) = pipeline_activity(counted.engine, chosen, "calls", 1)
    (failing,) = pipeline_activity(counted.engine, chosen, "failed", 1)

    assert (whole.calls, whole.succeeded, whole.rejected, whole.failed) == (133, 126, 4, 3)
    assert (busiest.name, busiest.calls, failing.name, failing.failed) == (
        "v1/p8",
        18,
        "v1/p0",
        3,
    )
    assert len(pipeline_activity(counted.engine, chosen, "p95", 5)) == 5


def test_consumers_beyond_six_are_one_series(place: Place) -> None:
    counter = CallCounter(place.engine, 1)
    for number in range(9):
        name = f"c{number}"
        place.consumer(name)
        for _ in range(number + 1):
            counter.queue("v1/shop", "invalid-api-key", Caller(name, number + 1, "key"))
    counter.queue("v1/shop", "credentials-missing")
    counter.write(last=True)

    for metric in ("calls", "rejections"):
        by_consumer = lines(place, metric, "consumer")
        assert list(by_consumer) == ["c8", "c7", "c6", "c5", "c4", "c3", "other"]
        assert total(by_consumer["other"]) == 7


def test_minutes_are_shown_only_where_they_are_stored() -> None:
    now = time.time()

    assert intervals(1, now - 3600, now, 60).step == 60
    assert intervals(1, now - 6 * 3600, now, 300).step == 3600
    assert intervals(1, now - 30 * 86_400, now, 6 * 3600).step == 6 * 3600


def test_each_metric_has_a_usual_grouping(place: Place) -> None:
    for metric, groupings in BY.items():
        assert lines(place, metric, groupings[0]) is not None
