"""No way of writing a call goes around its gate: other methods, other spellings of a path,
headers that ask for another method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from penstock import AccessPolicy, Call, Cors, HttpTrigger, Pipeline, Reply, Verdict, hookimpl
from penstock.testing import Runtime

Start = Callable[..., Runtime]
SHOP = "https://shop.example"
RUNS: list[str] = []


class Stricter(AccessPolicy):
    """Requires a token for pipelines named `guarded`, with any toggles."""

    name = "stricter"

    def judge(self, candidate: Any, environment: Any) -> Verdict:
        return Verdict(requires=frozenset({"jwt"}) if candidate.name == "guarded" else frozenset())


def offering(*names: str, cors: Cors | None = None) -> type:
    pipelines_value = [
        Pipeline(name, version="1.0.0", trigger=HttpTrigger(api_key=True, cors=cors))
        for name in names
    ]

    for pipeline in pipelines_value:

        @pipeline.get("/")
        @pipeline.get("/things")
        def show(call: Call) -> Reply:
            RUNS.append(f"GET {call.path}")
            return Reply(200, {"X-Shown": "yes"}, {"path": call.path})

        @pipeline.get("/things/{number}")
        def show_one(call: Call, number: str) -> Reply:
            return show(call)

        @pipeline.post("/")
        def make(call: Call) -> dict[str, str]:
            RUNS.append(f"POST {call.path}")
            return {"made": "yes"}

        @pipeline.delete("/")
        def drop(call: Call) -> None:
            RUNS.append(f"DELETE {call.path}")

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return pipelines_value

        @staticmethod
        @hookimpl
        def penstock_policies() -> list[AccessPolicy]:
            return [Stricter()]

    return Plugin


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    RUNS.clear()
    return penstock_runtime(offering("orders", "guarded", cors=Cors([SHOP])), policy="api-key")


def status_and_problem(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, (answer.json or {}).get("type", "") if answer.data else ""


@pytest.mark.parametrize("path", ["/v1/orders/", "/v1/orders/things", "/v1/orders/things/7"])
def test_head_passes_the_gate_of_get(runtime: Runtime, path: str) -> None:
    client = runtime.client("acme", pipelines=["orders"], token=False)
    other = runtime.client("other", pipelines=["guarded"], token=False)

    anonymous_value, unassociated = runtime.anonymous().head(path), other.head(path)

    assert (anonymous_value.status_code, anonymous_value.headers.get("X-Shown")) == (401, None)
    assert (unassociated.status_code, unassociated.headers.get("X-Shown")) == (403, None)
    assert RUNS == []
    assert (client.head(path).status_code, client.head(path).data) == (200, b"")
    assert [f"GET {path}"] * 2 == RUNS


def test_a_preflight_runs_no_handler_and_needs_no_credentials(runtime: Runtime) -> None:
    asks = {
        "Origin": SHOP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }

    answer = runtime.anonymous().options("/v1/orders/", headers=asks)

    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert RUNS == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
def test_what_only_looks_like_a_preflight_passes_the_gate(runtime: Runtime, method: str) -> None:
    asks = {"Origin": SHOP, "Access-Control-Request-Method": "GET"}

    assert runtime.anonymous().open("/v1/orders/", method=method, headers=asks).status_code == 401
    assert RUNS == []


def test_an_option_s_call_that_is_no_preflight_is_a_405(runtime: Runtime) -> None:
    assert status_and_problem(
        runtime.anonymous().options("/v1/orders/", headers={"Origin": SHOP})
    ) == (
        405,
        "method-not-allowed",
    )
    assert status_and_problem(runtime.anonymous().options("/v1/orders/")) == (
        405,
        "method-not-allowed",
    )


SPELLINGS = [
    "/v1/orders",
    "/v1/orders/",
    "/v1/orders//",
    "//v1/orders/",
    "/v1//orders/",
    "/v1/orders/things/",
    "/v1/orders/things//",
    "/v1/orders/things/7/",
    "/v1/orders/./things",
    "/v1/orders/x/../things",
    "/V1/orders/",
    "/v1/Orders/",
    "/v1/orders/;x",
    "/v1/orders;x/",
    "/v1/orders/%2e/things",
    "/v1/orders%2f",
    "/v1/orders/things%2f7",
    "/v1/orders/things/7%20",
    "/v1/orders/things/7%00",
]


@pytest.mark.parametrize("path", SPELLINGS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_spelling_of_a_path_is_served_without_a_key(
    runtime: Runtime, path: str, method: str
) -> None:
    answer = runtime.anonymous().open(path, method=method)

    assert answer.status_code in {401, 404, 405, 308}, answer.status_code
    assert RUNS == []


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/orders/things/", "/v1/orders/things/7/"])
def test_a_slash_more_or_less_is_gated_as_the_path_is(runtime: Runtime, path: str) -> None:
    client = runtime.client("acme", pipelines=["orders"], token=False)
    with_key = client.get(path).status_code

    assert runtime.anonymous().get(path).status_code == (401 if with_key == 200 else with_key)
    assert with_key in {200, 404}


@pytest.mark.parametrize(
    "header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"]
)
@pytest.mark.parametrize(
    ("method", "expected"),
    [("POST", "DELETE"), ("GET", "DELETE"), ("GET", "POST"), ("POST", "GET"), ("PUT", "GET")],
)
def test_no_header_or_parameter_asks_for_another_method(
    runtime: Runtime, header: str, method: str, expected: str
) -> None:
    client = runtime.client("acme", pipelines=["orders"], token=False)

    client.open(
        "/v1/orders/", method=method, headers={header: expected}, query_string={"_method": expected}
    )

    assert [run.partition(" ")[0] for run in RUNS] == ([method] if method != "PUT" else [])


def test_what_a_policy_requires_beyond_the_toggles_each_call_must_present(runtime: Runtime) -> None:
    keyed, both = runtime.client("acme", token=False), runtime.client("acme")

    assert status_and_problem(keyed.get("/v1/guarded/")) == (401, "credentials-missing")
    assert status_and_problem(keyed.head("/v1/guarded/"))[0] == 401
    assert both.get("/v1/guarded/").status_code == 200
    assert keyed.get("/v1/orders/").status_code == 200
    assert RUNS == ["GET /v1/guarded/", "GET /v1/orders/"]
