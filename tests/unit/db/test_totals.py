"""Totals of counts: pages read the same numbers with them and without, in fewer rows."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from support.place import Place

from penstock.db import call_counts, call_sums, call_totals, consumer_counts, consumer_totals
from penstock.db.call_counts import HOUR, MINUTE, CallCount
from penstock.db.call_sums import Intervals
from penstock.db.consumer_counts import CountKey, UsageFilter
from penstock.db.engine import reading
from penstock.db.run_tables import CallTotalRow, ConsumerTotalRow

DAY = 86_400
TODAY = int(time.time()) // DAY * DAY
NOW = TODAY + 10 * HOUR
OUTCOMES = ("succeeded", "failed", "rate-limited", "run:succeeded")


def count(since: int, pipeline: str, outcome: str, calls: int = 1, span: int = HOUR) -> CallCount:
    return CallCount(1, span, since, pipeline, outcome, "", calls, calls, [calls, 1, 0])


def fill_calls(place: Place) -> None:
    chance = random.Random(3)
    call_counts.write(
        place.engine,
        [
            count(TODAY - 5 * DAY + hour * HOUR, f"v1/{name}", outcome, chance.randrange(1, 9))
            for hour in range(5 * 24 + 8)
            for name in ("orders", "stock")
            for outcome in OUTCOMES
            if chance.random() < 0.3
        ],
    )
    call_counts.write(
        place.engine,
        [
            count(NOW - ago * MINUTE, pipeline, outcome, chance.randrange(1, 9), MINUTE)
            for ago in range(1, 115)
            for pipeline in ("v1/orders", "v1/stock")
            for outcome in OUTCOMES
            if chance.random() < 0.3
        ],
    )


def calls_of(place: Place, chosen: Intervals) -> dict[str, object]:
    """Return all that pages read of the calls in a time; the order of histograms has no meaning."""
    with reading(place.engine) as connection:
        answers: dict[str, object] = {
            f"{kind} by {by}": sorted(call_sums.sums(connection, chosen, kind, by))
            for kind in ("calls", "runs", "rejections")
            for by in ("outcome", "pipeline")
        }
        answers["totals"] = sorted(call_sums.totals(connection, chosen))
        answers["pipelines"] = sorted(call_sums.by_pipeline(connection, chosen, ["v1/stock"]))
        for name, pipelines in (("all", None), ("stock", ["v1/stock"])):
            answers[f"histogram of {name}"] = sorted(
                (
                    at,
                    pipeline,
                    [sum(column) for column in zip(*json.loads(f"[{text}]"), strict=True)],
                )
                for at, pipeline, text in call_sums.histograms(connection, chosen, pipelines)
            )
    return {
        name: [row for row in rows if row[-1]] if isinstance(rows, list) else rows
        for name, rows in answers.items()
    }


TIMES = {
    "five days by day": Intervals(1, TODAY - 5 * DAY, NOW + 1, DAY),
    "five days in all": Intervals(1, TODAY - 5 * DAY, NOW + 1, NOW + 1),
    "three days by hour": Intervals(1, TODAY - 3 * DAY, NOW + 1, HOUR),
    "from noon to noon by three hours": Intervals(
        1, TODAY - 60 * HOUR, TODAY - 12 * HOUR, 3 * HOUR
    ),
    "from noon to noon in all": Intervals(1, TODAY - 60 * HOUR, TODAY - 12 * HOUR, TODAY),
    "an hour by minute": Intervals(1, NOW - HOUR - 60, NOW + 1, MINUTE),
    "of one pipeline": Intervals(1, TODAY - 4 * DAY, NOW + 1, DAY, "v1/orders"),
}


def test_calls_are_the_same_with_totals_and_without(place: Place) -> None:
    fill_calls(place)
    before = {name: calls_of(place, chosen) for name, chosen in TIMES.items()}

    call_totals.add_up(place.engine, 1, NOW - 2 * HOUR)
    call_totals.add_up_minutes(place.engine, 1, NOW)

    assert {name: calls_of(place, chosen) for name, chosen in TIMES.items()} == before
    with reading(place.engine) as connection:
        assert call_totals.totalled_until(connection, 1, HOUR) == NOW - 2 * HOUR
        assert call_totals.totalled_until(connection, 1, DAY) == TODAY
        assert call_totals.totalled_until(connection, 1, MINUTE) == NOW - 5 * MINUTE


def test_totals_are_read_in_place_of_counts(place: Place) -> None:
    fill_calls(place)
    call_totals.add_up(place.engine, 1, NOW - 2 * HOUR)
    chosen = TIMES["five days by day"]
    before = calls_of(place, chosen)

    call_counts.purge(place.engine, 1, TODAY)  # of whole days only the totals remain

    assert calls_of(place, chosen) == before


def test_totals_of_minutes_are_read_once_those_of_hours_are_near(place: Place) -> None:
    fill_calls(place)
    call_totals.add_up(place.engine, 1, NOW - 2 * HOUR)
    call_totals.add_up_minutes(place.engine, 1, NOW)
    chosen = Intervals(1, NOW - HOUR, NOW - 10 * MINUTE, MINUTE)
    with reading(place.engine) as connection:
        before = sorted(call_sums.sums(connection, chosen, "calls", "outcome"))
    call_counts.purge(place.engine, 1, NOW)

    with reading(place.engine) as connection:
        assert sorted(call_sums.sums(connection, chosen, "calls", "outcome")) == before


def test_minutes_without_totals_of_their_hours_are_read_one_by_one(place: Place) -> None:
    fill_calls(place)
    before = calls_of(place, TIMES["three days by hour"])
    call_totals.add_up(place.engine, 1, NOW - 30 * HOUR)  # the first round finds months

    call_totals.add_up_minutes(place.engine, 1, NOW)

    assert calls_of(place, TIMES["three days by hour"]) == before


def test_counts_that_arrive_late_are_added_to_totals(place: Place) -> None:
    fill_calls(place)
    call_totals.add_up(place.engine, 1, NOW - 2 * HOUR)
    late = count(TODAY - 2 * DAY + 5 * HOUR, "v1/late", "failed", 7, MINUTE)
    call_counts.write(place.engine, [late])

    changed = call_counts.roll_up(place.engine, 1, NOW)
    call_totals.add_up(place.engine, 1, NOW - 2 * HOUR, changed)

    with reading(place.engine) as connection:
        found = call_sums.totals(connection, TIMES["five days in all"])
    assert ("v1/late", "failed", 7) in found


def test_months_of_counts_are_added_up_some_days_at_a_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_calls(place)
    before = calls_of(place, TIMES["five days by day"])
    monkeypatch.setattr(call_totals, "MAX_DAYS", 2)

    for _ in range(3):
        call_totals.add_up(place.engine, 1, NOW - 2 * HOUR)
        assert calls_of(place, TIMES["five days by day"]) == before


def fill_consumers(place: Place) -> None:
    chance = random.Random(5)
    for name in ("acme", "globex"):
        place.consumer(name)
    keys = {number: place.key(name).id for number, name in ((1, "acme"), (2, "globex"))}
    counted = {
        CountKey(
            TODAY - 4 * DAY + hour * HOUR, consumer, keys.get(consumer, ""), pipeline, outcome_class
        ): chance.randrange(1, 9)
        for hour in range(4 * 24 + 9)
        for consumer in (0, 1, 2)
        for pipeline in ("v1/orders", "v1/stock")
        for outcome_class in ("succeeded", "rejected")
        if chance.random() < 0.2
    }
    consumer_counts.add(place.engine, 1, counted)


def usage_of(place: Place) -> list[object]:
    with reading(place.engine) as connection:
        whole = UsageFilter(1, since=TODAY - 4 * DAY, until=NOW)
        noon = UsageFilter(1, since=TODAY - 36 * HOUR, until=TODAY - 2 * HOUR)
        found = UsageFilter(1, since=TODAY - 4 * DAY, search="acm")
        return [
            *(
                consumer_counts.usage(connection, chosen, by, 10)
                for chosen in (whole, noon, found, UsageFilter(), UsageFilter(1, consumer_id=2))
                for by in ("consumer", "key", "pipeline")
            ),
            sorted(_by_day(consumer_counts.by_interval(connection, whole, DAY))),
            sorted(consumer_counts.by_interval(connection, noon, HOUR)),
            sorted(_by_day(consumer_counts.by_consumer(connection, whole, "rejected", 1, DAY))),
        ]


def _by_day(rows: list[tuple[int, str | None, int]]) -> list[tuple[int, str, int]]:
    days: dict[tuple[int, str], int] = {}
    for at, name, calls in rows:
        key = at // DAY * DAY, name or ""
        days[key] = days.get(key, 0) + calls
    return [(*key, calls) for key, calls in days.items() if calls]


def test_usage_is_the_same_with_totals_and_without(place: Place) -> None:
    fill_consumers(place)
    before = usage_of(place)

    consumer_totals.add_up(place.engine, 1, NOW)

    assert usage_of(place) == before
    with reading(place.engine) as connection:
        assert consumer_counts.totalled_until(connection, 1) == TODAY


def test_totals_of_consumers_are_read_in_place_of_counts(place: Place) -> None:
    fill_consumers(place)
    consumer_totals.add_up(place.engine, 1, NOW)
    chosen = UsageFilter(1, since=TODAY - 4 * DAY, until=NOW)
    with reading(place.engine) as connection:
        before = consumer_counts.usage(connection, chosen, "consumer", 10)

    consumer_counts.purge(place.engine, 1, TODAY)

    with reading(place.engine) as connection:
        assert consumer_counts.usage(connection, chosen, "consumer", 10) == before


@pytest.mark.parametrize("module", [call_totals, consumer_totals])
def test_totals_end_with_their_retention(place: Place, module: object) -> None:
    fill: Callable[[Place], None] = fill_calls if module is call_totals else fill_consumers
    table = (CallTotalRow if module is call_totals else ConsumerTotalRow).table
    fill(place)
    module.add_up(place.engine, 1, NOW)  # type: ignore[attr-defined]  # both have it

    module.purge(place.engine, 1, TODAY - 2 * DAY)  # type: ignore[attr-defined]  # the same

    with reading(place.engine) as connection:
        assert connection.scalar(sa.select(sa.func.min(table.c.since))) == TODAY - 2 * DAY
