"""Rejected calls are found under the id of their reply, with who called and why, and an attack
fills nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from penstock import Call, HttpTrigger, Pipeline, Rate, hookimpl
from penstock.access import api_keys
from penstock.db.rejected_calls import RejectedCall
from penstock.errors import UsageError
from penstock.runs import rejected_calls
from penstock.runs.ids import new_run_id
from penstock.runs.rejected_calls import MAX_CALLS_OF_CONSUMER, RejectedCalls
from penstock.testing import Runtime

Start = Callable[..., Runtime]
ADDRESS = "192.0.2.7"
FROM = {"environ_overrides": {"REMOTE_ADDR": ADDRESS}}
UNKNOWN = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"


def offering() -> SimpleNamespace:
    trigger = HttpTrigger(api_key=True, jwt=True, scopes={"buy"}, max_body=100)
    shop = Pipeline("shop", version="1.0.0", trigger=trigger, sensitive=["card"])
    near = Pipeline("near", version="1.0.0", trigger=HttpTrigger(api_key=True, deny=[ADDRESS]))
    rated = Pipeline(
        "rated", version="1.0.0", trigger=HttpTrigger(api_key=True, rate=Rate("1/hour", by="key"))
    )
    private = Pipeline("private", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @shop.post("/cards/{card}")
    def pay(call: Call, card: str, body: dict[str, Any]) -> None:
        """Do nothing."""

    for pipeline in (near, rated, private):
        pipeline.get("/")(lambda call: None)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [shop, near, rated, private]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    return penstock_runtime(offering(), policy="any")


def shown(runtime: Runtime, identifier: str, command: str = "rejected") -> dict[str, Any]:
    runtime.flush()
    document: dict[str, Any] = json.loads(
        runtime.operate(command, "show", identifier, "--format", "json")
    )
    return document


class Case(NamedTuple):
    """A call that is rejected: with which client, and what its record must hold."""

    reason: str
    status: int
    consumer: str | None = None
    client: Mapping[str, Any] = MappingProxyType({})
    method: str = "POST"
    path: str = "/v1/shop/cards/1"
    sent: Mapping[str, Any] = MappingProxyType({})


CASES = (
    Case("credentials-missing", 401, client={"key": False, "token": False}),
    Case("invalid-api-key", 401, sent={"headers": {"X-API-Key": UNKNOWN}}),
    Case("invalid-token", 401, "acme", sent={"headers": {"Authorization": "Bearer e30.e30.AAAA"}}),
    Case("credentials-missing", 401, sent={"headers": {"Authorization": "Digest x"}}),
    Case("insufficient-scope", 403, "acme"),
    Case("address-not-allowed", 403, method="GET", path="/v1/near/"),
    Case("not-associated", 403, "acme", {"pipelines": "shop"}, "GET", "/v1/private/"),
    Case("body-too-large", 413, "acme", {"scopes": ["buy"]}, sent={"json": {"long": "x" * 100}}),
    Case("method-not-allowed", 405, method="PUT"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_the_id_of_each_rejection_leads_to_its_record(runtime: Runtime, case: Case) -> None:
    client = runtime.client(**case.client)

    sent = {"method": case.method, "json": {}, **FROM, **case.sent}
    answer = client.open(case.path, **sent)

    assert (answer.status_code, answer.json["type"]) == (case.status, case.reason)
    call = shown(runtime, answer.json["run"])
    assert (call["http_status"], call["reason"]) == (case.status, case.reason)
    assert (call["method"], call["environment"]) == (case.method, "test")
    assert (call["consumer"], call["address"]) == (case.consumer, ADDRESS)
    assert (call["key"] is not None) == (case.consumer is not None)
    assert shown(runtime, answer.json["run"], "runs") == call


@pytest.mark.parametrize("why", ["disabled", "blocked"])
def test_the_id_of_a_call_to_an_unavailable_pipeline_leads_to_its_record(
    runtime: Runtime, why: str
) -> None:
    client = runtime.client()
    if why == "disabled":
        runtime.operate("pipeline", "disable", "private", "--env", "test")
    else:
        runtime.policy("jwt-api-key")

    answer = client.get("/v1/private/?pin=4711")

    call = shown(runtime, answer.json["run"])
    assert (answer.status_code, call["http_status"]) == (503, 503)
    assert (call["reason"], call["pipeline"]) == ("pipeline-unavailable", "v1/private")
    assert "4711" not in json.dumps(call)


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (400, {"data": b"[", "content_type": "application/json"}),
        (415, {"data": b"<a/>", "content_type": "text/xml"}),
        (422, {"json": [1]}),
    ],
)
def test_the_id_of_a_call_with_a_bad_body_leads_to_its_run(
    runtime: Runtime, status: int, sent: dict[str, Any]
) -> None:
    answer = runtime.client(scopes=["buy"]).post("/v1/shop/cards/1", **sent)

    run = shown(runtime, answer.json["run"], "runs")
    assert (answer.status_code, run["http_status"]) == (status, status)
    assert (run.get("problem") or run.get("reason")) == answer.json["type"]


def test_what_is_sensitive_in_a_path_is_not_kept_and_the_query_never_is(runtime: Runtime) -> None:
    answer = runtime.client().post("/v1/shop/cards/4111111111111111?pin=4711", json={})

    text = json.dumps(shown(runtime, answer.json["run"]))
    assert "4111111111111111" not in text
    assert "4711" not in text
    assert "/v1/shop/cards/" in text


def test_a_call_over_its_rate_is_kept_with_its_consumer(runtime: Runtime) -> None:
    client = runtime.client(token=False)
    client.get("/v1/rated/")

    answer = client.get("/v1/rated/", headers={"X-Request-Id": "request-0815"})

    call = shown(runtime, answer.json["run"])
    assert (call["reason"], call["consumer"]) == ("rate-limited", "acme")
    assert call["request_id"] == "request-0815"


@pytest.mark.parametrize("end", ["disabled", "expired"])
def test_whose_key_was_disabled_or_expired_is_kept_and_the_caller_does_not_learn_it(
    runtime: Runtime, end: str
) -> None:
    client = runtime.client()
    expires = timedelta(microseconds=1) if end == "expired" else None
    engine = runtime._engine  # noqa: SLF001  the kit creates keys that are valid
    key = api_keys.create_key(engine, "ann", "acme", "test", expires=expires)
    runtime.operate(*(("key", "disable", key.id) if end == "disabled" else ("env", "list")))

    answer = client.get("/v1/private/", headers={"X-API-Key": key.key})

    assert (answer.status_code, answer.json["type"]) == (401, "invalid-api-key")
    assert "acme" not in answer.text
    call = shown(runtime, answer.json["run"])
    assert (call["consumer"], call["key_id"]) == ("acme", key.id)


def test_the_listing_is_filtered_and_paged(runtime: Runtime) -> None:
    acme, globex = runtime.client(pipelines="shop"), runtime.client("globex", pipelines="shop")
    of_acme = sorted(acme.get("/v1/private/", **FROM).json["run"] for _ in range(3))
    of_globex = globex.get("/v1/private/", **FROM).json["run"]
    newest = sorted([*of_acme, of_globex], reverse=True)
    runtime.flush()

    def listed(*options: str) -> list[str]:
        words = ("rejected", "list", "--format", "json", *options)
        return [row["id"] for row in json.loads(runtime.operate(*words))]

    assert listed() == newest
    assert listed("--consumer", "globex") == [of_globex]
    assert listed("--search", "GLOB") == [of_globex]
    assert listed("--reason", "not-associated", "--limit", "2") == newest[:2]
    assert listed("--cursor", newest[1]) == newest[2:]
    assert listed("--reason", "rate-limited") == []
    assert listed("--address", ADDRESS, "--since", "1h", "--pipeline", "private") == newest
    with pytest.raises(UsageError, match="no consumer is named"):
        listed("--consumer", "no-such-consumer")


class TestWhyAndWhatNow:
    def explained(self, runtime: Runtime, identifier: str) -> dict[str, Any]:
        runtime.flush()
        document: dict[str, Any] = json.loads(
            runtime.operate("explain", identifier, "--format", "json")
        )
        return document

    def test_the_smallest_change_is_named_and_lets_the_call_pass(self, runtime: Runtime) -> None:
        client = runtime.client(token=False, pipelines="shop")
        run = client.get("/v1/private/").json["run"]

        explained = self.explained(runtime, run)

        (change,) = explained["changes"]
        assert change["who"] == "operator"
        assert change["command"] == "penstock consumer associate acme v1/private --env test"
        assert explained["now"]["accepted"] is False
        runtime.operate(*change["command"].split()[1:])
        assert client.get("/v1/private/").status_code == 204
        assert self.explained(runtime, run)["now"]["accepted"] is True

    def test_a_disabled_key_is_enabled_by_its_command(self, runtime: Runtime) -> None:
        client = runtime.client(token=False)
        (key,) = api_keys.list_keys(runtime._engine)  # noqa: SLF001  the kit lists no keys
        runtime.operate("key", "disable", key.id)
        run = client.get("/v1/private/").json["run"]

        (change,) = self.explained(runtime, run)["changes"]

        assert change["command"] == f"penstock key enable {key.id}"
        runtime.operate(*change["command"].split()[1:])
        assert client.get("/v1/private/").status_code == 204

    def test_what_the_caller_alone_can_change_is_named(self, runtime: Runtime) -> None:
        client = runtime.client(scopes=["buy"])
        run = client.post("/v1/shop/cards/1", json={"long": "x" * 100}).json["run"]

        explained = self.explained(runtime, run)

        assert explained["now"] is None
        assert [change["who"] for change in explained["changes"]] == ["caller"]

    def test_people_read_it_as_text(self, runtime: Runtime) -> None:
        run = runtime.client(pipelines="shop").get("/v1/private/").json["run"]
        runtime.flush()

        text = runtime.operate("explain", run)

        assert "403 not-associated: v1/private in test rejected a call of acme with key" in text
        assert "now: v1/private in test rejects this call" in text
        assert "penstock consumer associate acme v1/private --env test" in text

    def test_a_run_is_explained_by_its_end(self, runtime: Runtime) -> None:
        client = runtime.client(scopes=["buy"])
        answer = client.post("/v1/shop/cards/1", data=b"[", content_type="application/json")
        run = answer.headers["X-Run-Id"]
        runtime.flush()

        assert "fix: " in runtime.operate("explain", run)


class TestNothingIsFilled:
    def call(self, consumer: int | None) -> RejectedCall:
        return RejectedCall(
            new_run_id(), 1, "v1/shop", "not-associated", "10.0.0.1", None, consumer
        )

    def offer(self, calls: RejectedCalls, consumer: int | None, problem: str = "x") -> bool:
        accepted = calls.accepts("v1/shop", problem, consumer)
        if accepted:
            calls.append(self.call(consumer))
        return accepted

    def test_an_attack_by_unauthenticated_clients_is_sampled(self) -> None:
        calls = RejectedCalls()

        kept = sum(self.offer(calls, None) for _ in range(100_000))

        assert (kept, len(calls.queued())) == (1, 1)

    def test_a_known_consumer_is_kept_up_to_a_number_a_minute_and_the_rest_is_counted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [600.0]
        monkeypatch.setattr(rejected_calls.time, "monotonic", lambda: now[0])
        calls = RejectedCalls()

        kept = sum(self.offer(calls, 1) for _ in range(100_000))

        last = calls.queued()[-1].id
        assert (kept, calls.left_out()) == (MAX_CALLS_OF_CONSUMER, {last: 100_000 - kept})
        assert self.offer(calls, 2)  # another consumer is not affected
        now[0] += timedelta(minutes=1).total_seconds()
        assert self.offer(calls, 1)
        calls.written(len(calls.queued()), calls.left_out())
        assert calls.left_out() == {}

    def test_what_was_left_out_is_shown_with_the_last_call_that_was_kept(
        self, runtime: Runtime
    ) -> None:
        client = runtime.client(pipelines="shop")
        for _ in range(MAX_CALLS_OF_CONSUMER - 1):
            client.get("/v1/private/")
        last = client.get("/v1/private/").json["run"]
        dropped = [client.get("/v1/private/").json["run"] for _ in range(3)]

        assert shown(runtime, last)["left_out"] == len(dropped)
        with pytest.raises(UsageError, match="no rejected call"):
            shown(runtime, dropped[0])
