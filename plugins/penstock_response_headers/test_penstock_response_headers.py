"""Header policies, through the real dispatcher."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from penstock import (
    AccessView,
    Call,
    Cors,
    HttpTrigger,
    Pipeline,
    PipelineError,
    Reply,
    ResponseHeader,
    ResponsePolicy,
    hookimpl,
)
from penstock.testing import Runtime

Start = Callable[..., Runtime]


def offering(**trigger: Any) -> SimpleNamespace:
    pipeline = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(**trigger))

    @pipeline.get("/")
    def show(call: Call) -> Reply:
        return Reply(200, {"Cache-Control": "max-age=60", "X-Own": "mine"}, {"a": 1})

    @pipeline.post("/")
    def fail(call: Call) -> None:
        raise PipelineError(409, "Taken")

    @pipeline.put("/")
    def stuck(call: Call) -> None:
        time.sleep(1)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="orders", penstock_pipelines=penstock_pipelines)


def put(runtime: Runtime, name: str, value: object) -> None:
    runtime.operate(
        "variable",
        "set",
        f"penstock_{name}",
        value if isinstance(value, str) else json.dumps(value),
        "--env",
        "test",
    )


def get(runtime: Runtime, method: str = "GET", **headers: str) -> TestResponse:
    return runtime.anonymous().open("/v1/orders/", method=method, headers=headers)


def test_a_header_is_added_where_there_is_none_and_overrides_where_it_says_so(
    penstock_runtime: Start,
) -> None:
    runtime = penstock_runtime(offering(), policy="any")
    put(
        runtime,
        "response_headers",
        {
            "cache-control": "no-store",
            "X-OWN": {"value": "ours", "override": True},
            "X-Frame-Options": "DENY",
        },
    )

    answered = get(runtime)

    assert answered.headers.getlist("Cache-Control") == ["max-age=60"]
    assert answered.headers.getlist("X-Own") == ["ours"]
    assert answered.headers.getlist("X-Frame-Options") == ["DENY"]


def test_refusals_have_them_too_and_changes_are_live(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(), policy="any")
    assert "X-Frame-Options" not in get(runtime).headers
    put(runtime, "response_headers", {"X-Frame-Options": "DENY"})

    assert [
        get(runtime, method).headers.get("X-Frame-Options") for method in ("GET", "POST", "DELETE")
    ] == ["DENY"] * 3
    runtime.operate("variable", "unset", "penstock_response_headers", "--env", "test")
    assert "X-Frame-Options" not in get(runtime).headers


def test_a_call_that_is_over_its_time_has_them_too(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(timeout=0.1), policy="any")
    put(
        runtime,
        "response_headers",
        {"X-Frame-Options": "DENY", "Cache-Control": {"value": "private", "override": True}},
    )

    answered = get(runtime, "PUT")

    assert answered.status_code == 504
    assert (answered.headers["X-Frame-Options"], answered.headers.getlist("Cache-Control")) == (
        "DENY",
        ["private"],
    )


def test_cors_is_for_pipelines_without_any_unless_it_overrides(penstock_runtime: Start) -> None:
    bare = penstock_runtime(offering(), policy="any")
    own = penstock_runtime(offering(cors=Cors("https://own.example")), policy="any")

    def allowed(runtime: Runtime, origin: str) -> str | None:
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        text = {
            get(runtime, method, **asked).headers.get("Access-Control-Allow-Origin")
            for method in ("GET", "OPTIONS")
        }
        (each,) = text
        return each

    assert allowed(bare, "https://shop.example") is None
    for runtime in (bare, own):
        put(
            runtime,
            "cors",
            {"origins": ["https://shop.example"], "methods": ["GET"], "credentials": True},
        )
    assert allowed(bare, "https://shop.example") == "https://shop.example"
    assert (allowed(own, "https://shop.example"), allowed(own, "https://own.example")) == (
        None,
        "https://own.example",
    )
    put(own, "cors", {"origins": ["https://shop.example"], "override": True})
    assert (allowed(own, "https://shop.example"), allowed(own, "https://own.example")) == (
        "https://shop.example",
        None,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            ResponsePolicy(cors=Cors("*", credentials=True)),
            "CORS for every origin can't allow credentials; name the origins",
        ),
        (
            ResponsePolicy(cors=Cors(["https://a.example", "*"], credentials=True)),
            "CORS for every origin can't allow credentials",
        ),
        (
            ResponsePolicy(cors=Cors("https://a.example/")),
            (
                "CORS origin 'https://a.example/' never matches; an origin is scheme, host and"
                " port: write https://a.example"
            ),
        ),
        (ResponsePolicy(cors_override="yes"), "cors_override='yes' is neither True nor False"),  # type: ignore[arg-type]  # what a careless plugin may say
        (
            ResponsePolicy((ResponseHeader("X-A", "b"), ResponseHeader("x-a", "c"))),
            "it names a header twice; name it once",
        ),
        (ResponsePolicy(cors="*"), "cors='*' is no CORS"),  # type: ignore[arg-type]  # what a careless plugin may say
        (ResponsePolicy(headers=["X-A: b"]), "its headers are no headers"),  # type: ignore[arg-type]  # the same
        (ResponsePolicy(headers=("X-A: b",)), "its headers are no headers"),  # type: ignore[arg-type]  # the same
        ({"X-A": "b"}, "it is a dict; return a ResponsePolicy, or None"),
    ],
)
def test_another_plugin_s_policy_that_makes_no_sense_refuses_everything_too(
    penstock_runtime: Start, text: object, reason: str
) -> None:
    @hookimpl
    def penstock_response_policy() -> object:
        return text

    other = SimpleNamespace(__name__="other", penstock_response_policy=penstock_response_policy)
    runtime = penstock_runtime(offering(), other, policy="any")

    answered = get(runtime, Origin="https://evil.example")

    assert f"the header policy of other is not valid: {reason}" in runtime.blocked()["v1/orders"][0]
    assert answered.status_code == 503
    assert not [name for name in answered.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118  no dict


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("response_headers", "{", "is no JSON"),
        ("response_headers", "[" * 60_000, "is no JSON"),
        ("response_headers", [], "is no JSON object"),
        ("response_headers", {"X A": "b"}, "is no header's name"),
        ("response_headers", {"X-A": "b\r\nSet-Cookie: c"}, "is no header's value"),
        ("response_headers", {"X-A": ""}, "is no header's value"),
        ("response_headers", {"Content-Length": "5"}, "is set by the runtime"),
        ("response_headers", {"Set-Cookie": "a=b"}, "is set by the runtime"),
        ("response_headers", {"Access-Control-Allow-Origin": "*"}, "or by CORS"),
        ("response_headers", {"X-A": {"value": "b", "overide": True}}, "X-A needs a text"),
        ("response_headers", {"X-A": 5}, "X-A needs a text"),
        ("response_headers", {"X-A": "b", "x-a": "c"}, "is named twice"),
        ("cors", {}, "origins is needed"),
        ("cors", {"origins": "https://a.example"}, "are lists of texts"),
        ("cors", {"origins": ["*"], "credentials": True}, "can't allow credentials"),
        ("cors", {"origins": ["*"], "max_age": -1}, "a number of seconds"),
        ("cors", {"origins": ["*"], "maxage": 5}, "'maxage' is not known"),
        (
            "cors",
            {"origins": ["shop.example"]},
            "an origin is scheme, host and port: write https://shop.example",
        ),
        (
            "cors",
            {"origins": ["https://shop.example/"]},
            "an origin is scheme, host and port: write https://shop.example",
        ),
        (
            "cors",
            {"origins": ["https://a.example", "https://a.example"]},
            "'https://a.example' is named twice",
        ),
        (
            "cors",
            {"origins": ["https://a.example"], "methods": ["FAKE"]},
            "CORS method 'FAKE' can't be used",
        ),
        (
            "cors",
            {"origins": ["https://a.example"], "headers": ["*"], "credentials": True},
            "browsers take '*' literally",
        ),
        (
            "cors",
            {"origins": ["https://a.example"], "expose": ["X Y"]},
            "'X Y' is no header's name",
        ),
        (
            "cors",
            {"origins": ["https://a.example"], "credentials": "yes"},
            "credentials='yes' is neither True nor False",
        ),
        (
            "cors",
            {"origins": ["https://a.example"], "max_age": "600"},
            "max_age='600' is no number of seconds",
        ),
        (
            "cors",
            {"origins": ["https://a.example"], "max_age": True},
            "max_age=True is no number of seconds",
        ),
        ("cors", {"origins": ["https://a.example"], "override": 1}, "override is true or false"),
        ("response_headers", {"X-A": {"value": "b", "override": 1}}, "X-A needs a text"),
    ],
)
def test_what_can_t_be_understood_is_not_set_and_refuses_everything_where_it_is_there_all_the_same(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch, name: str, value: object, text: str
) -> None:
    runtime = penstock_runtime(offering(), policy="any")
    with pytest.raises(Exception, match=re.escape(text)) as error:
        put(runtime, name, value)
    assert getattr(error.value, "exit_code", 0) == 2
    assert runtime.operate("variable", "list") == "no variables\n"
    assert get(runtime).status_code == 200

    # As an earlier release would.
    monkeypatch.setattr("penstock.host.evaluation.CatalogEvaluator.check_variable", lambda *_: None)
    put(runtime, name, value)

    assert text in runtime.blocked()["v1/orders"][0]
    assert get(runtime).status_code == 503
    monkeypatch.undo()
    put(runtime, "other", "can be set meanwhile")
    runtime.operate("variable", "unset", f"penstock_{name}", "--env", "test")
    assert get(runtime).status_code == 200


def test_a_variable_is_held_against_the_policies_of_all_plugins(penstock_runtime: Start) -> None:
    @hookimpl
    def penstock_response_policy(access: AccessView) -> ResponsePolicy:
        return ResponsePolicy(
            (ResponseHeader("X-Region", access.variables["region"]),)
            if "region" in access.variables
            else ()
        )

    other = SimpleNamespace(__name__="other", penstock_response_policy=penstock_response_policy)
    runtime = penstock_runtime(offering(), other, policy="any")

    runtime.operate("variable", "set", "region", "eu-1", "--env", "test")
    with pytest.raises(
        Exception,
        match=(
            r"region was not set, for it would block every pipeline of test: the header policy of"
            r" plugin other: .* ValueError: the value"
        ),
    ):
        runtime.operate("variable", "set", "region", "eu\r\n1", "--env", "test")
    runtime.operate("env", "create", "prod")
    with pytest.raises(Exception, match="block every pipeline of prod"):
        runtime.operate("variable", "set", "region", "\n", "--env", "prod")

    assert get(runtime).headers["X-Region"] == "eu-1"
