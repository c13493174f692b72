"""Every way to ask for a handler meets its gate: other methods, other spellings of the path,
headers that name another method."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from penstock import (
    AccessPolicy,
    Call,
    Caller,
    Candidate,
    Cors,
    EnvironmentFacts,
    HttpTrigger,
    Pipeline,
    RequestHead,
    Verdict,
    hookimpl,
)
from penstock.errors import Refusal
from penstock.gate.gate import Gate
from penstock.testing import Runtime, StartRuntime

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
ran: list[str] = []


def shop() -> SimpleNamespace:
    pipeline = Pipeline(
        "shop",
        version="1.0.0",
        trigger=HttpTrigger(api_key=True, jwt=True, cors=Cors(["https://shop.example"])),
    )

    def handler(call: Call) -> dict[str, str]:
        ran.append(f"{call.method} {call.path}")
        return {"method": call.method}

    def with_parameter(call: Call, name: str) -> dict[str, str]:
        return handler(call)

    for method in METHODS:
        pipeline.route(method, "/")(handler)
        pipeline.route(method, "/items")(handler)
        pipeline.route(method, "/items/{name}")(with_parameter)
    only_get = Pipeline("reading", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))
    only_get.get("/")(handler)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline, only_get]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture(scope="module", params=["api-key", "jwt-api-key", "any"])
def runtime(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runtime]:
    with Runtime(tmp_path_factory.mktemp("gate"), shop(), policy=request.param) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


class Demanding(AccessPolicy):
    """A policy beside the product's that requires more than any toggle says."""

    name = "demanding"

    def judge(self, candidate: Candidate, environment: EnvironmentFacts) -> Verdict:
        return Verdict(requires=frozenset({"jwt"}))


def test_what_a_policy_requires_beyond_the_toggles_is_asked_for_at_the_gate(
    penstock_runtime: StartRuntime,
) -> None:
    plugin = shop()
    bare = Pipeline("bare", version="1.0.0", trigger=HttpTrigger())
    bare.get("/")(lambda call: ran.append("bare"))
    plugin.penstock_pipelines = hookimpl(lambda: [bare])
    plugin.penstock_policies = hookimpl(lambda setup: [Demanding()])
    runtime = penstock_runtime(plugin, policy="any")

    clients = (
        runtime.anonymous(),
        runtime.client(token=False),
        runtime.client(key=False),
        runtime.client(),
    )

    assert [client.get("/v1/bare/").status_code for client in clients] == [401, 401, 401, 204]
    assert ran == ["bare"]


@pytest.fixture
def bare(penstock_runtime: StartRuntime) -> Callable[..., Runtime]:
    """Start a runtime whose pipeline asks for nothing."""
    pipeline = Pipeline("bare", version="1.0.0", trigger=HttpTrigger())

    @pipeline.post("/")
    def handler(call: Call) -> None:
        ran.append("bare")

    plugin = SimpleNamespace(__name__="bare", penstock_pipelines=hookimpl(lambda: [pipeline]))
    return lambda **more: penstock_runtime(plugin, policy="any", **more)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("X-API-Key", "pk_test_wrong", "invalid-api-key"),
        ("Authorization", "Bearer wrong", "invalid-token"),
        ("Authorization", "Basic d3Jvbmc6d3Jvbmc=", "invalid-login"),
    ],
)
def test_what_is_sent_without_being_asked_for_is_checked_all_the_same(
    bare: Callable[..., Runtime], name: str, value: str, problem: str
) -> None:
    runtime = bare()

    refused = runtime.anonymous().post("/v1/bare/", headers={name: value})

    assert (refused.status_code, (refused.json or {})["type"], ran) == (401, problem, [])
    assert runtime.anonymous().post("/v1/bare/").status_code == 204


def test_a_view_of_access_that_is_too_old_answers_no_call(bare: Callable[..., Runtime]) -> None:
    refused = bare(max_staleness=0).anonymous().post("/v1/bare/")

    assert (refused.status_code, (refused.json or {})["type"], ran) == (
        503,
        "pipeline-unavailable",
        [],
    )


def test_a_gate_that_was_kept_for_a_time_is_closed_from_then_on(
    bare: Callable[..., Runtime],
) -> None:
    access = bare().access
    gate = Gate("bare", (), frozenset(), 100.0)

    assert gate.admit(RequestHead({}, "bare"), access, 99.9) == Caller()  # type: ignore[arg-type]  # a snapshot is a view
    with pytest.raises(Refusal) as refused:
        gate.admit(RequestHead({}, "bare"), access, 100.0)  # type: ignore[arg-type]  # as above
    assert (refused.value.status, refused.value.code) == (503, "pipeline-unavailable")


class Tripwire(io.RawIOBase):
    """A body that must not be read."""

    def readinto(self, _: object) -> int:
        raise AssertionError("the body was read")

    def readable(self) -> bool:
        return True


def test_nothing_of_a_body_is_read_before_the_gate_has_let_the_call_through(
    runtime: Runtime,
) -> None:
    for client in (
        runtime.anonymous(),
        runtime.client(token=False),
        runtime.client(pipelines=(), consumer="other"),
    ):
        for sent in (
            {"CONTENT_LENGTH": "5"},
            {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
        ):
            refused = client.post(
                "/v1/shop/",
                content_type="application/json",
                environ_overrides={**sent, "wsgi.input": Tripwire()},
            )
            assert refused.status_code in {401, 403}
    assert ran == []


PATHS = (
    "/v1/shop",
    "/v1/shop/",
    "/v1/shop/items",
    "/v1/shop/items/",
    "/v1/shop/items/x",
    "/v1/shop/items/x/",
)


@pytest.mark.parametrize("path", PATHS)
def test_each_method_on_each_spelling_of_a_path_is_gated(runtime: Runtime, path: str) -> None:
    anonymous, keyed = runtime.anonymous(), runtime.client(token=False)

    for method in (*METHODS, "HEAD"):
        refused = anonymous.open(path, method=method)
        assert (refused.status_code, refused.headers["WWW-Authenticate"] is not None) == (401, True)
        assert keyed.open(path, method=method).status_code == 401  # its toggles want a token too
        assert (
            runtime.anonymous()
            .open(path, method=method, headers={"X-API-Key": "pk_test_wrong"})
            .status_code
            == 401
        )
    assert ran == []
    assert {
        runtime.client().open(path, method=method).status_code for method in (*METHODS, "HEAD")
    } == {200}
    assert len(ran) == 6


@pytest.mark.parametrize(
    "path",
    [
        "//v1/shop/",
        "/v1//shop/",
        "/v1/shop//",
        "/V1/shop/",
        "/v1/shop/items//",
        "/v1/shop/./",
        "/v1/x/../shop/",
        "/v1/shop;a/",
    ],
)
def test_another_spelling_of_a_path_runs_nothing(runtime: Runtime, path: str) -> None:
    for method in (*METHODS, "HEAD"):
        assert runtime.anonymous().open(path, method=method).status_code in {401, 404}
    assert ran == []


@pytest.mark.parametrize("origin", ["https://shop.example", "https://evil.example", "null", ""])
@pytest.mark.parametrize("asked", [*METHODS, "OPTIONS", ""])
def test_a_preflight_of_any_caller_runs_no_handler(
    runtime: Runtime, origin: str, asked: str
) -> None:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": asked,
        "Access-Control-Request-Headers": "authorization",
    }

    for client in (runtime.anonymous(), runtime.client()):
        for path in ("/v1/shop/", "/v1/reading/"):
            answered = client.options(
                path, headers={name: value for name, value in headers.items() if value}
            )
            assert answered.status_code == (204 if asked and path == "/v1/shop/" else 405)
            assert answered.headers.get("Access-Control-Allow-Origin") in {
                None,
                "https://shop.example",
            }
            assert not answered.data or answered.json["type"] == "method-not-allowed"
    assert ran == []


@pytest.mark.parametrize("header", OVERRIDES)
def test_a_header_or_parameter_that_names_another_method_is_not_obeyed(
    runtime: Runtime, header: str
) -> None:
    client = runtime.client()

    for method in (*METHODS, "HEAD"):
        client.open(
            f"/v1/shop/?_method={method}",
            method="POST",
            headers={header: method},
            data={"_method": method},
        )
        assert (
            client.open("/v1/reading/", method="POST", headers={header: "GET"}).status_code == 405
        )
        assert runtime.anonymous().post("/v1/shop/", headers={header: method}).status_code == 401
    assert ran == ["POST /v1/shop/"] * 6


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "Post", "OPTIONS", "*"])
def test_any_other_method_runs_nothing(runtime: Runtime, method: str) -> None:
    environ = {"REQUEST_METHOD": method}

    assert runtime.client().open("/v1/shop/", environ_overrides=environ).status_code == 405
    assert ran == []
