"""Header values, bodies and forms over the wire, through the real server and into the record."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.place import Place, Server

Serve = Callable[..., Server]

PLUGIN = """
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel

from penstock import Call, Form, HttpTrigger, Pipeline, PipelineError, Reply, attachment, hookimpl

files = Pipeline("files", version="1.0.0", trigger=HttpTrigger(api_key=True, idempotent="key"))
card = Pipeline("card", version="1.0.0", trigger=HttpTrigger(api_key=True), record_bodies="none", sensitive={"pin"})
MADE: list[str] = []


class Card(BaseModel):
    pin: str
    password: str


@dataclass
class Guest:
    name: str
    age: int | None = None


@files.get("/named/{name}")
def download(call: Call, name: str) -> Reply:
    return Reply(200, {"Content-Disposition": f'attachment; filename="{name}"'}, b"%PDF")


@files.get("/helped/{name}")
def helped(call: Call, name: str) -> Reply:
    return Reply(200, {"Content-Disposition": attachment(name), "Set-Cookie": ["a=1", "b=2"], "Retry-After": 5}, b"%PDF")


@files.post("/")
def make(call: Call, body: dict) -> Reply:
    MADE.append(body["name"])
    return Reply(201, {"Location": f"/orders/{body['name']}"}, {"made": len(MADE)})


@files.put("/headers")
def headers(call: Call, body: dict) -> Reply:
    if body.get("raise"):
        raise PipelineError(409, "Upstream refused", headers=body["headers"])
    return Reply(200, body["headers"], "fine")


@files.post("/form")
def form(call: Call, guest: Annotated[Guest, Form()]) -> dict:
    return {"name": guest.name, "age": guest.age}


@files.get("/query")
def query(call: Call, *, name: str) -> str:
    return name


@card.post("/")
def add(call: Call, body: Card) -> dict:
    return {"ok": True}


@hookimpl
def penstock_pipelines():
    return [files, card]
"""  # noqa: E501  text as it is


class Caller:
    """One connection that stays, with a key."""

    def __init__(self, server: Server, key: str) -> None:
        self.log = server.log
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        self.key = key
        self.sockets: set[int] = set()

    def __call__(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if sent is not None else {}
        self.connection.request(
            method,
            path,
            sent,
            {
                "X-API-Key": self.key,
                **kind,
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        if self.connection.sock is not None:
            self.sockets.add(id(self.connection.sock))
        answered = self.connection.getresponse()
        return answered.status, answered.headers, answered.read()


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    sqlite_place.policy("api-key")
    sqlite_place.plugin("files", PLUGIN)
    sqlite_place.consumer("acme", "files", "card")
    return sqlite_place


@pytest.fixture
def call(place: Place, serve: Serve) -> Iterator[Caller]:
    key = place.key("acme").key
    caller = Caller(serve(place), key)
    yield caller
    caller.connection.close()


def record(place: Place, run: str) -> Any:
    for _ in range(100):
        shown = place.run("runs", "show", run, "--format", "json")
        if shown.returncode == 0:
            return json.loads(shown.stdout)
        time.sleep(0.1)
    raise AssertionError(shown.stderr)


def test_what_http_can_not_carry_is_a_failed_run_with_its_id_and_its_reason(
    place: Place, call: Caller
) -> None:
    bad: list[Any] = [
        "отчёт.pdf",
        "a\r\nX: y",
        "a\x01",
        "a\x7f",
        "a\x00",
        None,
        True,
        ["a", "Ł"],
        {"a": 1},
    ]
    runs = []
    for value in bad:
        for raised in (False, True):
            status, headers, body = call(
                "PUT", "/v1/files/headers", {"headers": {"X-Name": value}, "raise": raised}
            )
            assert (status, json.loads(body)["type"], json.loads(body)["run"]) == (
                500,
                "pipeline-failed",
                headers["X-Run-Id"],
            )
            assert headers["Connection"] == "keep-alive"
            runs.append(headers["X-Run-Id"])
    for headers_of_ours in (
        {"Content-Length": "27"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Bad Name": "x"},
    ):
        assert [
            call("PUT", "/v1/files/headers", {"headers": headers_of_ours, "raise": raised})[0]
            for raised in (False, True)
        ] == [500, 500]
    for of_the_body in ({"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}):
        assert call("PUT", "/v1/files/headers", {"headers": of_the_body, "raise": True})[0] == 500

    assert call("GET", "/v1/files/named/%D0%BE%D1%82%D1%87%D1%91%D1%82.pdf")[0] == 500
    assert len(call.sockets) == 1
    assert {record(place, run)["status"] for run in runs[:2]} == {"failed"}
    log = call.log.read_text()
    assert "can't be read" not in log
    assert "handler headers of PUT /headers (plugins/files.py:" in log
    assert "the header X-Name holds characters outside of Latin-1" in log
    what_http_can_carry_goes_out_as_it_is(call)
    a_reply_that_could_not_be_sent_is_not_kept_for_its_key(call)


def what_http_can_carry_goes_out_as_it_is(call: Caller) -> None:
    status, headers, _ = call(
        "PUT",
        "/v1/files/headers",
        {"headers": {"X-Name": "Überblick", "Set-Cookie": ["a=1", "b=2"], "X-Number": 5}},
    )

    assert (status, headers["X-Name"], headers.get_all("Set-Cookie"), headers["X-Number"]) == (
        200,
        "Überblick",
        ["a=1", "b=2"],
        "5",
    )
    status, headers, _ = call(
        "PUT",
        "/v1/files/headers",
        {"headers": {"Retry-After": 30, "Set-Cookie": ["a=1", "b=2"]}, "raise": True},
    )
    assert (
        status,
        headers["Retry-After"],
        headers.get_all("Set-Cookie"),
        headers.get_all("Content-Type"),
    ) == (
        409,
        "30",
        ["a=1", "b=2"],
        ["application/problem+json"],
    )
    assert (
        call("GET", "/v1/files/named/%C3%9Cberblick.pdf")[1]["Content-Disposition"]
        == 'attachment; filename="Überblick.pdf"'
    )
    _, headers, _ = call("GET", "/v1/files/helped/%C5%81%C3%B3d%C5%BA.pdf")
    assert (
        headers["Content-Disposition"]
        == "attachment; filename=\"_odz.pdf\"; filename*=UTF-8''%C5%81%C3%B3d%C5%BA.pdf"
    )


def a_reply_that_could_not_be_sent_is_not_kept_for_its_key(call: Caller) -> None:
    def make(name: str) -> tuple[int, Any]:
        status, _, body = call("POST", "/v1/files/", {"name": name}, Idempotency_Key="k1")
        return status, json.loads(body)

    assert make("Łódź")[0] == 500
    assert make("Łódź")[0] == 500
    assert make("Lodz") == (201, {"made": 3})
    assert make("Lodz") == (201, {"made": 3})


def test_nothing_of_a_body_is_kept_where_no_body_may_be(place: Place, call: Caller) -> None:
    for body in (
        b'{"pin":"4711","password":"made-up",}',
        b'{"pin":"4711","password":"made-up',
        b"{'pin':'4711'}",
        b'{"pin":"4711","password":["made-up"]}',
    ):
        status, headers, answered = call("POST", "/v1/card/", body)
        assert status in {400, 422}
        kept = json.dumps(record(place, headers["X-Run-Id"]))
        for secret in ("4711", "made-up"):
            assert secret not in kept
            assert secret not in answered.decode()
    assert "made-up" not in call.log.read_text()
    assert call("POST", "/v1/card/", b'\xef\xbb\xbf{"pin":"4711","password":"made-up"}')[0] == 200
    forms_and_queries_may_come_unescaped(call)


def forms_and_queries_may_come_unescaped(call: Caller) -> None:
    kind = "application/x-www-form-urlencoded"
    sent = {
        "name=José": kind,
        "name=Jos%C3%A9": f"{kind}; charset=UTF-8",
        "\ufeffname=José&age=4": kind,
    }

    for body, content_type in sent.items():
        status, _, answered = call(
            "POST", "/v1/files/form", body.encode(), Content_Type=content_type
        )
        assert (status, json.loads(answered)["name"]) == (200, "José")
    call.connection.close()
    for name in ("José", "報告"):
        call.connection.connect()
        assert call.connection.sock is not None
        request = (
            f"GET /v1/files/query?name={name} HTTP/1.1\r\nHost: x\r\nX-API-Key:"
            f" {call.key}\r\nConnection: close\r\n\r\n"
        )
        call.connection.sock.sendall(request.encode())
        answered = b"".join(iter(lambda: call.connection.sock.recv(65536), b""))
        call.connection.close()
        assert answered.startswith(b"HTTP/1.1 200")
        assert answered.endswith(name.encode())


@pytest.mark.parametrize(
    ("name", "values", "status"),
    [
        ("Idempotency-Key", ("twice-1", "twice-2"), 400),
        ("Idempotency-Key", ("twice-1", "twice-1"), 400),
        ("X-API-Key", ("{key}", "pk_test_other"), 401),
        ("Authorization", ("Bearer one", "Bearer two"), 401),
    ],
)
def test_a_header_that_is_sent_twice_is_not_taken_as_one(
    call: Caller, name: str, values: tuple[str, str], status: int
) -> None:
    connection, body = call.connection, b'{"name": "a"}'
    connection.putrequest("POST", "/v1/files/")
    if name != "X-API-Key":
        connection.putheader("X-API-Key", call.key)
    for value in values:
        connection.putheader(name, value.format(key=call.key))
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)

    reply = connection.getresponse()
    reply.read()

    assert reply.status == status
