"""Rate limits and network rules in the console."""

from __future__ import annotations

import re
import time

import pytest
from support.access_pages import engine, last, oli, runtime
from support.console import ConsoleClient, words_of

from penstock import Rate
from penstock.access import (
    consumers,
    environments,
    limits,
)
from penstock.contracts.call import Caller
from penstock.db.engine import Engine, writing
from penstock.db.run_tables import CallCountRow
from penstock.execution.rate_limits import limit_used
from penstock.gate.rates import Limiter

__all__ = ["engine", "oli", "runtime"]


class TestLimits:
    def test_a_limit_is_set_shown_and_removed(self, oli: ConsoleClient, engine: Engine) -> None:
        page = oli.follow(
            oli.post(
                "/e/prod/limits/new",
                consumer="acme",
                rate="5/minute",
                by="key",
                pipeline="orders",
            )
        )
        event = last(engine)
        oli.follow(
            oli.post(
                "/e/prod/limits/new", consumer="acme", rate="9/hour", by="consumer", pipeline=""
            )
        )
        removed = oli.follow(oli.post("/e/prod/limits/remove", consumer="acme", pipeline="orders"))
        again = oli.post("/e/prod/limits/remove", consumer="acme", pipeline="orders")
        unused = oli.post(
            "/e/prod/limits/new", consumer="acme", rate="9/minute", by="consumer", pipeline=""
        )

        assert (unused.status_code, re.findall(r'id="e-(\w+)"', unused.text)) == (422, ["rate"])
        assert "The limit replaces the pipeline's own rates: 2/minute by consumer." in page
        assert "acme v1/orders 5/minute key" in page
        assert event == ("oli", "limit:set", "prod", "acme")
        assert "1 limit of acme removed in prod." in removed
        assert [
            (row.environment, row.pipeline, row.rate) for row in limits.list_limits(engine)
        ] == [("prod", "", "9/hour")]
        assert (again.status_code, "has no limit at orders" in words_of(again.text)) == (422, True)

    def test_faults_of_a_limit_are_beside_their_field(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        good = {"consumer": "acme", "rate": "5/minute", "by": "consumer", "pipeline": ""}
        for field, value in (("consumer", "acmee"), ("rate", "often"), ("pipeline", "ordres")):
            response = oli.post("/e/test/limits/new", **{**good, field: value})

            assert (response.status_code, re.findall(r'id="e-(\w+)"', response.text)) == (
                422,
                [field],
            )
        assert oli.post("/e/test/limits/new", **{**good, "by": "pipeline"}).status_code == 422
        assert limits.list_limits(engine) == []

    def test_networks_are_allowed_denied_and_removed(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        page = oli.follow(
            oli.post(
                "/e/test/limits/networks/new",
                consumer="acme",
                networks="192.0.2.0/24\r\n2001:db8::/32",
                allowed="yes",
            )
        )
        oli.follow(
            oli.post(
                "/e/test/limits/networks/new",
                consumer="globex",
                networks="198.51.100.7",
                allowed="no",
            )
        )
        event = last(engine)
        oli.follow(
            oli.post("/e/test/limits/networks/remove", consumer="acme", network="192.0.2.0/24")
        )
        rows = [(row.consumer, row.network, row.allowed) for row in limits.list_networks(engine)]
        bad = [
            oli.post(
                "/e/test/limits/networks/new", consumer="acme", networks="nowhere", allowed="yes"
            ),
            oli.post("/e/test/limits/networks/new", consumer="acme", networks=" ", allowed="yes"),
            oli.post(
                "/e/test/limits/networks/new",
                consumer="acmee",
                networks="192.0.2.1",
                allowed="yes",
            ),
            oli.post(
                "/e/test/limits/networks/new",
                consumer="acme",
                networks="192.0.2.1",
                allowed="odd",
            ),
        ]

        assert "Calls of acme from 192.0.2.0/24, 2001:db8::/32 are allowed in test." in page
        assert event == ("oli", "address:denied", "test", "globex")
        assert rows == [("acme", "2001:db8::/32", True), ("globex", "198.51.100.7/32", False)]
        assert [re.findall(r'id="e-(\w+)"', response.text) for response in bad] == [
            ["networks"],
            ["networks"],
            ["consumer"],
            ["allowed"],
        ]

    def test_lists_are_paged_by_key_and_filtered_by_consumer(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        for index in range(12):
            consumers.create_consumer(engine, "tester", f"c{index:02}")
            for rate in ("1/second", "2/minute", "3/hour", "5/day", "4/12 hours"):
                limits.set_limit(engine, "tester", f"c{index:02}", "test", Rate(rate))
        names, path = list[str](), "/e/test/limits"
        while path:
            page = oli.get(path).text
            names += re.findall(r'<th scope="row"><a[^>]*>(c\d\d)</a></th>', page)
            match = re.search(r'href="/-/console([^"]+)" rel="next"', page)
            path = match[1].replace("&amp;", "&") if match else ""

        assert names == sorted(f"c{index:02}" for index in range(12) for _ in range(5))
        assert set(
            re.findall(
                r'<th scope="row"><a[^>]*>(c\d\d)</a></th>',
                oli.get("/e/test/limits", consumer="c07").text,
            )
        ) == {"c07"}
        wrong = oli.get("/e/test/limits", consumer="c77")
        assert (wrong.status_code, 'id="e-consumer"' in wrong.text) == (422, True)


def test_rates_of_pipelines_are_listed_with_rejected_calls(
    oli: ConsoleClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = next(row for row in environments.list_environments(engine) if row.name == "test")
    count = CallCountRow.table.insert().values(
        environment_id=test.id,
        span=60,
        since=int(time.time()) // 60 * 60,
        pipeline="v1/orders",
        outcome="rate-limited",
        process="p",
        calls=7,
        micros=7,
        buckets=[],
    )
    with writing(engine) as connection:
        connection.execute(count)
    limits.set_limit(engine, "ann", "acme", "test", Rate("50/hour"))
    limits.set_limit(engine, "ann", "globex", "test", Rate("60/hour", by="key"))
    monkeypatch.setattr(Limiter, "shared", True)
    page = oli.text("/e/test/limits")
    words = words_of(page)

    assert re.search(r"v1/orders 2/minute consumer \W 7", words)
    assert "v1/orders 900/hour pipeline 0 7" in words
    assert "acme all pipelines 50/hour consumer 0" in words
    assert re.search(r"globex all pipelines 60/hour key \W", words)
    assert page.count('aria-label="Edit limit 50/hour by consumer of acme') == 1


def test_calls_counted_now_are_those_of_the_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, rate = Limiter("memory://"), Rate("5/hour")
    caller = Caller(consumer="acme", consumer_id=1)
    limiter.count([("test of acme/*", rate)], caller, "192.0.2.1")
    limits.set_limit(engine, "ann", "acme", "test", rate)
    (row,) = limits.list_limits(engine)
    apart = limit_used(limiter, row)
    monkeypatch.setattr(Limiter, "shared", True)

    assert (apart, limit_used(limiter, row)) == (None, 1)
