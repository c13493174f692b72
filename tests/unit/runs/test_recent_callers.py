"""What the pages ask, on both databases: who may call, who called, how often, and which policies
there were."""

from __future__ import annotations

import time

from support.place import Place

from penstock.access import consumers, policies
from penstock.access.consumers import Associations
from penstock.db import consumer_counts
from penstock.db.consumer_counts import HOUR, CountKey
from penstock.runs.recent_callers import callers_as_csv, recent_callers


def test_consumers_are_paged_and_counted(place: Place) -> None:
    place.consumer("acme", "orders", "status")
    place.consumer("b_lt")
    place.consumer("boat")
    place.associate("acme", "orders", env="prod")
    place.key("acme")

    first = consumers.page_consumers(place.engine, limit=2)
    second = consumers.page_consumers(place.engine, after="b_lt", limit=2)

    assert [row.name for row in first + second] == ["acme", "b_lt", "boat"]
    assert (first[0].pipelines, first[0].keys) == (
        {"test": 2, "prod": 1},
        {"test": 1, "prod": 0},
    )
    assert [row.name for row in consumers.page_consumers(place.engine, find="B_")] == ["b_lt"]
    assert consumers.page_consumers(place.engine, find="%") == []
    number, some = consumers.consumers_of(place.engine, "test", "v1/orders")
    assert (number, [row.name for row in some]) == (1, ["acme"])


def test_associations_of_several_environments_are_one_change(place: Place) -> None:
    place.consumer("acme", "orders")
    before = place.snapshot().revision
    seen = Associations(frozenset({("test", "v1/orders")}), frozenset())
    associations = Associations(
        frozenset({("prod", "v1/orders"), ("prod", "v1/status")}), frozenset({"prod"})
    )

    assert consumers.save_associations(
        place.engine, "ann", "acme", seen, associations, {"v1/orders": "shop", "v1/status": "shop"}
    ) == (2, 1, 0)
    assert place.snapshot().revision == before + 1
    shown = consumers.show_consumer(place.engine, "acme")
    assert (shown.associations, shown.new_pipelines) == (
        {"prod": ["v1/orders", "v1/status"]},
        ["prod"],
    )


def test_each_version_of_a_policy_says_what_it_replaced(place: Place) -> None:
    place.policy("any")
    policies.set_policy(
        place.engine, "ann", "test", "jwt-api-key", served={}, stopping=(), internal=True
    )
    place.policy("api-key")

    versions = policies.policy_versions(place.engine, "test")
    assert [(row.version, row.replaced, row.policy) for row in versions] == [
        (4, "any", "api-key"), (3, "api-key", "jwt-api-key"), (2, "jwt-api-key", "any"),
        (1, None, "jwt-api-key"),
    ]  # fmt: skip
    assert [
        row.version for row in policies.policy_versions(place.engine, "test", before=3, limit=1)
    ] == [2]


def test_callers_of_seven_days_are_added_up_with_those_of_most_calls_first(place: Place) -> None:
    names = ("acme", "bolt", "core")
    for name in names:
        place.consumer(name)
    now = time.time()

    def called(pipeline: str, consumer: str, calls: int, days_ago: float = 0, env: int = 1) -> None:
        since = int(now - days_ago * 86_400) // HOUR * HOUR
        outcome = "rejected" if consumer == "core" else "succeeded"
        key = CountKey(since, names.index(consumer) + 1, "key", pipeline, outcome)
        consumer_counts.add(place.engine, env, {key: calls})

    called("v1/orders", "acme", 10)
    called("v1/orders", "acme", 20, days_ago=6.5)
    called("v1/orders", "acme", 40, days_ago=8)
    called("v1/orders", "bolt", 70, days_ago=3)
    called("v1/orders", "core", 500)  # rejected
    called("v1/status", "bolt", 1)
    called("v1/orders", "bolt", 9, env=2)
    asked = ["v1/orders", "v1/stock"]

    found = recent_callers(place.engine, 1, asked, now, most=1)
    lines = "".join(callers_as_csv(place.engine, 1, asked, now)).splitlines()

    assert list(found) == ["v1/orders"]
    orders = found["v1/orders"]
    assert [(row.consumer, row.calls) for row in orders.first] == [("bolt", 70)]
    assert (orders.number, orders.calls) == (2, 100)
    assert [line.split(",")[:4] for line in lines] == [
        ["pipeline", "consumer", "calls", "share"],
        ["v1/orders", "bolt", "70", "0.7000"],
        ["v1/orders", "acme", "30", "0.3000"],
    ]
    assert recent_callers(place.engine, 1, [], now, most=1) == {}
