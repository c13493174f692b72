"""Statistics of calls add up, from minutes or hours, with or without a cache."""

from __future__ import annotations

import time

from support.place import Place

from penstock.db import call_counts
from penstock.runs.statistics import Sum, Traffic

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
    traffic = Traffic()

    def looked(traffic: Traffic) -> dict[str, int]:
        return {
            span: traffic.seen(place.engine, 1, span, NOW).total.calls
            for span in ("hour", "day", "week")
        }

    before = looked(traffic)
    call_counts.roll_up(place.engine, 1, NOW)
    count(place, NOW, "failed", 3)

    assert before == {"hour": 30, "day": 60, "week": 70}
    assert looked(traffic) == looked(Traffic()) == {"hour": 33, "day": 63, "week": 73}


def test_points_outcomes_and_pipelines_are_separated(sqlite_place: Place) -> None:
    count(sqlite_place, NOW - 120, calls=95)
    count(sqlite_place, NOW - 120, "failed", 4)
    count(sqlite_place, NOW - 60, "invalid-api-key", 1, pipeline="v1/status")
    seen = Traffic().seen(sqlite_place.engine, 1, "hour", NOW)
    single = Traffic().seen(
        sqlite_place.engine, 1, "hour", NOW, pipelines=frozenset({"v1/status"}), apart=True
    )

    assert len(seen.points) == 60
    assert [item.calls for _, item in seen.points[-3:]] == [99, 1, 0]
    assert (seen.total.succeeded, seen.total.faults, seen.total.turned_away) == (95, 4, 1)
    assert seen.total.errors() == [("failed", 4, True), ("invalid-api-key", 1, False)]
    assert (single.total.calls, {name: item.calls for name, item in single.pipelines.items()}) == (
        1,
        {"v1/orders": 99, "v1/status": 1},
    )


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
