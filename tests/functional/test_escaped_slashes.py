"""A slash that is escaped in a path separates nothing: `/v1%2Forders` is not `/v1/orders`,
for each worker class and each kind of path."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.place import Place, Server

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger())

@orders.get("/{number}")
def show(call: Call, number: str, *, where: str = ""): return {"number": number, "where": where}

@orders.post("/")
def take(call: Call, body: bytes): return {"bytes": len(body)}

@hookimpl
def penstock_pipelines(): return [orders]
"""


@pytest.fixture(scope="module", params=["penstock", "gthread"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upgraded_file: Path
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("slashes")
    (folder / "a.db").write_bytes(upgraded_file.read_bytes())
    place = Place.make(f"sqlite:///{folder}/a.db", folder)
    place.policy("any")
    place.plugin("orders", PLUGIN)
    with Server(place, PENSTOCK_WORKER_CLASS=request.param, PENSTOCK_CONSOLE="true") as started:
        yield started
    place.engine.dispose()


def ask(
    server: Server, *targets: str, method: str = "GET", body: bytes | None = None
) -> list[tuple[int, bytes]]:
    """Ask for each as it stands, one after the other on one connection; clients of HTTP would
    change it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    answers = []
    for target in targets:
        connection.request(method, target, body=body)
        answer = connection.getresponse()
        answers.append((answer.status, answer.read()))
    connection.close()
    return answers


@pytest.mark.parametrize(
    "path",
    [
        "/v1%2Forders/7",
        "/v1%2forders/7",
        "/v1/orders%2F7",
        "/v1/orders/7%2F",
        "/-%2Fhealth",
        "/-/console%2Fsign-in",
    ],
)
def test_a_path_with_an_escaped_slash_names_nothing(server: Server, path: str) -> None:
    plain = path.replace("%2F", "/").replace("%2f", "/")

    answers = ask(server, path, f"http://127.0.0.1:{server.port}{path}", path + "?a=%2F", plain)

    assert [status for status, _ in answers] == [404, 404, 404, 200]
    assert b'"type":"not-found"' in answers[0][1].replace(b": ", b":")


def test_the_body_of_such_a_request_is_no_request_of_its_own(server: Server) -> None:
    answers = ask(
        server,
        "/v1/orders%2F",
        "/v1/orders/",
        method="POST",
        body=b"GET /v1/orders/7 HTTP/1.1\r\nHost: x\r\n\r\n",
    )

    assert [status for status, _ in answers] == [404, 200]


def test_other_escapes_are_read_as_ever_and_a_query_may_have_slashes(server: Server) -> None:
    answers = ask(server, "/v1/%6frders/7?where=a%2Fb", "/v1/orders/%252F", "/v1/orders/%20%2B")

    assert [body for _, body in answers] == [
        b'{"number":"7","where":"a/b"}',
        b'{"number":"%2F","where":""}',
        b'{"number":" +","where":""}',
    ]
