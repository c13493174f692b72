"""What comes over the wire in odd shapes: framing, oversized and unreadable requests."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable

import pytest
from kit import Place, Server

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

@hookimpl
def penstock_pipelines(): return [sizes]
"""


@pytest.fixture
def server(sqlite_place: Place, serve: Serve) -> Server:
    sqlite_place.policy("any")
    sqlite_place.plugin("sizes", PLUGIN)
    return serve(sqlite_place)


def exchange(server: Server, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /v1/sizes/ HTTP/1.1", b"Host: x", *fields, b"", b""]) + body


def test_chunked_bodies_are_taken_up_to_the_limit(server: Server) -> None:
    def chunked(size: int) -> int:
        return server.client.post("/v1/sizes/", content=(b"x" * 1000 for _ in range(size // 1000))).status_code

    assert (chunked(100_000), chunked(101_000)) == (200, 413)


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"-1\r\nabc\r\n0\r\n\r\n"],
    ids=["no size", "longer than its size", "negative size"],
)
def test_broken_chunks_are_the_caller_s_fault_and_end_the_connection(server: Server, body: bytes) -> None:
    received = exchange(server, post(b"Transfer-Encoding: chunked", body=body) + post(b"Content-Length: 0"))

    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"400"]
    assert b'"body-malformed"' in received


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
def test_what_is_no_http_is_refused_as_a_problem_and_not_repeated_in_the_log(server: Server, sent: bytes, status: int) -> None:
    received = exchange(server, sent)
    head, _, body = received.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert json.loads(body)["type"] == "request-refused"
    assert "secret" not in server.log.read_text() + received.decode()
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("field", [b"SCRIPT_NAME: /v1", b"PATH_INFO: /v1/sizes/", b"Script-Name: /v1", b"X-Forwarded-Prefix: /v1"])
def test_no_header_rewrites_the_path(server: Server, field: bytes) -> None:
    elsewhere = exchange(server, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + field + b"\r\n\r\n")
    here = exchange(server, post(b"Connection: close", b"Content-Length: 0", field))

    assert elsewhere.startswith(b"HTTP/1.1 404")
    assert here.startswith(b"HTTP/1.1 200")


def test_a_reply_without_a_body_says_no_length_and_the_connection_goes_on(server: Server) -> None:
    def get(path: bytes, *fields: bytes) -> bytes:
        return b"\r\n".join([b"GET /v1/sizes/" + path + b" HTTP/1.1", b"Host: x", *fields, b"", b""])

    received = exchange(server, get(b"none") + get(b"same") + get(b"none", b"Connection: close"))

    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"204", b"304", b"204"]
    assert not re.search(rb"(?i)content-length|transfer-encoding", received)


def test_a_client_that_only_sees_its_upload_refused_still_reads_why(server: Server) -> None:
    answers = [server.client.post("/v1/sizes/", content=b"x" * 5_000_000).json() for _ in range(3)]

    assert [(answer["type"], answer["limit"]) for answer in answers] == [("body-too-large", 100_000)] * 3
