"""Who may read the description of an environment, and where its URLs lead."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from penstock import Call, HttpTrigger, Pipeline, Reply, hookimpl
from penstock.errors import BadSetting
from penstock.settings import Settings
from penstock.testing import Runtime

Start = Callable[..., Runtime]
BASE = "https://api.example.com/api"
PATHS = ("/-/openapi.json", "/-/docs", "/-/docs/page.js")


def shop(handler: Callable[..., object] = lambda: "here", **trigger: Any) -> SimpleNamespace:
    """Make a plugin of one pipeline with one handler."""
    pipeline = Pipeline(
        "shop", version="1.0.0", trigger=HttpTrigger(**{"api_key": True, **trigger})
    )
    pipeline.get("/")(handler)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


def statuses(client: Client, paths: tuple[str, ...] = PATHS) -> list[int]:
    return [client.get(path).status_code for path in paths]


@pytest.mark.parametrize(
    ("openapi", "docs", "policy", "console", "expected"),
    [
        ("auto", "auto", "any", False, [200, 200, 200]),
        ("auto", "auto", "any", True, [200, 200, 200]),
        ("auto", "auto", "api-key", False, [404, 404, 404]),
        ("auto", "auto", "api-key", True, [401, 401, 401]),
        ("auto", "auto", "jwt-api-key", False, [404, 404, 404]),
        ("auto", "auto", "jwt-api-key", True, [401, 401, 401]),
        ("auto", "false", "any", False, [200, 404, 404]),
        ("true", "auto", "api-key", False, [200, 404, 404]),
        ("true", "auto", "api-key", True, [200, 401, 401]),
        ("true", "true", "jwt-api-key", False, [200, 200, 200]),
        ("auto", "true", "api-key", False, [404, 404, 404]),
        ("sign-in", "true", "any", True, [401, 401, 401]),
        ("true", "sign-in", "any", True, [200, 401, 401]),
        ("false", "true", "any", True, [404, 404, 404]),
    ],
)
def test_the_description_is_for_whom_the_environment_is_for(
    penstock_runtime: Start,
    openapi: str,
    docs: str,
    policy: str,
    console: bool,
    expected: list[int],
) -> None:
    runtime = penstock_runtime(shop(), policy=policy, openapi=openapi, docs=docs, console=console)

    assert statuses(runtime.anonymous()) == expected
    if console:
        assert statuses(runtime.client(token=False)) == expected  # a caller's key is no sign-in


def test_by_default_it_is_auto(penstock_runtime: Start) -> None:
    assert (Settings().openapi, Settings().docs) == ("auto", "auto")
    assert (Settings.from_env({}).openapi, Settings.from_env({}).docs) == ("auto", "auto")


def test_a_change_of_policy_acts_at_once(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(shop(), policy="any", openapi="auto")
    seen = [statuses(runtime.anonymous())]
    for policy in ("api-key", "any"):
        runtime.policy(policy)
        seen.append(statuses(runtime.anonymous()))

    assert seen == [[200] * 3, [404] * 3, [200] * 3]


def test_who_may_not_read_it_learns_nothing_of_it(penstock_runtime: Start) -> None:
    answered = (
        penstock_runtime(shop(), policy="api-key", openapi="auto")
        .anonymous()
        .get("/-/openapi.json")
    )

    assert (answered.content_type, answered.json["type"]) == (
        "application/problem+json",
        "not-found",
    )
    assert answered.json["detail"] == "The description of this environment is not public."
    assert b"shop" not in answered.data


def test_each_listener_goes_by_its_own_policy(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(shop(internal=True), policy="api-key", openapi="auto")
    client = runtime.anonymous()
    before = [statuses(client), statuses(client.internal())]
    runtime.policy("any", internal=True)

    assert before == [[404] * 3, [404] * 3]
    assert [statuses(client), statuses(client.internal())] == [[404] * 3, [200] * 3]


def test_a_stale_view_of_access_opens_nothing(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.host.view import CurrentView

    runtime = penstock_runtime(shop(), policy="any", openapi="auto")
    monkeypatch.setattr(CurrentView, "fresh", lambda _: False)

    assert statuses(runtime.anonymous()) == [404] * 3


def reply_with(
    penstock_runtime: Start, headers: dict[str, str], *, url: str = BASE, internal: bool = False
) -> TestResponse:
    def handler(call: Call) -> Reply:
        return Reply(200, headers, "here")

    runtime = penstock_runtime(shop(handler, internal=True), policy="any", url=url)
    client = runtime.client(token=False)
    return (client.internal() if internal else client).get("/v1/shop/")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Location", "/v1/shop/7?a=b#c", f"{BASE}/v1/shop/7?a=b#c"),
        ("location", "/v1/shop/7", f"{BASE}/v1/shop/7"),
        ("Content-Location", "/v1/shop/7", f"{BASE}/v1/shop/7"),
        ("Location", "https://elsewhere.example/v1", "https://elsewhere.example/v1"),
        ("Location", "//elsewhere.example/v1", "//elsewhere.example/v1"),
        ("Location", "7", "7"),
        ("Link", "</v1/shop?after=7>; rel=next", f"<{BASE}/v1/shop?after=7>; rel=next"),
        (
            "Link",
            '</a>; rel="next", </b>; rel=prev,<https://x/y>; rel=up',
            f'<{BASE}/a>; rel="next", <{BASE}/b>; rel=prev,<https://x/y>; rel=up',
        ),
        ("Link", "<//x/y>; rel=next, <z>; rel=prev", "<//x/y>; rel=next, <z>; rel=prev"),
        ("X-Path", "/v1/shop", "/v1/shop"),
    ],
)
def test_urls_in_headers_of_replies_lead_where_callers_can_go(
    penstock_runtime: Start, name: str, value: str, expected: str
) -> None:
    assert reply_with(penstock_runtime, {name: value}).headers[name] == expected
    assert reply_with(penstock_runtime, {name: value}, url="").headers[name] == value
    # They did not come that way.
    assert reply_with(penstock_runtime, {name: value}, internal=True).headers[name] == value


def test_a_durable_run_is_where_callers_can_go(penstock_runtime: Start) -> None:
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True, idempotent="key"))
    jobs.post("/", mode="durable")(lambda: "done")

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [jobs]

    runtime = penstock_runtime(
        SimpleNamespace(__name__="jobs", penstock_pipelines=penstock_pipelines),
        policy="api-key",
        url=BASE,
    )
    client = runtime.client(token=False)
    replies = [client.post("/v1/jobs/", headers={"Idempotency-Key": "a"}) for _ in range(2)]
    replies.append(client.post("/v1/jobs/", headers={"Idempotency-Key": "a", "Prefer": "wait=1"}))

    assert {reply.headers["Location"] for reply in replies} == {
        f"{BASE}/v1/jobs/runs/{replies[0].json['id']}"
    }


def test_the_document_names_the_address_on_the_external_listener_alone(
    penstock_runtime: Start,
) -> None:
    runtime = penstock_runtime(shop(internal=True), policy="any", url=BASE)
    client = runtime.anonymous()

    def servers(client: Client) -> object:
        return json.loads(client.get("/-/openapi.json").data)["servers"]

    assert servers(client) == [{"url": BASE}]
    assert servers(client.internal()) == [{"url": "/"}]


def test_the_docs_page_may_call_that_address_and_no_other(penstock_runtime: Start) -> None:
    policy = (
        penstock_runtime(shop(), policy="any", url=BASE)
        .anonymous()
        .get("/-/docs")
        .headers["Content-Security-Policy"]
    )

    assert "connect-src 'self' https://api.example.com;" in policy


@pytest.mark.parametrize(
    "value",
    [
        "https://api.example.com",
        "https://api.example.com/",
        "http://10.0.0.1:8080/a/b-c",
        "http://[::1]:8000",
    ],
)
def test_an_address_that_callers_may_have(value: str) -> None:
    assert Settings.from_env({"PENSTOCK_URL": value}).url == value.rstrip("/")


@pytest.mark.parametrize(
    "value",
    [
        "api.example.com",
        "/api",
        "ftp://api.example.com",
        "https://",
        "https://api.example.com:99999",
        "https://api.example.com:port",
        "https://user:made-up@api.example.com",
        "https://api.example.com/?a=b",
        "https://api.example.com/#a",
        "https://api.example.com/a/../b",
        "https://api.example.com/a//b",
        "https://api.example.com/a b",
        "https://api.example.com/ä",
        'https://api.example.com/">',
        "https://api.example.com/\r\nX: y",
    ],
)
def test_an_impossible_url_ends_the_start(value: str) -> None:
    with pytest.raises(
        BadSetting, match=r"PENSTOCK_URL must be like https://api\.example\.com/orders"
    ) as caught:
        Settings.from_env({"PENSTOCK_URL": value})
    assert "made-up" not in str(caught.value)
