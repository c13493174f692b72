"""What operators set for a consumer: how often it may call and from where; and the networks of a
trigger."""

from __future__ import annotations

import base64
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.place import ACTOR, Place

from penstock import Call, HttpTrigger, Pipeline, Rate, audit, hookimpl
from penstock.access import limits
from penstock.contracts.networks import Networks
from penstock.errors import UnknownName, UsageError
from penstock.testing import CallerClient, Runtime

Start = Callable[..., Runtime]


def offering(**triggers: dict[str, Any]) -> SimpleNamespace:
    """Make a plugin of pipelines that say hello, by name."""
    pipelines = [
        Pipeline(name, version="1.0.0", trigger=HttpTrigger(**{"api_key": True, **trigger}))
        for name, trigger in triggers.items()
    ]
    for pipeline in pipelines:
        pipeline.get("/")(hello)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return pipelines

    return SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)


def hello(call: Call) -> str:
    return "hello"


def statuses(
    client: CallerClient, times: int = 1, path: str = "/v1/orders/", **environ: str
) -> list[int]:
    return [client.get(path, environ_overrides=environ).status_code for _ in range(times)]


class TestLimits:
    def test_a_limit_at_a_pipeline_stands_in_place_of_its_own(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(
            offering(orders={"rate": Rate("2/minute")}, two={}), policy="api-key"
        )
        acme, other = runtime.client("acme", token=False), runtime.client("other", token=False)

        runtime.operate("limit", "set", "acme", "4/minute", "--pipeline", "orders", "--env", "test")

        assert statuses(acme, 5) == [200] * 4 + [429]
        assert statuses(other, 3) == [200] * 2 + [429]
        assert statuses(acme, 6, "/v1/two/") == [200] * 6

    def test_a_limit_over_all_pipelines_counts_them_together_beside_their_own(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(
            offering(orders={"rate": Rate("2/minute")}, two={}), policy="api-key"
        )
        acme = runtime.client("acme", token=False)

        runtime.operate("limit", "set", "acme", "5/minute", "--env", "test")

        assert statuses(acme, 3) == [200, 200, 429]
        assert statuses(acme, 4, "/v1/two/") == [200, 200, 200, 429]
        answered = acme.get("/v1/orders/")
        assert (
            answered.headers["RateLimit-Policy"]
            == '"2/minute by consumer";q=2;w=60, "5/minute by consumer, all pipelines";q=5;w=60'
        )
        assert answered.status_code == 429
        assert (answered.json or {})["type"] == "rate-limited"

    def test_what_others_are_counted_by_stays(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(
            offering(orders={"rate": [Rate("3/minute", by="pipeline"), Rate("1/minute")]}),
            policy="api-key",
        )
        acme = runtime.client("acme", token=False)

        runtime.operate(
            "limit", "set", "acme", "100/minute", "--pipeline", "orders", "--env", "test"
        )

        assert statuses(acme, 4) == [200] * 3 + [429]

    def test_who_has_no_key_is_counted_as_a_consumer_where_keys_are(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(offering(orders={"api_key": False, "basic": True}), policy="any")
        acme, other = (
            runtime.client("acme", key=False, token=False),
            runtime.client("other", key=False, token=False),
        )
        for client, name in ((acme, "acme"), (other, "other")):
            runtime.operate(
                "credential",
                "add",
                "basic",
                name,
                "--env",
                "test",
                "--name",
                name,
                given="a long password",
            )
            client.headers["Authorization"] = (
                f"Basic {base64.b64encode(f'{name}:a long password'.encode()).decode()}"
            )
        runtime.operate("limit", "set", "acme", "2/minute", "--by", "key", "--env", "test")

        assert [statuses(acme, REMOTE_ADDR=f"2001:db8::{number}")[0] for number in range(1, 4)] == [
            200,
            200,
            429,
        ]
        assert statuses(acme, REMOTE_ADDR="192.0.2.1") == [429]
        assert statuses(other, 3, REMOTE_ADDR="2001:db8::1") == [200] * 3

    @pytest.mark.parametrize("where", [(), ("--pipeline", "orders")])
    def test_consumers_behind_one_address_have_each_its_own_limit_by_address(
        self, penstock_runtime: Start, where: tuple[str, ...]
    ) -> None:
        runtime = penstock_runtime(offering(orders={}), policy="api-key")
        acme, other = runtime.client("acme", token=False), runtime.client("other", token=False)
        for consumer in ("acme", "other"):
            runtime.operate(
                "limit", "set", consumer, "3/minute", "--by", "address", "--env", "test", *where
            )

        assert [statuses(client, 4) for client in (acme, other)] == [[200, 200, 200, 429]] * 2
        assert statuses(acme, REMOTE_ADDR="192.0.2.7") == [200]

    def test_a_limit_by_address_and_the_pipeline_s_own_count_a_call_once_each(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(
            offering(orders={"rate": Rate("3/minute", by="address")}), policy="api-key"
        )
        acme = runtime.client("acme", token=False)
        runtime.operate(
            "limit",
            "set",
            "acme",
            "3/minute",
            "--by",
            "address",
            "--pipeline",
            "orders",
            "--env",
            "test",
        )

        assert statuses(acme, 4) == [200, 200, 200, 429]

    def test_setting_one_at_a_pipeline_says_what_it_stands_in_for(
        self, penstock_runtime: Start
    ) -> None:
        rates = [Rate("2/minute"), Rate("3/hour", by="key"), Rate("9/minute", by="pipeline")]
        runtime = penstock_runtime(
            offering(
                orders={"rate": rates},
                two={"rate": Rate("1/day", by="address")},
                three={"rate": ["odd"]},
            ),
            policy="api-key",
        )
        acme = runtime.client("acme", token=False)

        def limits_at(pipeline: str) -> list[str]:
            return runtime.operate(
                "limit", "set", "acme", "100/minute", "--pipeline", pipeline, "--env", "test"
            ).splitlines()[1:]

        assert limits_at("orders") == [
            "replaces these rates of v1/orders: 2/minute by consumer, 3/hour by key"
        ]
        assert limits_at("two") == ["v1/two has no rates that it replaces"]
        assert limits_at("three") == []
        assert (
            len(runtime.operate("limit", "set", "acme", "500/minute", "--env", "test").splitlines())
            == 1
        )
        policy = acme.get("/v1/orders/").headers["RateLimit-Policy"]
        assert [part.split(";")[0] for part in policy.split(", ") if part.startswith('"')] == [
            '"9/minute by pipeline"',
            '"100/minute by consumer"',
            '"500/minute by consumer',
        ]

    def test_limits_are_listed_replaced_and_removed(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(offering(orders={}), policy="api-key")
        acme = runtime.client("acme", token=False)
        for rate in ("1/minute", "3/60 seconds", "50/hour"):
            runtime.operate("limit", "set", "acme", rate, "--env", "test", "--by", "key")

        assert runtime.operate("limit", "list", "--consumer", "acme").splitlines()[1:] == [
            "test         acme      -         3/60 seconds  key",
            "test         acme      -         50/hour       key",
        ]
        assert statuses(acme, 4) == [200] * 3 + [429]
        runtime.operate("limit", "remove", "acme", "--env", "test")
        assert statuses(acme, 4) == [200] * 4
        assert runtime.operate("limit", "list") == "no limits\n"

    def test_what_makes_no_sense_is_refused_and_changes_nothing(self, place: Place) -> None:
        place.consumer("acme")
        before = place.snapshot().revision

        for consumer, rate, pipeline, limits_at in [
            ("acme", Rate("many"), "", "'many' is no rate; write"),
            ("acme", Rate("0/minute"), "", "'0/minute' is no rate"),
            ("acme", Rate("-5/minute"), "", "'-5/minute' is no rate"),
            ("acme", Rate("5/0 minutes"), "", "'5/0 minutes' is no rate"),
            (
                "acme",
                Rate("99999999/second"),
                "",
                "is out of bounds; give 10,000,000 calls at most",
            ),
            ("acme", Rate("5/9999 days"), "", "is out of bounds"),
            ("acme", Rate("5/minute", by="pipeline"), "", "can't be counted by 'pipeline'"),
            ("acne", Rate("1/minute"), "", "did you mean 'acme'?"),
            ("acme", Rate("1/minute"), "orderz", "did you mean 'orders'?"),
        ]:
            with pytest.raises(UsageError, match=limits_at.replace("?", r"\?")):
                limits.set_limit(
                    place.engine,
                    ACTOR,
                    consumer,
                    "test",
                    rate,
                    pipeline=pipeline,
                    offered={"v1/orders": "shop"},
                )
        with pytest.raises(UsageError, match="acme has no limit over all pipelines in test"):
            limits.remove_limits(place.engine, ACTOR, "acme", "test")
        assert place.snapshot().revision == before

    def test_another_window_is_added_and_the_same_one_replaced(self, place: Place) -> None:
        place.consumer("acme", "orders")

        def put(*rates: str, **more: Any) -> None:
            for rate in rates:
                limits.set_limit(
                    place.engine,
                    ACTOR,
                    "acme",
                    "test",
                    Rate(rate, by=more.get("by", "consumer")),
                    pipeline=more.get("pipeline", ""),
                    offered={"v1/orders": "shop"},
                )

        put("10/minute", "100/hour", "20/60 seconds")
        put("500/60 minutes", by="key")
        put("5/minute", pipeline="orders")

        listed = limits.list_limits(place.engine, environment="test")
        assert sorted((row.pipeline, row.by, row.rate) for row in listed) == [
            ("", "consumer", "100/hour"), ("", "consumer", "20/60 seconds"),
            ("", "key", "500/60 minutes"), ("v1/orders", "consumer", "5/minute"),
        ]  # fmt: skip

    def test_one_that_can_never_be_used_up_beside_another_is_refused(self, place: Place) -> None:
        place.consumer("acme", "orders")

        def put(rate: str, by: str = "consumer") -> None:
            limits.set_limit(place.engine, ACTOR, "acme", "test", Rate(rate, by=by))

        put("20/minute")
        with pytest.raises(
            UsageError,
            match=(
                "the limit 1200/hour by consumer can never be used up beside 20/minute by consumer;"
                " give it fewer calls"
            ),
        ):
            put("1200/hour")
        with pytest.raises(
            UsageError,
            match=(
                "the limit 20/minute by consumer can never be used up beside 10/hour by consumer;"
                " remove the limits that are set"
            ),
        ):
            put("10/hour")
        put("10/hour", "key")
        put("1199/hour")
        put("1000/60 seconds")

        assert [row.rate for row in limits.list_limits(place.engine, environment="test")] == [
            "1000/60 seconds",
            "10/hour",
            "1199/hour",
        ]

    def test_they_are_of_one_environment_live_and_audited(self, place: Place) -> None:
        place.consumer("acme", "orders")
        follower = place.snapshot()
        limits.set_limit(
            place.engine,
            ACTOR,
            "acme",
            "test",
            Rate("5/minute"),
            pipeline="orders",
            offered={"v1/orders": "shop"},
        )
        limits.set_limit(place.engine, ACTOR, "acme", "test", Rate("9/hour", by="key"))

        assert follower.refresh(place.engine)
        (consumer,) = {consumer for consumer, _ in follower.limits}
        assert follower.limits == {
            (consumer, "v1/orders"): (Rate("5/minute"),),
            (consumer, ""): (Rate("9/hour", by="key"),),
        }
        assert place.snapshot().limits == follower.limits
        assert place.snapshot("prod").limits == {}
        event = audit.events(place.engine, limit=1)[0]
        assert (event.action, event.subject, event.detail) == (
            "limit:set",
            "acme",
            {"rate": "9/hour", "by": "key", "pipelines": None},
        )
        limits.remove_limits(place.engine, ACTOR, "acme", "test", pipeline="orders")
        follower.refresh(place.engine)
        assert (
            follower.limits
            == place.snapshot().limits
            == {(consumer, ""): (Rate("9/hour", by="key"),)}
        )


@pytest.mark.parametrize(
    ("allow", "deny", "admitted", "refused"),
    [
        ((), (), ["192.0.2.1", "2001:db8::1", ""], []),
        (
            ("192.0.2.0/24",),
            (),
            ["192.0.2.1", "::ffff:192.0.2.1"],
            ["192.0.3.1", "2001:db8::1", "", "unknown"],
        ),
        (
            ("2001:db8::/32", "10.0.0.1"),
            (),
            ["2001:db8::1", "10.0.0.1"],
            ["10.0.0.2", "2001:db9::1"],
        ),
        (
            (),
            ("192.0.2.0/24", "fd00::/8"),
            ["192.0.3.1", ""],
            ["192.0.2.7", "::ffff:192.0.2.7", "fd12::1"],
        ),
        (
            (),
            ("::ffff:192.0.2.0/120",),
            ["192.0.3.1", "2001:db8::1"],
            ["192.0.2.5", "::ffff:192.0.2.5"],
        ),
        (
            ("::ffff:192.0.2.5",),
            (),
            ["192.0.2.5", "::ffff:192.0.2.5"],
            ["192.0.2.6", "::192.0.2.5"],
        ),
        (("192.0.2.0/24",), ("192.0.2.128/25",), ["192.0.2.1"], ["192.0.2.129", "198.51.100.1"]),
    ],
)
def test_a_denied_network_is_refused_and_where_any_is_allowed_all_others(
    allow: tuple[str, ...], deny: tuple[str, ...], admitted: list[str], refused: list[str]
) -> None:
    networks = Networks.of(allow, deny)

    assert [address for address in admitted + refused if networks.admit(address)] == admitted


class TestAddresses:
    def test_a_trigger_takes_calls_from_its_networks_before_it_looks_at_credentials(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(
            offering(orders={"allow": ["192.0.2.0/24", "2001:db8::/32"], "deny": "192.0.2.9"}),
            policy="api-key",
        )
        acme = runtime.client("acme", token=False)

        assert (
            statuses(acme, REMOTE_ADDR="192.0.2.1")
            == statuses(acme, REMOTE_ADDR="2001:db8::7")
            == [200]
        )
        for address in ("192.0.2.9", "198.51.100.1", "2001:db9::1", ""):
            answered = runtime.anonymous().get(
                "/v1/orders/", environ_overrides={"REMOTE_ADDR": address}
            )
            assert (answered.status_code, (answered.json or {})["type"]) == (
                403,
                "address-not-allowed",
            )
        assert statuses(acme, REMOTE_ADDR="192.0.2.9") == [403]

    def test_the_forwarding_header_of_an_untrusted_peer_is_ignored(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(offering(orders={"allow": "192.0.2.1"}), policy="api-key")
        acme = runtime.client("acme", token=False)

        answered = acme.get(
            "/v1/orders/",
            headers={"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"},
            environ_overrides={"REMOTE_ADDR": "198.51.100.1"},
        )

        assert answered.status_code == 403

    def test_a_trusted_proxy_is(self, penstock_runtime: Start) -> None:
        from ipaddress import ip_network

        runtime = penstock_runtime(
            offering(orders={"allow": "192.0.2.1"}),
            policy="api-key",
            trusted_proxies=(ip_network("10.0.0.0/8"),),
        )
        acme = runtime.client("acme", token=False)

        def status(limits_at: str) -> int:
            return acme.get(
                "/v1/orders/",
                headers={"X-Forwarded-For": limits_at},
                environ_overrides={"REMOTE_ADDR": "10.0.0.1"},
            ).status_code

        assert (status("192.0.2.1"), status("192.0.2.1, 198.51.100.1")) == (200, 403)

    @pytest.mark.parametrize("text", ["192.0.2.1/24", "everywhere", "300.1.1.1", "", "::/129"])
    def test_a_network_that_makes_no_sense_refuses_the_pipeline(
        self, penstock_runtime: Start, text: str
    ) -> None:
        runtime = penstock_runtime(offering(orders={"allow": [text]}), policy="api-key")

        assert 'write networks such as "192.0.2.0/24"' in runtime.blocked()["v1/orders"][0]

    def test_a_consumer_may_call_from_its_networks_alone(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(offering(orders={}), policy="api-key")
        acme, other = runtime.client("acme", token=False), runtime.client("other", token=False)
        runtime.operate(
            "address", "allow", "acme", "192.0.2.0/24", "2001:db8::/32", "--env", "test"
        )
        runtime.operate("address", "deny", "acme", "192.0.2.9", "--env", "test")

        assert (
            statuses(acme, REMOTE_ADDR="192.0.2.1")
            == statuses(acme, REMOTE_ADDR="2001:db8::1")
            == [200]
        )
        assert (
            statuses(acme, REMOTE_ADDR="192.0.2.9")
            == statuses(acme, REMOTE_ADDR="198.51.100.1")
            == [403]
        )
        assert statuses(other, REMOTE_ADDR="198.51.100.1") == [200]
        runtime.operate(
            "address", "remove", "acme", "192.0.2.0/24", "2001:db8::/32", "--env", "test"
        )
        assert statuses(acme, REMOTE_ADDR="198.51.100.1") == [200]
        assert statuses(acme, REMOTE_ADDR="192.0.2.9") == [403]
        assert runtime.operate("address", "list").splitlines()[1:] == [
            "test         acme      192.0.2.9/32  no"
        ]

    def test_a_call_from_a_denied_network_does_not_reveal_whether_its_key_is_valid(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(offering(orders={}), policy="api-key")
        acme = runtime.client("acme", token=False)
        runtime.operate("address", "allow", "acme", "192.0.2.1", "--env", "test")

        answered = acme.get("/v1/orders/", environ_overrides={"REMOTE_ADDR": "198.51.100.1"})

        assert (answered.json or {})["detail"] == "Calls from this address are not taken here."

    def test_mistakes_change_nothing(self, place: Place) -> None:
        place.consumer("acme")
        before = place.snapshot().revision

        with pytest.raises(
            UsageError, match=r"192\.0\.2\.1/24 has host bits set; write networks such as"
        ):
            limits.set_networks(
                place.engine, ACTOR, "acme", "test", ["10.0.0.0/8", "192.0.2.1/24"], allowed=True
            )
        with pytest.raises(UnknownName, match="no network on the lists of 'acme' in 'test'"):
            limits.remove_networks(place.engine, ACTOR, "acme", "test", ["10.0.0.0/8"])
        assert (place.snapshot().revision, place.snapshot().networks) == (before, {})

    def test_a_pipeline_that_is_not_served_says_so_to_every_address(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(offering(orders={"allow": "192.0.2.1"}), policy="jwt-api-key")

        assert statuses(runtime.anonymous(), REMOTE_ADDR="198.51.100.1") == [503]
