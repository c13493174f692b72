"""What comes over the wire in odd shapes: framing, oversized and unreadable requests."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.place import Place, Server

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, Reply, hookimpl

sizes = Pipeline("sizes", version="1.0.0", trigger=HttpTrigger(max_body=100_000))

@sizes.post("/")
def take(call: Call, body: bytes): return {"bytes": len(body)}

@sizes.get("/none")
def none(call: Call): return None

@sizes.get("/same")
def same(call: Call): return Reply(304, {"ETag": '"1"'})

@sizes.get("/headers")
def headers(call: Call): return dict(call.headers)

@hookimpl
def penstock_pipelines(): return [sizes]
"""


# What stock gunicorn does not promise.
OURS = pytest.mark.parametrize("server", ["penstock"], indirect=True)


@pytest.fixture(scope="module", params=["penstock", "gthread"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upgraded_file: Path
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("wire")
    (folder / "a.db").write_bytes(upgraded_file.read_bytes())
    place = Place.make(f"sqlite:///{folder}/a.db", folder)
    place.policy("any")
    place.plugin("sizes", PLUGIN)
    with Server(place, PENSTOCK_WORKER_CLASS=request.param) as started:
        yield started
    place.engine.dispose()


def exchange(server: Server, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /v1/sizes/ HTTP/1.1", b"Host: x", *fields, b"", b""]) + body


def test_chunked_bodies_are_taken_up_to_the_limit(server: Server) -> None:
    def chunked(size: int) -> int:
        return server.client.post(
            "/v1/sizes/", content=(b"x" * 1000 for _ in range(size // 1000))
        ).status_code

    assert (chunked(100_000), chunked(101_000)) == (200, 413)


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"-1\r\nabc\r\n0\r\n\r\n"],
    ids=["no size", "longer than its size", "negative size"],
)
def test_broken_chunks_are_the_caller_s_fault_and_end_the_connection(
    server: Server, body: bytes
) -> None:
    received = exchange(
        server, post(b"Transfer-Encoding: chunked", body=body) + post(b"Content-Length: 0")
    )

    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"400"]
    assert b'"body-malformed"' in received


@OURS
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
        (post(b"Content-Length: -3"), 400),
        (post(b"Content-Length: 1", b"Content-Length: 2", body=b"ab"), 400),
        (post(b"Bad Name: x"), 400),
        (post(b"X: " + b"a" * 20_000), 431),
        (b"GET /?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /v1/sizes/?api_key=pk_test_secret\r\n\r\n", 400),
        (b"GET /v1/sizes/?api_key=pk_test_secret HTTP/7.7\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_what_is_no_http_is_refused_as_a_problem_and_not_repeated_in_the_log(
    server: Server, sent: bytes, status: int
) -> None:
    received = exchange(server, sent)
    head, _, body = received.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert json.loads(body)["type"] == "request-rejected"
    assert "pk_test_secret" not in server.log.read_text() + received.decode()
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "field",
    [
        b"SCRIPT_NAME: /v1",
        b"PATH_INFO: /v1/sizes/",
        b"Script-Name: /v1",
        b"X-Forwarded-Prefix: /v1",
    ],
)
def test_no_header_rewrites_the_path(server: Server, field: bytes) -> None:
    elsewhere = exchange(
        server, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + field + b"\r\n\r\n"
    )
    here = exchange(server, post(b"Connection: close", b"Content-Length: 0", field))

    assert elsewhere.startswith(b"HTTP/1.1 404")
    assert here.startswith(b"HTTP/1.1 200")


@OURS
def test_a_reply_without_a_body_has_no_length_and_the_connection_stays_open(server: Server) -> None:
    def get(path: bytes, *fields: bytes) -> bytes:
        return b"\r\n".join(
            [b"GET /v1/sizes/" + path + b" HTTP/1.1", b"Host: x", *fields, b"", b""]
        )

    received = exchange(server, get(b"none") + get(b"same") + get(b"none", b"Connection: close"))

    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"204", b"304", b"204"]
    assert not re.search(rb"(?i)content-length|transfer-encoding", received)


def test_a_client_that_only_sees_its_upload_refused_still_reads_why(server: Server) -> None:
    answers = [server.client.post("/v1/sizes/", content=b"x" * 5_000_000).json() for _ in range(3)]

    assert [(answer["type"], answer["limit"]) for answer in answers] == [
        ("body-too-large", 100_000)
    ] * 3


def facts(server: Server, *fields: bytes) -> dict[str, str]:
    """Return the headers as a handler sees them."""
    received = exchange(
        server,
        b"\r\n".join([b"GET /v1/sizes/headers HTTP/1.1", *fields, b"Connection: close", b"", b""]),
    )
    assert received.startswith(b"HTTP/1.1 200"), received
    return dict(json.loads(received.partition(b"\r\n\r\n")[2]))


def test_fields_of_one_name_are_one_list_and_names_with_an_underscore_are_none(
    server: Server,
) -> None:
    seen = facts(server, b"Host: x", b"X-Tag: a", b"x-tag: b", b"X_Tag: c", b"X-Odd: \xe4 ")

    assert (seen["x-tag"], seen["x-odd"], seen["host"]) == ("a,b", "ä", "x")


@pytest.mark.parametrize(
    "field", [b"Host: y", b"Content-Type: a/b\r\nContent-Type: c/d"], ids=["host", "content type"]
)
def test_what_may_come_once_and_comes_twice_is_refused(server: Server, field: bytes) -> None:
    assert exchange(server, post(b"Connection: close", b"Content-Length: 0", field)).startswith(
        b"HTTP/1.1 400"
    )


def test_a_client_that_expects_100_continue_gets_it(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            post(b"Content-Length: 3", b"Expect: 100-continue", b"Connection: close")
        )
        first = connection.recv(1000)
        connection.sendall(b"abc")
        rest = b"".join(iter(lambda: connection.recv(65536), b""))

    assert first.startswith(b"HTTP/1.1 100")
    assert b'{"bytes":3}' in first + rest


def test_the_path_is_decoded_once_and_the_query_is_left_alone(server: Server) -> None:
    received = exchange(
        server, b"GET /v1/sizes/same%2Fnot?a=%41#x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    absolute = exchange(
        server,
        b"GET http://elsewhere/v1/sizes/headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )

    assert received.startswith(b"HTTP/1.1 404")
    assert absolute.startswith(b"HTTP/1.1 200")


def test_heads_that_do_not_come_to_an_end_hold_no_thread(sqlite_place: Place, serve: Serve) -> None:
    sqlite_place.policy("any")
    sqlite_place.plugin("sizes", PLUGIN)
    server = serve(sqlite_place, threads=1)
    waiting = [socket.create_connection(("127.0.0.1", server.port), timeout=15) for _ in range(20)]
    for connection in waiting:
        connection.sendall(b"POST /v1/sizes/ HTTP/1.1\r\nHost: x\r\n")

    assert server.client.post("/v1/sizes/", content=b"abc").json() == {"bytes": 3}
    assert waiting[0].recv(1000).startswith(b"HTTP/1.1 408")
    for connection in waiting:
        connection.close()


def test_a_head_may_come_byte_by_byte(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for byte in post(b"Content-Length: 3", b"Connection: close", body=b"abc"):
            connection.sendall(bytes([byte]))
        assert b'{"bytes":3}' in b"".join(iter(lambda: connection.recv(65536), b""))
