"""Changes to access reach every worker of a running server within a second."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.durable import until
from support.place import ACTOR, Place, Server

from penstock.access import api_keys, consumers, signing_keys, variables
from penstock.db.tables import EnvironmentRow
from penstock.db.unit_of_work import access_change

PLUGIN = """
import os, time
from penstock import Call, HttpTrigger, Pipeline, hookimpl

orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True))
strict = Pipeline("strict", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))

@orders.get("/")
@strict.get("/")
def show(call: Call) -> dict:
    return {"pid": os.getpid()}

@orders.get("/slow")
def slow(call: Call) -> dict:
    time.sleep(1.5)
    return {"slow": True}

@hookimpl
def penstock_pipelines():
    return [orders, strict]
"""
Serve = Callable[..., Server]
ENOUGH = 20  # calls before a change, and calls that begin later than a second after it
PAUSE_S = 0.02  # of each caller: the answers matter, not their number
BOTH_WORKERS = pytest.mark.parametrize("worker_class", ["penstock", "gthread"])


def prepared(place: Place) -> tuple[str, str]:
    """Return a key and its id that may call both pipelines."""
    place.plugin("shapes", PLUGIN)
    place.policy("api-key")
    place.consumer("acme", "orders", "strict")
    made = place.key("acme")
    return made.key, made.id


def hammer(
    server: Server,
    key: str,
    change: Callable[[], object],
    token: str | None = None,
    path: str = "/v1/orders/",
) -> list[tuple[float, int]]:
    """Call from several threads while a change is made; return (seconds after the change
    returned, status) of what came later."""
    done = threading.Event()
    seen: list[tuple[float, int]] = []
    headers = {"X-API-Key": key} | ({"Authorization": f"Bearer {token}"} if token else {})

    def calls() -> None:
        while not done.is_set():
            began = time.monotonic()
            # A new connection: any worker may take it.
            status = httpx.get(server.url + path, headers=headers, timeout=10).status_code
            seen.append((began, status))
            done.wait(PAUSE_S)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(calls)
        until(lambda: len(seen) >= ENOUGH)
        time.sleep(0.5)  # those calls began well before the change
        change()
        changed = time.monotonic()
        # Until enough calls began well after it: on a busy machine that takes longer.
        until(lambda: sum(began > changed + 1 for began, _ in list(seen)) >= ENOUGH)
        done.set()
    assert {status for began, status in seen if began < changed - 0.5} == {200}
    return [(began - changed, status) for began, status in seen if began > changed]


def late(seen: list[tuple[float, int]], status: int) -> None:
    after = {code for seconds, code in seen if seconds > 1}
    assert after == {status}, after


CHANGES = {
    "a revoked key": (lambda place, key_id: api_keys.revoke_key(place.engine, ACTOR, key_id), 401),
    "a disabled consumer": (
        lambda place, _: consumers.set_consumer_enabled(place.engine, ACTOR, "acme", enabled=False),
        403,
    ),
    "a dissociated consumer": (lambda place, _: place.dissociate("acme", "orders"), 403),
    "a disabled pipeline": (
        lambda place, _: place.enable("orders", enabled=False),
        503,
    ),
    "a stricter policy": (lambda place, _: place.policy("jwt-api-key"), 503),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_second_after_a_change_returns_no_worker_lets_a_call_through(
    place: Place, serve: Serve, change: str
) -> None:
    key, key_id = prepared(place)
    server = serve(place, workers=2)
    make, status = CHANGES[change]

    seen = hammer(server, key, lambda: make(place, key_id))

    late(seen, status)


def test_on_stock_gthread_too_a_revoked_key_ends_within_a_second(
    sqlite_place: Place, serve: Serve
) -> None:
    key, key_id = prepared(sqlite_place)
    server = serve(sqlite_place, workers=2, PENSTOCK_WORKER_CLASS="gthread")

    seen = hammer(server, key, lambda: api_keys.revoke_key(sqlite_place.engine, ACTOR, key_id))

    late(seen, 401)


NEEDY = """
from penstock import Call, HttpTrigger, Pipeline, PipelineError, hookimpl, secret

sync = Pipeline("sync", version="1.0.0", trigger=HttpTrigger(api_key=True), needs={"erp_url", secret("erp_token")})

@sync.get("/")
def ask(call: Call) -> str:
    if (call.variables["erp_url"], call.secrets["erp_token"].reveal()) != ("before", "before"):
        raise PipelineError(409, "Changed")
    return "as before"

@hookimpl
def penstock_pipelines():
    return [sync]
"""  # noqa: E501  text as it is
NEEDS = {
    "a variable's value": (
        lambda place: variables.set_variable(place.engine, ACTOR, "test", "erp_url", "after"),
        409,
    ),
    "a secret's value": (
        lambda place: variables.set_secret(
            place.engine, ACTOR, "test", "erp_token", "after", place.box
        ),
        409,
    ),
    "a variable that is gone": (
        lambda place: variables.unset_variable(place.engine, ACTOR, "test", "erp_url"),
        503,
    ),
    "a secret that is gone": (
        lambda place: variables.unset_secret(place.engine, ACTOR, "test", "erp_token"),
        503,
    ),
}


@pytest.mark.parametrize("change", NEEDS)
def test_a_second_after_a_change_no_worker_runs_a_pipeline_with_what_was_set_before(
    place: Place, serve: Serve, change: str
) -> None:
    key, _ = prepared(place)
    place.plugin("needy", NEEDY)
    place.associate("acme", "sync")
    variables.set_variable(place.engine, ACTOR, "test", "erp_url", "before")
    variables.set_secret(place.engine, ACTOR, "test", "erp_token", "before", place.box)
    server = serve(place, workers=2)
    make, status = NEEDS[change]

    seen = hammer(server, key, lambda: make(place), path="/v1/sync/")

    late(seen, status)


def test_revoked_tokens_and_dropped_signing_keys_end_sessions_within_a_second(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key, _ = prepared(place)
    server = serve(place, workers=2)

    seen = hammer(
        server,
        key,
        lambda: signing_keys.revoke_tokens(place.engine, ACTOR, "test", consumer="acme"),
        place.token("acme", now=time.time() - 5),
        "/v1/strict/",
    )
    late(seen, 401)
    kid = str(signing_keys.list_signing_keys(place.engine, "test")[0].kid)
    seen = hammer(
        server,
        key,
        lambda: signing_keys.drop_signing_key(place.engine, ACTOR, "test", kid, place.box),
        place.token("acme", now=time.time() + 2),
        "/v1/strict/",
    )
    late(seen, 401)


def test_a_rotated_signing_key_ends_no_session_and_both_keys_are_published(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key, _ = prepared(place)
    server = serve(place)
    token = place.token("acme")

    signing_keys.rotate_signing_key(place.engine, ACTOR, "test", place.box, algorithm="ES256")
    time.sleep(1)

    assert server.call("GET", "/v1/strict/", key=key, token=token).status_code == 200
    assert server.call("GET", "/v1/strict/", key=key, token=place.token("acme")).status_code == 200
    assert {item["alg"] for item in server.client.get("/.well-known/jwks.json").json()["keys"]} == {
        "EdDSA",
        "ES256",
    }


def test_calls_are_answered_while_the_database_is_away_then_end_at_the_staleness_bound(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key, _ = prepared(place)
    server = serve(place, PENSTOCK_MAX_STALENESS="3")
    assert server.call("GET", "/-/ready").status_code == 200

    with access_change(place.engine) as rows:
        rows.set(
            EnvironmentRow, {EnvironmentRow.name: "test"}, {EnvironmentRow.name: "gone"}
        )  # what can't be read is away
    time.sleep(1.6)

    assert server.call("GET", "/v1/orders/", key=key).status_code == 200
    assert server.call("GET", "/-/ready").json()["checks"]["database"] != "ok"
    time.sleep(2.5)
    assert server.call("GET", "/v1/orders/", key=key).json()["type"] == "pipeline-unavailable"
    assert server.call("GET", "/-/ready").status_code == 503
    with access_change(place.engine) as rows:
        rows.set(EnvironmentRow, {EnvironmentRow.name: "gone"}, {EnvironmentRow.name: "test"})
    time.sleep(1)
    assert server.call("GET", "/v1/orders/", key=key).status_code == 200


@BOTH_WORKERS
def test_a_graceful_stop_lets_calls_in_flight_end(
    sqlite_place: Place, serve: Serve, worker_class: str
) -> None:
    place = sqlite_place
    key, _ = prepared(place)
    server = serve(place, PENSTOCK_WORKER_CLASS=worker_class)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(
            httpx.get, f"{server.url}/v1/orders/slow", headers={"X-API-Key": key}, timeout=20
        )
        time.sleep(0.5)

        code = server.stop()

        assert slow.result().json() == {"slow": True}
        if worker_class == "penstock":  # stock gunicorn closes the connection without a warning
            assert slow.result().headers["Connection"] == "close"
    assert code == 0


@BOTH_WORKERS
def test_a_hangup_loads_plugins_anew_without_dropping_a_call(
    sqlite_place: Place, serve: Serve, worker_class: str
) -> None:
    place = sqlite_place
    key, _ = prepared(place)
    server = serve(place, workers=2, PENSTOCK_WORKER_CLASS=worker_class)
    plugin = place.folder / "plugins" / "shapes.py"
    statuses: list[int] = []
    done = threading.Event()

    def calls() -> None:
        while not done.is_set():
            statuses.append(
                httpx.get(
                    f"{server.url}/v1/orders/", headers={"X-API-Key": key}, timeout=10
                ).status_code
            )

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(calls) for _ in range(3)]
        time.sleep(0.3)
        plugin.write_text(PLUGIN.replace('"pid": os.getpid()', '"edition": 2'), encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        while server.log.read_text().count("Worker exiting") < 2:
            time.sleep(0.1)
        done.set()
        for call in running:
            call.result()
    assert set(statuses) == {200}
    assert server.call("GET", "/v1/orders/", key=key).json() == {"edition": 2}


def test_a_hangup_that_can_not_start_leaves_the_workers_as_they_are(
    sqlite_place: Place, serve: Serve
) -> None:
    key, _ = prepared(sqlite_place)
    server = serve(sqlite_place, workers=2, PENSTOCK_STRICT="true")
    plugin = sqlite_place.folder / "plugins" / "shapes.py"
    pid = server.call("GET", "/v1/orders/", key=key).json()["pid"]
    # Else the second worker would load what comes next.
    while server.log.read_text().count('"event": "loaded"') < 2:
        time.sleep(0.05)

    plugin.write_text(PLUGIN.replace("api_key=True", "api_key=False"), encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    for _ in range(100):
        if "not reloaded" in server.log.read_text():
            break
        time.sleep(0.1)

    assert (
        "PENSTOCK_STRICT is on and not everything can be served: v1/orders"
        in server.log.read_text()
    )
    assert pid in {
        httpx.get(f"{server.url}/v1/orders/", headers={"X-API-Key": key}, timeout=10).json()["pid"]
        for _ in range(30)
    }

    plugin.write_text(PLUGIN.replace('"pid": os.getpid()', '"edition": 2'), encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    for _ in range(100):
        if httpx.get(f"{server.url}/v1/orders/", headers={"X-API-Key": key}, timeout=10).json() == {
            "edition": 2
        }:
            break
        time.sleep(0.1)

    assert httpx.get(f"{server.url}/v1/orders/", headers={"X-API-Key": key}, timeout=10).json() == {
        "edition": 2
    }


def test_a_well_formed_request_id_is_echoed_and_any_other_is_not(
    sqlite_place: Place, serve: Serve
) -> None:
    key, _ = prepared(sqlite_place)
    server = serve(sqlite_place)

    def echoed(sent: str) -> str | None:
        return server.call(
            "GET", "/v1/orders/", key=key, headers={"X-Request-Id": sent}
        ).headers.get("x-request-id")

    assert [echoed(sent) for sent in ("order-77f3a1b2", "<script>alert(1)</script>", "x")] == [
        "order-77f3a1b2",
        None,
        None,
    ]


def test_last_use_of_a_key_is_kept(sqlite_place: Place, serve: Serve) -> None:
    place = sqlite_place
    key, key_id = prepared(place)
    server = serve(place)
    server.call("GET", "/v1/orders/", key=key)
    server.stop()

    (row,) = [row for row in api_keys.list_keys(place.engine) if row.id == key_id]

    assert row.last_used_at is not None


def test_requests_sent_together_on_one_connection_have_one_answer_each_at_most_on_stock_gthread(
    sqlite_place: Place, serve: Serve
) -> None:
    """Stock gunicorn loses pipelined requests (docs/explanation/server.md). A call that it loses
    has no effect, and the connection ends behind a rejected body."""
    key, _ = prepared(sqlite_place)
    server = serve(sqlite_place, PENSTOCK_WORKER_CLASS="gthread")
    rejected = b'POST /v1/orders/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{"a":1}'
    good = b"GET /v1/orders/ HTTP/1.1\r\nHost: x\r\nX-API-Key: " + key.encode()

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(rejected + good + b"\r\n\r\n" + good + b"\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"405"]
    assert b"Connection: close" in received


def test_requests_sent_together_on_one_connection_all_get_their_answers(
    sqlite_place: Place, serve: Serve
) -> None:
    """gunicorn's own worker forgets a request that it read ahead; callers of refused POSTs would
    hang now and then."""
    key, _ = prepared(sqlite_place)
    server = serve(sqlite_place)
    refused = b'POST /v1/orders/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{"a":1}'
    good = b"GET /v1/orders/ HTTP/1.1\r\nHost: x\r\nX-API-Key: " + key.encode()

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            (refused + good + b"\r\n\r\n") * 500 + good + b"\r\nConnection: close\r\n\r\n"
        )
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"405", b"200"] * 500 + [b"200"]
