"""A server that stops while calls are under way: each has one answer, which says what is known
of it."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from support.durable import until
from support.place import Place, Server

Serve = Callable[..., Server]

PLUGIN = """
import time
from penstock import Call, HttpTrigger, Pipeline, hookimpl

slow = Pipeline("slow", version="1.0.0", trigger=HttpTrigger(timeout=200))
kept = Pipeline("kept", version="1.0.0", trigger=HttpTrigger(timeout=200, api_key=True))

@slow.get("/{seconds}")
def wait(call: Call, seconds: float):
    time.sleep(seconds)
    return {"run": call.run}

@slow.post("/")
def read(call: Call, body: bytes):
    return {"bytes": len(body)}

@kept.post("/", mode="durable")
def work(call: Call):
    time.sleep(100)

@hookimpl
def penstock_pipelines(): return [slow, kept]
"""
SLOW_IN_WORKERS = """
import os, signal, time
if os.path.exists(__file__ + ".slow") and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
    time.sleep(8)  # and not where a start is rehearsed
"""
GRACE = {"PENSTOCK_GRACEFUL_TIMEOUT": "4"}
MAYBE = "The host stopped before the call ended. The call may or may not have been performed."

# What stock gunicorn does not promise.
OURS = pytest.mark.parametrize("serve", ["penstock"], indirect=True)


@pytest.fixture(params=["penstock", "gthread"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(
            Server(*args, **more, PENSTOCK_WORKER_CLASS=request.param)
        )


@pytest.fixture
def open_place(sqlite_place: Place) -> Place:
    sqlite_place.policy("any")
    sqlite_place.plugin("slow", PLUGIN)
    return sqlite_place


def dial(server: Server, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(sent)
    return connection


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def rest(connection: socket.socket) -> bytes:
    """Return what still comes; a connection that is reset raises."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_call_that_outlasts_the_graceful_timeout_is_answered(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place, **GRACE)
    connection = dial(server, get("/v1/slow/100"))
    time.sleep(0.5)

    server.process.send_signal(signal.SIGTERM)
    head, _, body = rest(connection).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nContent-Type: application/problem+json" in head
    assert b"\r\nConnection: close" in head
    problem = json.loads(body)
    assert (problem["type"], problem["detail"]) == ("host-stopping", MAYBE)
    assert server.process.wait(20) == 0
    assert "SIGKILL" not in server.log.read_text()
    run = json.loads(open_place.run("runs", "show", problem["run"], "--format", "json").stdout)
    assert (run["status"], run["http_status"], run["problem"]) == ("failed", 503, "host-stopping")
    assert (run["detail"], run["failure"]["frames"][-1]["function"]) == (MAYBE, "wait")


def test_a_reload_does_the_same(open_place: Place, serve: Serve) -> None:
    server = serve(open_place, **GRACE)
    connection = dial(server, get("/v1/slow/100"))
    time.sleep(0.5)

    server.process.send_signal(signal.SIGHUP)
    received = rest(connection)

    assert received.startswith(b"HTTP/1.1 503 ")
    assert server.call("GET", "/v1/slow/0").status_code == 200


def test_calls_that_end_as_they_are_answered_have_one_answer(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place, threads=40, **GRACE)
    # They end from 1 s before the host answers them until 1 s after that.
    held = [dial(server, get(f"/v1/slow/{1.5 + number / 20}")) for number in range(40)]
    time.sleep(0.5)

    server.process.send_signal(signal.SIGTERM)
    with ThreadPoolExecutor(len(held)) as pool:
        received = list(pool.map(rest, held))

    statuses = [re.findall(rb"HTTP/1\.1 (\d+)", text) for text in received]
    assert {tuple(found) for found in statuses} == {(b"200",), (b"503",)}
    for text in received:
        head, _, body = text.partition(b"\r\n\r\n")
        assert int(re.findall(rb"Content-Length: (\d+)", head)[0]) == len(body)


@OURS
@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"GET /v1/slow/0 HTTP/1.1\r\nHo", "The host is stopping. The request had not arrived."),
        (
            b"POST /v1/slow/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
            "The host is stopping. The call was not performed: its body had not arrived.",
        ),
    ],
)
def test_what_has_not_arrived_is_answered_too(
    open_place: Place, serve: Serve, sent: bytes, detail: str
) -> None:
    server = serve(open_place, **GRACE)
    connection = dial(server, sent)
    time.sleep(0.5)

    server.process.send_signal(signal.SIGTERM)
    head, _, body = rest(connection).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nConnection: close" in head
    assert (json.loads(body)["type"], json.loads(body)["detail"]) == ("host-stopping", detail)
    assert server.process.wait(20) == 0


def test_a_caller_that_waits_for_a_durable_run_gets_its_location(
    open_place: Place, serve: Serve
) -> None:
    open_place.consumer("acme", "kept")
    key = open_place.key("acme").key
    server = serve(open_place, **GRACE)
    sent = (
        "POST /v1/kept/ HTTP/1.1\r\nHost: x\r\nPrefer: wait=100\r\nContent-Length: 0\r\nX-API-Key:"
        f" {key}\r\n\r\n"
    )
    connection = dial(server, sent.encode())
    time.sleep(0.5)

    server.process.send_signal(signal.SIGTERM)
    received = rest(connection)

    assert received.startswith(b"HTTP/1.1 202 ")
    assert b"\r\nLocation: /v1/kept/runs/" in received


@OURS
@pytest.mark.parametrize("grace", ["4", "30"])
def test_an_idle_connection_is_not_reset(open_place: Place, serve: Serve, grace: str) -> None:
    server = serve(open_place, PENSTOCK_GRACEFUL_TIMEOUT=grace)
    with dial(server, get("/v1/slow/0")) as connection:
        first = connection.recv(65536)

        server.process.send_signal(signal.SIGTERM)
        ended = connection.recv(65536)
        # They crossed the end of the connection; after a reset the second one fails.
        for _ in range(2):
            connection.sendall(get("/v1/slow/0"))
            time.sleep(0.2)

        assert first.startswith(b"HTTP/1.1 200 ")
        assert (ended, rest(connection)) == (b"", b"")


def test_connections_end_with_their_next_reply_while_a_host_drains(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place, PENSTOCK_DRAIN_DELAY="2")
    before = server.call("GET", "/v1/slow/0")

    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.client.get("/-/ready").status_code == 503)

    assert before.headers["Connection"] == "keep-alive"
    assert server.call("GET", "/v1/slow/0").headers["Connection"] == "close"


def test_a_stop_within_a_reload_leaves_workers_that_answer(open_place: Place, serve: Serve) -> None:
    open_place.plugin("slow", SLOW_IN_WORKERS + PLUGIN)
    server = serve(open_place, PENSTOCK_DRAIN_DELAY="3")
    (open_place.folder / "plugins" / "slow.py.slow").touch()

    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.log.read_text().count("Booting worker") == 2)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(1)

    assert httpx.get(f"{server.url}/v1/slow/0", timeout=6).status_code == 200


def test_a_stop_within_a_reload_does_not_wait_for_the_calls_of_old_workers(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place, PENSTOCK_DRAIN_DELAY="3")
    connection = dial(server, get("/v1/slow/8"))
    time.sleep(0.5)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.log.read_text().count('"event": "loaded"') == 2)
    time.sleep(1)  # the old worker is stopping, and waits for its call

    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.client.get("/-/ready").status_code == 503, 3)

    assert rest(connection).startswith(b"HTTP/1.1 200 ")
