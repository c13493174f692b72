"""What the pages ask, on both databases: who may call, who called, how often, and which policies
there were."""

from __future__ import annotations

import time

from support.place import Place

from penstock.access import consumers, policies
from penstock.access.consumers import Associations
from penstock.db import runs
from penstock.runs.ids import first_id
from penstock.runs.recent_callers import Callers


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


def test_who_called_is_remembered_for_seven_days(place: Place) -> None:
    for name in ("acme", "bolt", "core"):
        place.consumer(name)
    now = time.time()

    def called(pipeline: str, consumer: int, hours_ago: float, number: int) -> None:
        run = f"{first_id(now - hours_ago * 3600)[:18]}-8000-{number:012x}"
        runs.record(
            place.engine,
            [
                (
                    run,
                    1,
                    pipeline,
                    "1.0.0",
                    "GET /",
                    False,
                    consumer,
                    None,
                    "succeeded",
                    200,
                    9,
                    *[None] * 8,
                )
            ],
            [],
        )

    called("v1/orders", 1, 0, 1)
    called("v1/orders", 2, 5 * 24, 2)
    called("v1/orders", 3, 170, 3)
    called("v1/status", 2, 2, 4)
    callers = Callers()
    asked = ["v1/orders", "v1/status", "v1/stock"]

    assert callers.of(place.engine, 1, asked, now) == {
        "v1/orders": ["acme", "bolt"],
        "v1/status": ["bolt"],
        "v1/stock": [],
    }
    called("v1/stock", 3, 0, 5)  # what is not over is read again
    assert callers.of(place.engine, 1, asked, now)["v1/stock"] == ["core"]
    assert callers.of(place.engine, 1, asked, now + 3 * 86_400)["v1/orders"] == ["acme"]
    assert callers.of(place.engine, 2, asked, now)["v1/orders"] == []
