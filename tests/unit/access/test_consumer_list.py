"""The list of consumers with their calls, on both databases."""

from __future__ import annotations

import time

import pytest
from support.place import Place

from penstock.access.consumers import set_consumer_enabled
from penstock.access.lookup import consumer_row
from penstock.db import consumer_counts, consumer_totals
from penstock.db.consumer_counts import CountKey
from penstock.db.engine import reading
from penstock.db.unit_of_work import RowReader
from penstock.execution.consumer_list import ConsumerQuery, count_consumers, list_active, place_of

HOUR = 3600


@pytest.fixture
def busy(place: Place) -> Place:
    """Three consumers: one without calls, one whose calls are rejected, and one with many."""
    for name in ("idle", "late", "many"):
        place.consumer(name)
    with reading(place.engine) as connection:
        ids = {name: consumer_row(RowReader(connection), name).id for name in ("late", "many")}
    since = int(time.time()) // HOUR * HOUR
    consumer_counts.add(
        place.engine,
        1,
        {
            CountKey(since - HOUR, ids["late"], "", "v1/orders", "rejected"): 3,
            CountKey(since - 50 * HOUR, ids["many"], "", "v1/orders", "succeeded"): 8,
            CountKey(since - 30 * HOUR, ids["many"], "", "v1/orders", "rejected"): 2,
            CountKey(since - 400 * HOUR, ids["many"], "", "v1/orders", "succeeded"): 90,
        },
    )
    return place


@pytest.mark.parametrize("totals", [False, True])
@pytest.mark.parametrize(
    ("by", "descending", "names"),
    [
        ("name", True, ["many", "late", "idle"]),
        ("calls", True, ["many", "late", "idle"]),
        ("calls", False, ["idle", "late", "many"]),
        ("rejected", True, ["late", "many", "idle"]),
        ("last", True, ["late", "many", "idle"]),
    ],
)
def test_each_order_has_pages_of_one_row(
    busy: Place, by: str, descending: bool, names: list[str], totals: bool
) -> None:
    if totals:
        consumer_totals.add_up(busy.engine, 1, time.time())
    asked = ConsumerQuery(["test"], by=by, descending=descending)
    found, after = list[str](), None
    while rows := list_active(busy.engine, asked, after=after, limit=1):
        found.append(rows[0].name)
        after = place_of(rows[0].cursor)

    assert found == names


def test_a_row_has_the_calls_of_seven_days(busy: Place) -> None:
    rows = {row.name: row for row in list_active(busy.engine, ConsumerQuery(["test"]), limit=9)}
    elsewhere = list_active(busy.engine, ConsumerQuery(["prod"], find="MAN"), limit=9)

    assert (rows["many"].sum, rows["many"].rejected, len(rows["many"].calls)) == (10, 2, 14)
    assert (rows["idle"].sum, rows["idle"].last_call) == (0, None)
    assert [(row.name, row.sum) for row in elsewhere] == [("many", 0)]


def test_consumers_are_counted_by_their_state(busy: Place) -> None:
    set_consumer_enabled(busy.engine, "ann", "late", enabled=False)

    assert count_consumers(busy.engine) == (2, 1)
    assert count_consumers(busy.engine, "many") == (1, 0)
    disabled = ConsumerQuery(["test"], enabled=False)
    assert [row.name for row in list_active(busy.engine, disabled, limit=9)] == ["late"]


@pytest.mark.parametrize("cursor", ["", "many", "x:many", "5:", None, f"{10**19}:many"])
def test_a_cursor_that_no_page_has_begins_at_the_start(cursor: str | None) -> None:
    assert place_of(cursor) is None
