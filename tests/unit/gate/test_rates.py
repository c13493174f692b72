"""Rates: what may be written, and whose calls are counted together."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from support.services import free_port
from werkzeug.test import TestResponse

from penstock import Call, HttpTrigger, Pipeline, Rate, hookimpl
from penstock.errors import CannotStart
from penstock.http.addresses import client_address
from penstock.settings import Settings
from penstock.testing import Runtime

Start = Callable[..., Runtime]


def offering(**trigger: Any) -> SimpleNamespace:
    pipeline = Pipeline("rated", version="1.0.0", trigger=HttpTrigger(**trigger))

    @pipeline.post("/")
    def take(call: Call, body: dict[str, int]) -> dict[str, int]:
        return body

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="rated", penstock_pipelines=penstock_pipelines)


def statuses(client: Any, times: int, **more: Any) -> list[int]:
    return [client.post("/v1/rated/", json={"a": 1}, **more).status_code for _ in range(times)]


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [
        ("1/second", 1, 1),
        ("100/minute", 100, 60),
        ("5000/12 hours", 5000, 43_200),
        ("3/2 days", 3, 172_800),
    ],
)
def test_rates_are_written_as_calls_and_window(text: str, count: int, seconds: int) -> None:
    assert (Rate(text).count, Rate(text).seconds, list(Rate(text).problems())) == (
        count,
        seconds,
        [],
    )


@pytest.mark.parametrize(
    ("rate", "problem"),
    [
        (Rate("0/second"), "'0/second' is no rate"),
        (Rate("100"), "'100' is no rate"),
        (Rate("-1/minute"), "'-1/minute' is no rate"),
        (Rate("1e3/minute"), "'1e3/minute' is no rate"),
        (Rate("10/fortnight"), "'10/fortnight' is no rate"),
        (Rate(100), "100 is no rate"),  # type: ignore[arg-type]  # what a developer may write all the same
        (Rate("10/minute", by="country"), "by='country' is not known"),
        ("10/minute", "'10/minute' is no rate"),
        (
            [Rate("10/minute"), Rate("20/60 seconds")],
            "two rates count by consumer within 60 seconds",
        ),
        (Rate("10/0 seconds"), "'10/0 seconds' is no rate"),
        (Rate("10/-1 seconds"), "'10/-1 seconds' is no rate"),
        (Rate("+10/second"), "'+10/second' is no rate"),
        (Rate("1\u0660/second"), "'1\u0660/second' is no rate"),
        (Rate("10/second\n"), "is no rate"),
        (Rate(""), "'' is no rate"),
        (
            Rate("10000001/day"),
            (
                "the rate 10000001/day is out of bounds; give 10,000,000 calls at most, within 366"
                " days"
            ),
        ),
        (Rate("10/367 days"), "the rate 10/367 days is out of bounds"),
        (Rate("10/99999999 days"), "the rate 10/99999999 days is out of bounds"),
        (Rate("10/minute", by=["key"]), "by=['key'] is not known"),  # type: ignore[arg-type]  # what a developer may write all the same
        (
            [Rate("20/second"), Rate("10/hour")],
            (
                "the rate 20/second by consumer can never be used up beside 10/hour by consumer;"
                " leave it out"
            ),
        ),
        (
            [Rate("10/hour"), Rate("10/second")],
            "the rate 10/second by consumer can never be used up beside 10/hour by consumer",
        ),
        (
            [Rate("10/minute"), Rate("600/hour")],
            "the rate 600/hour by consumer can never be used up beside 10/minute by consumer",
        ),
        (
            [Rate("10/minute", by="key"), Rate("20/90 seconds", by="key")],
            "the rate 20/90 seconds by key can never be used up",
        ),
    ],
)
def test_a_rate_that_makes_no_sense_refuses_the_pipeline(
    penstock_runtime: Start, rate: Any, problem: str
) -> None:
    rates = [rate] if isinstance(rate, str) else rate

    runtime = penstock_runtime(offering(api_key=True, rate=rates), policy="api-key")

    assert any(problem in text for text in runtime.blocked()["v1/rated"])
    assert runtime.client(token=False).post("/v1/rated/", json={}).status_code == 503


@pytest.mark.parametrize(
    "rates",
    [
        [Rate("10/minute"), Rate("599/hour")],
        [Rate("10/minute"), Rate("19/90 seconds")],
        [Rate("20/second"), Rate("10/hour", by="key")],
        [Rate("10/second"), Rate("100/minute"), Rate("1000/hour"), Rate("10000/day")],
        [Rate("10000000/366 days")],
    ],
)
def test_rates_that_can_each_be_used_up_hold_together(
    penstock_runtime: Start, rates: list[Rate]
) -> None:
    runtime = penstock_runtime(offering(api_key=True, rate=rates), policy="api-key")

    assert runtime.blocked() == {}
    assert statuses(runtime.client(token=False), 1) == [200]


@pytest.mark.parametrize("by", ["consumer", "key"])
def test_a_rate_by_consumer_or_key_needs_keys(penstock_runtime: Start, by: str) -> None:
    runtime = penstock_runtime(offering(rate=Rate("1/minute", by=by)), policy="any")

    assert any("set api_key=True" in text for text in runtime.blocked()["v1/rated"])


def test_one_call_too_many_is_a_429_that_says_when_there_is_room(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        offering(api_key=True, rate=[Rate("2/minute"), Rate("100/hour", by="key")]),
        policy="api-key",
    )
    client = runtime.client(token=False)

    first, _, third = (client.post("/v1/rated/", json={"a": 1}) for _ in range(3))

    assert (
        first.headers["RateLimit-Policy"]
        == '"2/minute by consumer";q=2;w=60, "100/hour by key";q=100;w=3600'
    )
    assert (
        first.headers["RateLimit"]
        == '"2/minute by consumer";r=1;t=60, "100/hour by key";r=99;t=3600'
    )
    assert (third.status_code, third.content_type, (third.json or {})["type"]) == (
        429,
        "application/problem+json",
        "rate-limited",
    )
    assert 50 <= int(third.headers["Retry-After"]) <= 60
    assert third.headers["RateLimit"].startswith('"2/minute by consumer";r=0;')


def test_what_is_refused_does_not_count_in_the_longer_window(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        offering(api_key=True, rate=[Rate("1/minute"), Rate("10/hour", by="key")]), policy="api-key"
    )
    client = runtime.client(token=False)

    last = [client.post("/v1/rated/", json={"a": 1}) for _ in range(5)][-1]

    assert '"10/hour by key";r=9;' in last.headers["RateLimit"]


def test_the_rate_is_asked_after_the_gate_and_before_the_body(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        offering(api_key=True, rate=Rate("1/minute", by="pipeline")), policy="api-key"
    )
    client = runtime.client(token=False)

    refused_at_the_gate = statuses(runtime.anonymous(), 3)
    malformed = client.post("/v1/rated/", data=b"{", content_type="application/json")
    again = client.post("/v1/rated/", data=b"{", content_type="application/json")

    assert refused_at_the_gate == [401] * 3
    assert (malformed.status_code, again.status_code) == (400, 429)
    assert "RateLimit" in malformed.headers


def test_each_consumer_has_room_of_its_own_and_all_share_the_pipeline_s(
    penstock_runtime: Start,
) -> None:
    runtime = penstock_runtime(
        offering(api_key=True, rate=[Rate("2/minute"), Rate("3/minute", by="pipeline")]),
        policy="api-key",
    )

    assert statuses(runtime.client("acme", token=False), 3) == [200, 200, 429]
    # Another key of the same consumer.
    assert statuses(runtime.client("acme", token=False), 1) == [429]
    assert statuses(runtime.client("bolt", token=False), 2) == [200, 429]


def test_each_key_has_room_of_its_own_where_keys_are_counted(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        offering(api_key=True, rate=Rate("1/minute", by="key")), policy="api-key"
    )

    assert [statuses(runtime.client("acme", token=False), 2) for _ in range(2)] == [[200, 429]] * 2


def test_nobody_gets_more_room_by_claiming_another_address(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(rate=Rate("2/minute", by="address")), policy="any")

    def call(peer: str, claimed: str) -> int:
        return statuses(
            runtime.anonymous(),
            1,
            headers={"X-Forwarded-For": claimed},
            environ_overrides={"REMOTE_ADDR": peer},
        )[0]

    assert [call("203.0.113.9", f"198.51.100.{number}") for number in range(3)] == [200, 200, 429]
    assert call("203.0.113.10", "198.51.100.1") == 200


PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # no proxy of ours: not believed
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # the client wrote 1.1.1.1 itself
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.9.9.9", "198.51.100.1"),  # two proxies of ours
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, nonsense, 10.0.0.7", "10.0.0.7"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("fd00::1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "198.51.100.1:8080", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("", "198.51.100.1", "198.51.100.1"),  # a proxy on a local socket
    ],
)
def test_a_trusted_proxy_is_believed_and_nobody_else(
    peer: str, said: str | None, address: str
) -> None:
    environ = {"REMOTE_ADDR": peer} | ({"HTTP_X_FORWARDED_FOR": said} if said is not None else {})

    assert client_address(environ, PROXIES, "X-Forwarded-For") == address


def test_forwarded_is_read_where_it_is_the_header_that_was_chosen() -> None:
    said = 'for=1.1.1.1;proto=http, for="[2001:db8::1]:4711";by=10.0.0.9'
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_FORWARDED": said, "HTTP_X_FORWARDED_FOR": "6.6.6.6"}

    assert client_address(environ, PROXIES, "Forwarded") == "2001:db8::1"
    assert client_address(environ, PROXIES, "X-Forwarded-For") == "6.6.6.6"


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ('for=9.9.9.9;host="evil,for=127.0.0.1"', "9.9.9.9"),
        ('for=9.9.9.9;host="evil, for=127.0.0.1, x"', "9.9.9.9"),
        ('for=9.9.9.9;host="a;for=127.0.0.1;b"', "9.9.9.9"),
        ('for=9.9.9.9;host="a\\",for=127.0.0.1;b=\\"c"', "9.9.9.9"),
        # What a stranger began does not swallow what the proxy adds.
        ('for=127.0.0.1;by="b, for=9.9.9.9;by=c', "9.9.9.9"),
        ('x=", for=9.9.9.9;by="[2001:db8::7]"', "9.9.9.9"),
        ('secret=_a;For="9.9.9.9:80"; proto=https', "9.9.9.9"),
        ("for=9.9.9.9;for=127.0.0.1", "10.0.0.1"),
        ('for="9.9.9.9', "10.0.0.1"),
        ("for=127.0.0.1, nonsense", "10.0.0.1"),
        ("for=127.0.0.1, ", "10.0.0.1"),
        ("for=127.0.0.1, by=10.0.0.9", "10.0.0.1"),
        ("for=127.0.0.1," + "x" * 600 + ",y", "10.0.0.1"),
        ("for=127.0.0.1, for=10.0.0.2 for=3.3.3.3", "10.0.0.1"),
        (f'for=127.0.0.1, for=9.9.9.9;x="{"a," * 400}"', "10.0.0.1"),
        ("nonsense, for=10.0.0.2", "10.0.0.2"),
        ("for=9.9.9.9, for=10.0.0.2, for=10.0.0.3", "9.9.9.9"),
        ("for=_hidden, for=10.0.0.2", "10.0.0.2"),
    ],
)
def test_forwarded_is_split_outside_of_quotes_and_not_believed_where_it_is_malformed(
    said: str, address: str
) -> None:
    assert (
        client_address({"REMOTE_ADDR": "10.0.0.1", "HTTP_FORWARDED": said}, PROXIES, "forwarded")
        == address
    )


def test_proxies_may_be_named_as_ipv6_maps_them() -> None:
    proxies = Settings.from_env({"PENSTOCK_TRUSTED_PROXIES": "::ffff:10.0.0.0/104"}).trusted_proxies

    assert (
        client_address(
            {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "6.6.6.6"},
            proxies,
            "X-Forwarded-For",
        )
        == "6.6.6.6"
    )


def test_without_trusted_proxies_a_header_means_nothing() -> None:
    assert (
        client_address(
            {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "6.6.6.6"}, (), "X-Forwarded-For"
        )
        == "127.0.0.1"
    )


def test_an_address_that_fails_too_often_is_told_to_wait_and_good_credentials_still_pass(
    penstock_runtime: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = penstock_runtime(
        offering(api_key=True), policy="api-key", failed_auth_rate="3/minute"
    )
    good = runtime.client(token=False)

    def fail(address: str) -> TestResponse:
        return runtime.anonymous().post(
            "/v1/rated/",
            json={},
            headers={"X-API-Key": "guess"},
            environ_overrides={"REMOTE_ADDR": address},
        )

    first = [fail("203.0.113.9") for _ in range(5)]
    written = capsys.readouterr().err

    assert [answer.status_code for answer in first] == [401, 401, 401, 429, 429]
    assert 1 <= int(first[-1].headers["Retry-After"]) <= 60
    assert (first[-1].json or {})["type"] == "rate-limited"
    assert [
        fail("203.0.113.10").status_code,
        statuses(good, 1, environ_overrides={"REMOTE_ADDR": "203.0.113.9"})[0],
    ] == [401, 200]
    assert (written.count("too many failed credentials"), written.count("invalid-api-key")) == (
        1,
        3,
    )
    assert "guess" not in written


def test_failures_of_one_ipv6_network_are_counted_together(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        offering(api_key=True), policy="api-key", failed_auth_rate="2/minute"
    )

    def fail(address: str) -> int:
        return statuses(
            runtime.anonymous(),
            1,
            headers={"X-API-Key": "guess"},
            environ_overrides={"REMOTE_ADDR": address},
        )[0]

    assert [fail(f"2001:db8::{number}") for number in range(1, 4)] == [401, 401, 429]
    assert fail("2001:db8:0:1::1") == 401


def test_one_ipv6_network_is_one_caller(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(rate=Rate("2/minute", by="address")), policy="any")

    def call(address: str) -> int:
        return statuses(runtime.anonymous(), 1, environ_overrides={"REMOTE_ADDR": address})[0]

    assert [call(f"2001:db8::{number}") for number in range(3)] == [200, 200, 429]
    assert call("2001:db8:0:1::1") == 200


def test_nobody_has_to_present_anything_to_be_told_that_it_is_missing(
    penstock_runtime: Start,
) -> None:
    runtime = penstock_runtime(
        offering(api_key=True), policy="api-key", failed_auth_rate="1/minute"
    )

    assert statuses(runtime.anonymous(), 4) == [401] * 4


@pytest.mark.parametrize(("away", "rated", "guessed"), [("share", 200, 401), ("refuse", 503, 503)])
def test_while_no_storage_can_be_reached_a_setting_decides_and_says_when_to_come_again(
    penstock_runtime: Start, away: str, rated: int, guessed: int
) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    trigger = {"api_key": True, "rate": Rate("1/minute")}
    runtime = penstock_runtime(
        offering(**trigger),
        policy="api-key",
        rate_limit_url=url,
        rate_limit_away=away,
        failed_auth_rate="1/minute",
    )
    key = runtime.client("acme", token=False).headers["X-API-Key"]

    for headers, status in (
        ({"X-API-Key": key}, rated),
        ({"Authorization": "Basic YTpi", "X-API-Key": key}, guessed),
    ):
        answered = runtime.anonymous().post("/v1/rated/", json={"a": 1}, headers=headers)
        assert (answered.status_code, answered.headers.get("Retry-After")) == (
            status,
            "1" if status == 503 else None,
        )


@pytest.mark.parametrize(
    "url",
    [
        "redsi://:hunter2@redis:6379",
        "redis://:hunter2@redis:port",
        "hunter2",
        "redis+cluster://:hunter2@127.0.0.1:1",
    ],
)
def test_a_url_that_can_t_be_used_is_not_repeated(penstock_runtime: Start, url: str) -> None:
    with pytest.raises(
        CannotStart,
        match=r"PENSTOCK_RATE_LIMIT_URL can't be used; write memory://, or redis://HOST:PORT",
    ) as raised:
        penstock_runtime(offering(api_key=True), rate_limit_url=url)

    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


RATED = {"rate": Rate("1/minute")}


@pytest.mark.parametrize(
    ("trigger", "settings", "told"),
    [
        ({}, {}, ["failed credentials", "limits of consumers, failed credentials"]),
        (RATED, {"failed_auth_rate": "off"}, ["rates", "rates, limits of consumers"]),
        (
            RATED,
            {},
            ["rates, failed credentials", "rates, limits of consumers, failed credentials"],
        ),
        ({}, {"failed_auth_rate": "off"}, ["limits of consumers"]),
        (RATED, {"workers": 1}, []),
        (RATED, {"rate_limit_url": "redis://127.0.0.1:1"}, []),
    ],
)
def test_what_each_worker_counts_alone_is_said_at_start_and_when_limits_are_set(
    penstock_runtime: Start,
    capsys: pytest.CaptureFixture[str],
    trigger: dict[str, Any],
    settings: dict[str, Any],
    told: list[str],
) -> None:
    chosen = {"workers": 2, "failed_auth_rate": "20/minute", "log_format": "json", **settings}
    runtime = penstock_runtime(offering(api_key=True, **trigger), policy="api-key", **chosen)
    runtime.client("acme", token=False)
    runtime.operate("limit", "set", "acme", "1/day", "--env", "test")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert [line["what"] for line in lines if line["event"] == "each worker counts alone"] == told


def test_the_limit_of_failures_can_be_off_and_nonsense_is_said(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(api_key=True), policy="api-key", failed_auth_rate="off")

    assert statuses(runtime.anonymous(), 30, headers={"X-API-Key": "guess"}) == [401] * 30
    with pytest.raises(CannotStart, match="PENSTOCK_FAILED_AUTH_RATE: 'often' is no rate"):
        penstock_runtime(offering(api_key=True), failed_auth_rate="often")
