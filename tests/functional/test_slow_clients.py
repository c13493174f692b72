"""Clients that are slow, silent or greedy: they hold no thread, and others are
answered meanwhile."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from functional.test_time_limit import certificate
from support.place import Place, Server

Serve = Callable[..., Server]
THREADS = 4
MANY = 30  # more than the server has threads

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

shop = Pipeline("shop", version="1.0.0", trigger=HttpTrigger(max_body=100_000_000))
quick = Pipeline("quick", version="1.0.0", trigger=HttpTrigger(api_key=True))

@shop.post("/")
def take(call: Call, body: bytes): return {"bytes": len(body)}

@shop.get("/large")
def large(call: Call): return b"x" * 3_000_000

@quick.get("/")
def answer(call: Call): return {}

@hookimpl
def penstock_pipelines(): return [shop, quick]
"""
GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n%b\r\n\r\n"
FORM = POST.replace(b"octet-stream", b"x-www-form-urlencoded")

HELD = {
    "silence": b"",
    "an empty line": b"\r\n",
    "empty lines": b"\r\n" * 3,
    "half a request line": b"GE",
    "half a head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "a head without an end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
    "no request": b"\x16\x03\x01\x02\x00",
    "a body without a reader": POST % (b"/v1/nowhere/", b"Content-Length: 1000"),
    "a large body without a reader": POST % (b"/v1/nowhere/", b"Content-Length: 100000000000"),
    "chunks without a reader": POST % (b"/-/health", b"Transfer-Encoding: chunked") + b"5\r\nab",
    "a body without credentials": POST % (b"/v1/quick/", b"Content-Length: 1000"),
    "half a body": POST % (b"/v1/shop/", b"Content-Length: 1000") + b"half",
    "half a chunked body": POST % (b"/v1/shop/", b"Transfer-Encoding: chunked") + b"400\r\nhalf",
    "a body after 100 Continue": (
        POST % (b"/v1/shop/", b"Content-Length: 1000\r\nExpect: 100-continue")
    ),
    "half a sign-in": FORM % (b"/-/console/sign-in", b"Content-Length: 500") + b"na",
    "a page that is not read": GET % b"/-/docs/console.css" * 200,
    "a reply that is not read": GET % b"/v1/shop/large" * 4,
    "many replies that are not read": GET % b"/-/health" * 2000,
    "half of the next request": GET % b"/-/health" + b"GET / HT",
}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, upgraded_file: Path
) -> Iterator[tuple[Server, str]]:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "a.db").write_bytes(upgraded_file.read_bytes())
    place = Place.make(f"sqlite:///{folder}/a.db", folder)
    place.policy("any")
    place.plugin("shop", PLUGIN)
    place.consumer("acme", "quick")
    key = place.key("acme").key
    with Server(place, threads=THREADS, PENSTOCK_CONSOLE="true") as started:
        started.call("GET", "/v1/quick/", key=key)
        yield started, key
    place.engine.dispose()


def threads_of(server: Server) -> int:
    """Return how many threads the process has that serves connections."""
    found = subprocess.run(
        ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    below = subprocess.run(
        ["pgrep", "-P", found[0]], capture_output=True, text=True, check=True
    ).stdout.split()
    return len(list(Path(f"/proc/{below[0]}/task").iterdir()))


@contextmanager
def held(port: int, sent: bytes, *, end: bool = False) -> Iterator[list[socket.socket]]:
    """Open connections that send that and then nothing, reading nothing."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(MANY)
        ]
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(0.5)
            with suppress(OSError):
                connection.sendall(sent)
                if end:
                    connection.shutdown(socket.SHUT_WR)
        yield connections


@pytest.mark.parametrize("end", [False, True], ids=["open", "half closed"])
@pytest.mark.parametrize("sent", HELD.values(), ids=HELD)
def test_no_client_holds_a_thread(server: tuple[Server, str], sent: bytes, end: bool) -> None:
    started, key = server
    with held(started.port, sent, end=end), httpx.Client(base_url=started.url, timeout=5) as fresh:
        answered = [
            fresh.get("/v1/quick/", headers={"X-API-Key": key, "Connection": "close"}).status_code
            for _ in range(5)
        ]
        healthy = fresh.get("/-/health").status_code

    assert (answered, healthy) == ([200] * 5, 200)


def test_readers_that_stopped_are_many_more_than_threads_and_cost_none(
    server: tuple[Server, str],
) -> None:
    started, _ = server
    with held(started.port, GET % b"/-/docs/console.css" * 200):
        time.sleep(0.5)
        # Its own few: they follow the database, write records, keep time limits.
        assert threads_of(started) <= THREADS + 12


def test_a_reader_that_pauses_gets_all_of_it(server: tuple[Server, str]) -> None:
    started, _ = server
    with socket.create_connection(("127.0.0.1", started.port), timeout=10) as connection:
        connection.sendall(
            GET % b"/v1/shop/large" * 4
            + b"GET /v1/shop/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        received = b""
        for data in iter(lambda: connection.recv(1_000_000), b""):
            received += data
            time.sleep(0.02)

    assert received.count(b"HTTP/1.1 200 OK") == 5
    assert received.count(b"x" * 3_000_000) == 5


def test_a_body_that_dribbles_in_arrives(server: tuple[Server, str]) -> None:
    started, _ = server
    with socket.create_connection(("127.0.0.1", started.port), timeout=10) as connection:
        connection.sendall(POST % (b"/v1/shop/", b"Content-Length: 200000"))
        for _ in range(20):
            connection.sendall(b"x" * 10_000)
            time.sleep(0.02)
        assert b'{"bytes":200000}' in connection.recv(1000)


def test_the_client_gets_100_continue_once_its_call_is_admitted_and_not_before(
    server: tuple[Server, str],
) -> None:
    started, _ = server

    def answer(path: bytes, length: int) -> bytes:
        with socket.create_connection(("127.0.0.1", started.port), timeout=10) as connection:
            connection.sendall(
                POST % (path, b"Content-Length: %d\r\nExpect: 100-continue" % length)
            )
            return connection.recv(1000).split()[1]

    assert answer(b"/v1/shop/", 5) == b"100"
    assert answer(b"/v1/shop/", 100_000_001) == b"413"
    assert answer(b"/v1/quick/", 5) == b"405"
    assert answer(b"/v1/nowhere/", 5) == b"404"
    assert answer(b"/-/console/users/new", 5) == b"401"


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/-/console/sign-in", "application/x-www-form-urlencoded", 413),
        ("/-/console/sign-in", "multipart/form-data; boundary=x", 413),
        ("/-/console/users/new", "application/x-www-form-urlencoded", 401),
        ("/-/health", "application/json", 405),
        ("/-/docs", "application/json", 405),
        ("/-/openapi.json", "application/json", 405),
        ("/-/nowhere", "application/json", 404),
        ("/.well-known/jwks.json", "application/json", 405),
    ],
)
@pytest.mark.parametrize("framing", ["Content-Length: 100000000000", "Transfer-Encoding: chunked"])
def test_a_body_of_any_size_is_refused_before_it_is_read(
    server: tuple[Server, str], path: str, kind: str, status: int, framing: str
) -> None:
    started, _ = server
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode()
    sent, piece = 0, b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", started.port), timeout=10) as connection:
        connection.sendall(head)
        connection.settimeout(0.02)
        received = b""
        while not received and sent < 8_000_000:
            with suppress(TimeoutError):
                sent += connection.send(piece)
            with suppress(TimeoutError):
                received = connection.recv(1000)

    assert received.partition(b"\r\n")[0].split()[1] == str(status).encode()
    assert b"Connection: close" in received
    assert sent < 4_000_000


def test_more_connections_than_there_is_room_for_leave_room(
    sqlite_place: Place, serve: Serve
) -> None:
    sqlite_place.policy("any")
    sqlite_place.plugin("shop", PLUGIN)
    server = serve(sqlite_place, GUNICORN_CMD_ARGS="--worker-connections 20")
    with ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=5)
            )
            if number % 2:
                connection.sendall(b"GET / HTTP/1.1\r\nHost")
        for _ in range(5):
            assert httpx.get(f"{server.url}/-/health", timeout=5).status_code == 200


def test_slow_clients_hold_no_thread_where_tls_ends_here(sqlite_place: Place, serve: Serve) -> None:
    sqlite_place.policy("any")
    sqlite_place.plugin("shop", PLUGIN)
    cert, key = certificate(sqlite_place.folder)
    server = serve(
        sqlite_place,
        wait=False,
        threads=THREADS,
        GUNICORN_CMD_ARGS=f"--certfile {cert} --keyfile {key}",
    )
    trust = ssl.create_default_context(cafile=str(cert))
    url = f"https://localhost:{server.port}/-/health"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(httpx.TransportError):
            httpx.get(url, verify=trust, timeout=5)
            break
        time.sleep(0.1)
    kinds = [
        "silence",
        "half a head",
        "half a body",
        "a body without a reader",
        "a reply that is not read",
        "a page that is not read",
    ]
    with ExitStack() as stack:
        for number in range(6):
            stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=5)
            ).sendall(b"\x16\x03\x01"[:number])
        for kind in kinds:
            for _ in range(6):
                plain = socket.create_connection(("127.0.0.1", server.port), timeout=5)
                connection = stack.enter_context(
                    trust.wrap_socket(plain, server_hostname="localhost")
                )
                connection.sendall(HELD[kind])
        answered = [httpx.get(url, verify=trust, timeout=5).status_code for _ in range(5)]

    assert answered == [200] * 5
    assert "Traceback" not in server.log.read_text()
