"""Statistics of calls add up, from minutes or hours, by pipeline."""

from __future__ import annotations

import time

from support.place import Place

from penstock.db import call_counts
from penstock.runs.pipeline_calls import calls_by_pipeline, last_day, total_calls
from penstock.runs.series import environment_activity, intervals
from penstock.runs.statistics import Sum

NOW = int(time.time()) // 3600 * 3600 + 1800


def count(
    place: Place,
    since: int,
    outcome: str = "succeeded",
    calls: int = 10,
    pipeline: str = "v1/orders",
) -> None:
    key = {
        "environment_id": 1,
        "span": 60,
        "since": since // 60 * 60,
        "pipeline": pipeline,
        "outcome": outcome,
        "process": "p",
    }
    call_counts.write(
        place.engine,
        [call_counts.CallCount(**key, calls=calls, micros=0, buckets=[0, 0, 0, calls])],
    )


def test_hours_replace_minutes_and_nothing_is_counted_twice(place: Place) -> None:
    for ago in (60, 900, 3000, 5400, 3 * 3600, 3 * 3600 + 60, 30 * 3600):
        count(place, NOW - ago)

    def looked() -> list[int]:
        lengths = (3600, 86_400, 7 * 86_400)
        chosen = (intervals(1, NOW - length, NOW, 60) for length in lengths)
        return [environment_activity(place.engine, "test", each).calls for each in chosen]

    before = looked()
    call_counts.roll_up(place.engine, 1, NOW)
    count(place, NOW, "failed", 3)

    assert before == [30, 60, 70]
    assert looked() == [33, 63, 73]


def test_calls_of_pipelines_are_separated_and_so_are_environments(place: Place) -> None:
    for ago, calls in ((120, 95), (30 * 3600, 500)):
        count(place, NOW - ago, calls=calls)
    count(place, NOW - 120, "failed", 4)
    count(place, NOW - 60, "invalid-api-key", 1, pipeline="v1/status")
    day = last_day(1, NOW)

    found = calls_by_pipeline(place.engine, day)

    assert {name: (each.calls, each.failed, each.rejected) for name, each in found.items()} == {
        "v1/orders": (99, 4, 0),
        "v1/status": (1, 0, 1),
    }
    assert sum(found["v1/orders"].points) == 99
    assert len(found["v1/orders"].points) == len(day.times)
    assert calls_by_pipeline(place.engine, day, ["v1/status"]).keys() == {"v1/status"}
    assert calls_by_pipeline(place.engine, day, []) == {}
    assert total_calls(place.engine, day)["v1/orders"].calls == 99
    assert calls_by_pipeline(place.engine, last_day(2, NOW)) == {}


def test_quantiles_come_from_the_histogram() -> None:
    total = Sum()
    assert total.quantile(0.5) is None
    total.add("succeeded", 100, [0, 0, 0, 90, 0, 10])
    assert total.quantile(0.5) == 0.005 + 0.005 * 50 / 90
    assert total.quantile(0.95) == 0.025 + 0.025 * 0.5


def test_calls_accepted_with_202_are_successes() -> None:
    total = Sum()
    total.add("succeeded", 80, [])
    total.add("invalid-api-key", 5, [])
    for outcome in ("accepted", "replayed", "looked-up"):
        total.add(outcome, 20, [])
    assert (total.succeeded, total.turned_away, total.faults) == (140, 5, 0)
    assert total.errors() == [("invalid-api-key", 5, False)]
