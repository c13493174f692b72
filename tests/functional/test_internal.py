"""The internal listener: every route on each listener, and a policy of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from support.place import Place, Server
from support.services import free_port

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

def made(name, **trigger):
    pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(**trigger))
    pipeline.get("/")(lambda call: {"pipeline": call.pipeline, "consumer": call.caller.consumer})
    return pipeline

@hookimpl
def penstock_pipelines():
    return [
        made("outside", api_key=True, jwt=True),
        made("inside", external=False, internal=True, api_key=True),
        made("both", internal=True, api_key=True, jwt=True),
        made("neither", external=False),
        made("bare", external=False, internal=True),
        made("half", internal=True, api_key=True),
    ]
"""
NAMES = ("outside", "inside", "both", "neither", "bare", "half")


@pytest.fixture
def ready(place: Place) -> Place:
    place.plugin("listeners", PLUGIN)
    place.consumer("acme", *NAMES)
    return place


def statuses(base: str, names: tuple[str, ...] = NAMES, **headers: str) -> dict[str, int]:
    return {
        name: httpx.get(f"{base}/v1/{name}/", headers=headers, timeout=10).status_code
        for name in names
    }


def test_each_route_on_each_listener(ready: Place, serve: Serve) -> None:
    port = free_port()
    key, token = ready.key("acme").key, ready.token("acme")
    server = serve(ready, workers=2, PENSTOCK_INTERNAL_BIND=f"127.0.0.1:{port}")
    inside = f"http://127.0.0.1:{port}"
    keys = {"X-API-Key": key}
    both = keys | {"Authorization": f"Bearer {token}"}

    # outside under jwt-api-key, inside under api-key: the defaults
    expected = {
        "outside": 200,
        "inside": 404,
        "both": 200,
        "neither": 404,
        "bare": 404,
        "half": 503,
    }
    assert statuses(server.url, **both) == expected
    assert statuses(server.url, **keys) == expected | {"outside": 401, "both": 401}
    expected = {
        "outside": 404,
        "inside": 200,
        "both": 200,
        "neither": 404,
        "bare": 503,
        "half": 200,
    }
    assert statuses(inside, **both) == expected
    assert statuses(inside, **keys) == expected | {"both": 401}
    assert statuses(inside) == expected | {"inside": 401, "both": 401, "half": 401}


def test_nothing_that_a_caller_sends_makes_a_call_internal(ready: Place, serve: Serve) -> None:
    port = free_port()
    key = ready.key("acme").key
    server = serve(
        ready, PENSTOCK_INTERNAL_BIND=f"127.0.0.1:{port}", PENSTOCK_TRUSTED_PROXIES="127.0.0.1"
    )

    for headers in (
        {"Host": f"127.0.0.1:{port}"},
        {
            "X-Forwarded-Host": f"127.0.0.1:{port}",
            "X-Forwarded-Port": str(port),
            "Forwarded": f"for=127.0.0.1;host=127.0.0.1:{port}",
        },
        {"Penstock-Internal": "true", "Penstock.Internal": "true", "penstock_internal": "true"},
        {"X-Original-URL": "/v1/inside/", "X-Internal": "1"},
    ):
        assert statuses(server.url, ("inside", "neither"), **headers, **{"X-API-Key": key}) == {
            "inside": 404,
            "neither": 404,
        }
    assert statuses(server.url, ("inside",), **{"Host": "localhost", "X-API-Key": key}) == {
        "inside": 404
    }


def test_the_internal_policy_is_set_live_and_for_itself(ready: Place, serve: Serve) -> None:
    port = free_port()
    keys = {"X-API-Key": ready.key("acme").key}
    server = serve(ready, PENSTOCK_INTERNAL_BIND=f"127.0.0.1:{port}")
    inside = f"http://127.0.0.1:{port}"

    preview = ready.run("policy", "set", "test", "jwt-api-key", "--internal", "--dry-run")
    assert "test (internal): api-key -> jwt-api-key" in preview.stdout
    assert "stops: v1/inside" in preview.stdout
    assert ready.run("policy", "set", "test", "any", "--internal", "--yes").returncode == 0
    for _ in range(200):
        if (found := statuses(inside, ("bare", "inside"))) == {"bare": 200, "inside": 401}:
            break
        time.sleep(0.02)
    assert found == {"bare": 200, "inside": 401}
    assert statuses(server.url, ("both", "half"), **keys) == {"both": 401, "half": 503}
    assert ready.run("policy", "set", "test", "jwt-api-key", "--internal", "--yes").returncode == 0
    for _ in range(200):
        if (found := statuses(inside, ("bare", "inside"), **keys)) == {"bare": 503, "inside": 503}:
            break
        time.sleep(0.02)
    assert found == {"bare": 503, "inside": 503}
    refused = ready.run("policy", "set", "test", "any", "--internal", "--grace", "7d")
    assert (refused.returncode, "has no grace period" in refused.stderr) == (2, True)
    assert "internal" in ready.run("policy", "show", "test").stdout


def test_check_and_listings_know_both(ready: Place) -> None:
    checked = ready.run("check", "--env", "test")
    listed = ready.run("pipelines", "--env", "test", "--format", "json").stdout

    assert checked.returncode == 1
    assert (
        "blocked: v1/bare (internal): the internal policy 'api-key' of environment 'test' requires"
        " api_key=True, which is off; set api_key=True" in checked.stdout
    )
    assert "blocked: v1/half: the policy 'jwt-api-key'" in checked.stdout
    assert listed.count('"exposure": "internal"') == 4
    assert listed.count('"exposure": "external"') == 3
    assert listed.count('"exposure": "none"') == 1


def test_each_listener_describes_its_own(ready: Place, serve: Serve) -> None:
    port = free_port()
    server = serve(ready, PENSTOCK_INTERNAL_BIND=f"127.0.0.1:{port}", PENSTOCK_OPENAPI="true")

    def paths(base: str) -> set[str]:
        return set(httpx.get(f"{base}/-/openapi.json", timeout=10).json()["paths"])

    for _ in range(2):
        assert paths(server.url) == {"/v1/outside", "/v1/both"}
        assert paths(f"http://127.0.0.1:{port}") == {"/v1/inside", "/v1/both", "/v1/half"}


def test_the_internal_listener_may_be_a_local_socket(
    ready: Place, serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "in.sock"
    key = ready.key("acme").key
    server = serve(ready, PENSTOCK_INTERNAL_BIND=f"unix:{path}")

    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)),
        base_url="http://x",
        headers={"X-API-Key": key},
    ) as client:
        assert [client.get(f"/v1/{name}/").status_code for name in ("inside", "outside")] == [
            200,
            404,
        ]
    assert statuses(server.url, ("inside",), **{"X-API-Key": key}) == {"inside": 404}


def test_without_an_internal_listener_they_are_not_reachable_and_the_log_says_so(
    ready: Place, serve: Serve
) -> None:
    key = ready.key("acme").key
    server = serve(ready)

    assert statuses(server.url, ("inside",), **{"X-API-Key": key}) == {"inside": 404}
    assert "internal pipelines are not reachable" in server.log.read_text()


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:{port}", "0.0.0.0:{port}", "nonsense", "fd://3", "127.0.0.1:99999"]
)
def test_listeners_that_could_be_mixed_up_end_the_start(ready: Place, bind: str) -> None:
    port = free_port()

    done = ready.run(
        "serve", "--bind", f"127.0.0.1:{port}", "--internal-bind", bind.format(port=port)
    )

    assert (done.returncode, "PENSTOCK_INTERNAL_BIND must" in done.stderr) == (3, True)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.parametrize("path", ["/-/status", "/-/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE", "PROPFIND"])
def test_no_method_tells_the_outside_that_a_path_of_operators_is_there(
    sqlite_place: Place, serve: Callable[..., Server], path: str, method: str
) -> None:
    inside = f"127.0.0.1:{free_port()}"
    server = serve(sqlite_place, PENSTOCK_INTERNAL_BIND=inside)

    def statuses(url: str) -> list[int]:
        return [
            httpx.request(method, f"{url}{item}", timeout=20).status_code
            for item in (path, path.replace("/-/", "/-//"), "/-/nothing")
        ]

    assert statuses(server.url) == [404, 404, 404]
    assert statuses(f"http://{inside}")[0] == (200 if method in {"GET", "HEAD"} else 405)
