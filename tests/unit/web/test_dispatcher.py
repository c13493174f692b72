"""What a handler gets and may give back, through the real dispatcher."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from werkzeug.test import TestResponse

from penstock import (
    AccessView,
    Authenticator,
    Call,
    Caller,
    Cors,
    Form,
    HttpTrigger,
    Pipeline,
    PipelineError,
    Rate,
    Reply,
    RequestHead,
    hookimpl,
)
from penstock.testing import Runtime

Start = Callable[..., Runtime]


class Inner(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    unit_price: Decimal
    tags: list[Annotated[str, msgspec.Meta(max_length=3)]] = []


class Outer(msgspec.Struct):
    items: dict[str, Inner]
    count: int


@dataclass
class Point:
    x: float
    y: float


class Named(TypedDict):
    name: str


def offering(*pipelines: Pipeline, **hooks: Any) -> SimpleNamespace:
    """Make a plugin that offers pipelines, with further hooks."""

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return list(pipelines)

    return SimpleNamespace(
        __name__="example",
        penstock_pipelines=penstock_pipelines,
        **{name: hookimpl(hook) for name, hook in hooks.items()},
    )


def example(**trigger: Any) -> Pipeline:
    return Pipeline("example", version="1.0.0", trigger=HttpTrigger(**trigger))


@pytest.fixture
def answering(penstock_runtime: Start) -> Callable[..., TestResponse]:
    """Answer one call with a handler of the test's own."""

    def answer(
        handler: Callable[..., object],
        method: str = "POST",
        path: str = "/v1/example/",
        route: str = "/",
        **call: Any,
    ) -> TestResponse:
        trigger = call.pop("trigger", {})
        pipeline = example(**trigger)
        pipeline.route("GET" if method == "HEAD" else method, route)(handler)
        runtime = penstock_runtime(offering(pipeline), policy="any")
        assert runtime.problems() == []
        return runtime.anonymous().open(path, method=method, **call)

    return answer


def test_every_fault_of_a_body_is_listed_with_its_json_pointer(
    answering: Callable[..., TestResponse],
) -> None:
    def take(call: Call, body: Outer) -> None: ...

    sent = {
        "items": {
            "a/b": {"unitPrice": "x", "tags": ["long", "ok", 3]},
            "c~d": {"unitPrice": "1", "colour": "red"},
            "e": 5,
        },
        "count": "many",
    }

    answered = answering(take, json=sent)

    assert answered.status_code == 422
    assert {fault["pointer"] for fault in (answered.json or {})["errors"]} == {
        "/items/a~1b/unitPrice",
        "/items/a~1b/tags/0",
        "/items/a~1b/tags/2",
        "/items/c~0d/colour",
        "/items/e",
        "/count",
    }


def test_bodies_become_what_the_annotation_says(answering: Callable[..., TestResponse]) -> None:
    def point(call: Call, body: Point) -> dict[str, float]:
        return {"sum": body.x + body.y}

    def named(call: Call, body: Named) -> str:
        return body["name"]

    def raw(call: Call, body: bytes) -> bytes:
        return body

    def text(call: Call, body: str) -> str:
        return body.upper()

    assert answering(point, json={"x": 1, "y": 2.5}).json == {"sum": 3.5}
    assert answering(named, json={"name": "Ann"}).text == "Ann"
    assert answering(raw, data=b"\x00\xff").data == b"\x00\xff"
    assert answering(text, data="grün".encode()).text == "GRÜN"
    assert answering(text, data=b"\xff").status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": 1} x',
        b"\xff\xfe",
        b'"\\ud800"',
        b"null\x00",
    ],
)
def test_what_is_no_json_is_a_400_and_no_outage(
    answering: Callable[..., TestResponse], body: bytes
) -> None:
    def take(call: Call, body: dict[str, Any]) -> None: ...

    answered = answering(take, data=body, content_type="application/json")

    assert (answered.status_code, (answered.json or {})["type"]) == (400, "body-malformed")


def test_another_media_type_is_a_415(answering: Callable[..., TestResponse]) -> None:
    def take(call: Call, body: dict[str, Any]) -> str:
        return "taken"

    def status(content_type: str) -> int:
        return answering(take, data=b"{}", content_type=content_type).status_code

    assert [
        status(kind)
        for kind in (
            "application/json; charset=utf-8",
            "application/merge-patch+json",
            "APPLICATION/JSON",
        )
    ] == [200] * 3
    assert [
        status(kind)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp")
    ] == [415] * 3


def test_a_body_past_the_limit_is_a_413_and_one_at_the_limit_is_not(
    answering: Callable[..., TestResponse],
) -> None:
    def take(call: Call, body: bytes) -> dict[str, int]:
        return {"bytes": len(body)}

    assert answering(take, data=b"x" * 10, trigger={"max_body": 10}).json == {"bytes": 10}
    assert answering(take, data=b"x" * 11, trigger={"max_body": 10}).status_code == 413


def test_a_body_may_come_as_gzip_and_a_bomb_is_a_413(
    answering: Callable[..., TestResponse],
) -> None:
    def take(call: Call, body: bytes) -> dict[str, int]:
        return {"bytes": len(body)}

    def send(data: bytes, coding: str = "gzip") -> TestResponse:
        return answering(
            take, data=data, headers={"Content-Encoding": coding}, trigger={"max_body": 100_000}
        )

    assert send(gzip.compress(b"x" * 100_000)).json == {"bytes": 100_000}
    assert send(b"plain", "identity").json == {"bytes": 5}
    assert send(gzip.compress(b"x" * 100_001)).status_code == 413
    assert send(gzip.compress(b"x" * 100_000_000)).status_code == 413
    assert [
        send(data).status_code
        for data in (b"no gzip", gzip.compress(b"x" * 50)[:-4], gzip.compress(b"x") + b"more", b"")
    ] == [400] * 4
    refused = send(b"x", "br")
    assert (refused.status_code, refused.headers["Accept-Encoding"]) == (415, "gzip")
    assert send(gzip.compress(gzip.compress(b"x")), "gzip, gzip").status_code == 415


def test_what_is_worth_it_goes_as_gzip_where_that_is_accepted(
    answering: Callable[..., TestResponse],
) -> None:
    def large(call: Call) -> dict[str, str]:
        return {"text": "x" * 5000}

    def small(call: Call) -> dict[str, str]:
        return {"text": "x"}

    def picture(call: Call) -> Reply:
        return Reply(200, {"Content-Type": "image/png"}, b"x" * 5000)

    def get(handler: Callable[..., object], accepted: str) -> TestResponse:
        return answering(handler, "GET", headers={"Accept-Encoding": accepted})

    packed = get(large, "br;q=1.0, gzip;q=0.8")

    assert json.loads(gzip.decompress(packed.data)) == {"text": "x" * 5000}
    assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == (
        "gzip",
        "Accept-Encoding",
    )
    assert packed.headers["Content-Length"] == str(len(packed.data))
    for handler, accepted in (
        (large, ""),
        (large, "gzip;q=0"),
        (large, "br"),
        (small, "gzip"),
        (picture, "gzip"),
    ):
        assert "Content-Encoding" not in get(handler, accepted).headers


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": "bytes 0-4999/9000"}),
        (206, {}),
        (200, {"Content-Range": "bytes 0-4999/9000"}),
        (200, {"Cache-Control": "max-age=60, No-Transform"}),
        (200, {"Content-Encoding": "br"}),
        (200, {"Repr-Digest": "sha-256=:AAAA:"}),
    ],
)
def test_what_holds_for_these_very_bytes_goes_as_it_is(
    answering: Callable[..., TestResponse], status: int, headers: dict[str, str]
) -> None:
    def give(call: Call) -> Reply:
        return Reply(status, {"Content-Type": "text/plain", "ETag": '"v1"', **headers}, "x" * 5000)

    answered = answering(give, "GET", headers={"Accept-Encoding": "gzip"})

    assert (answered.status_code, answered.data) == (status, b"x" * 5000)
    assert answered.headers.get("Content-Encoding") == headers.get("Content-Encoding")
    assert answered.headers["ETag"] == '"v1"'


def test_a_strong_entity_tag_is_a_weak_one_once_it_is_compressed(
    answering: Callable[..., TestResponse],
) -> None:
    def get(tag: str, accepted: str) -> str:
        def give(call: Call) -> Reply:
            return Reply(200, {"etag": tag}, "x" * 5000)

        return answering(give, "GET", headers={"Accept-Encoding": accepted}).headers["ETag"]

    assert (get('"v1"', "gzip"), get('W/"v1"', "gzip"), get('"v1"', "br")) == (
        'W/"v1"',
        'W/"v1"',
        '"v1"',
    )


def test_a_reply_without_a_body_has_no_length(answering: Callable[..., TestResponse]) -> None:
    def nothing(call: Call) -> None: ...

    def same(call: Call) -> Reply:
        return Reply(304, {"ETag": '"v1"'})

    def empty(call: Call) -> str:
        return ""

    assert [
        answering(handler, "GET").headers.get("Content-Length")
        for handler in (nothing, same, empty)
    ] == [None, None, "0"]


def test_route_parameters_become_their_type_or_the_path_is_not_there(
    answering: Callable[..., TestResponse],
) -> None:
    def show(call: Call, number: int, name: str) -> dict[str, object]:
        return {"number": number, "name": name}

    def get(path: str) -> TestResponse:
        return answering(show, "GET", path, "/{number}/of/{name}")

    assert get("/v1/example/7/of/ann%20b").json == {"number": 7, "name": "ann b"}
    assert get("/v1/example/7/of/gr%C3%BCn%E2%82%AC").json == {"number": 7, "name": "grün€"}
    assert (
        answering(
            show,
            "GET",
            "/",
            "/{number}/of/{name}",
            environ_overrides={"PATH_INFO": "/v1/example/7/of/\xff"},
        ).status_code
        == 404
    )
    assert get("/v1/example/seven/of/ann").status_code == 404
    assert get("/v1/example/7/of/ann/more").status_code == 404


def test_what_stands_after_the_star_comes_from_the_query(
    answering: Callable[..., TestResponse],
) -> None:
    def page(
        call: Call,
        *,
        limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 20,
        tag: list[str],
        since: date | None = None,
    ) -> dict[str, object]:
        return {"limit": limit, "tag": tag, "since": since}

    def get(query: str) -> TestResponse:
        return answering(page, "GET", query_string=query)

    assert get("tag=a&tag=b&limit=7&since=2026-01-31").json == {
        "limit": 7,
        "tag": ["a", "b"],
        "since": "2026-01-31",
    }
    assert get("tag=a&unknown=1").json == {"limit": 20, "tag": ["a"], "since": None}
    answered = get("limit=99&since=soon")
    assert (answered.status_code, (answered.json or {})["type"]) == (422, "parameters-invalid")
    assert [fault["parameter"] for fault in (answered.json or {})["errors"]] == [
        "limit",
        "tag",
        "since",
    ]
    assert get("tag=a&limit=1&limit=2").status_code == 422
    assert get("tag=a&limit=").status_code == 422


def test_a_query_parameter_that_makes_no_sense_refuses_the_pipeline(
    penstock_runtime: Start,
) -> None:
    def untyped(call: Call, *, limit=5): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202

    def whole(call: Call, *, point: Point) -> None: ...

    def reason(handler: Callable[..., object]) -> str:
        pipeline = example()
        pipeline.get("/")(handler)
        return str(penstock_runtime(offering(pipeline), policy="any").blocked()["v1/example"])

    assert "the query parameter 'limit' has no annotation; write limit: str" in reason(untyped)
    assert "the query parameter 'point' can't be a" in reason(whole)


def test_a_query_parameter_goes_together_with_a_body(
    answering: Callable[..., TestResponse],
) -> None:
    def take(call: Call, body: dict[str, int], *, dry: bool = False) -> dict[str, object]:
        return {"body": body, "dry": dry}

    assert answering(take, json={"a": 1}, query_string="dry=true").json == {
        "body": {"a": 1},
        "dry": True,
    }


def test_query_and_headers_are_there(answering: Callable[..., TestResponse]) -> None:
    def show(call: Call) -> dict[str, object]:
        return {
            "query": call.query,
            "header": call.headers["x-TRACE"],
            "left": 0 < call.remaining() <= 5,
        }

    answered = answering(
        show, "GET", query_string="a=1&a=2&b=", headers={"X-Trace": "t"}, trigger={"timeout": 5}
    )

    assert answered.json == {"query": {"a": ["1", "2"], "b": [""]}, "header": "t", "left": True}


def test_a_head_call_runs_the_get_handler_and_sends_no_body(
    answering: Callable[..., TestResponse],
) -> None:
    def show(call: Call) -> dict[str, int]:
        return {"a": 1}

    answered = answering(show, "HEAD")

    assert (answered.status_code, answered.data) == (200, b"")
    assert answered.headers["Content-Length"] == str(len(b'{"a":1}'))


@pytest.mark.parametrize(
    ("value", "status", "kind", "body"),
    [
        (None, 204, None, b""),
        ({"a": Decimal("1.10")}, 200, "application/json", b'{"a":"1.10"}'),
        (Point(1, 2), 200, "application/json", b'{"x":1,"y":2}'),
        (b"\x00", 200, "application/octet-stream", b"\x00"),
        ("grün", 200, "text/plain; charset=utf-8", "grün".encode()),
        (Reply(202, {"X-A": "b"}, {"a": 1}), 202, "application/json", b'{"a":1}'),
        (Reply(200, {"Content-Type": "text/csv"}, "a,b"), 200, "text/csv", b"a,b"),
        (Reply(204, {}, {"a": 1}), 204, "application/json", b""),
        (Reply(302, {"Location": "/x"}), 302, None, b""),
    ],
)
def test_every_value_of_a_handler_becomes_a_reply(
    answering: Callable[..., TestResponse],
    value: object,
    status: int,
    kind: str | None,
    body: bytes,
) -> None:
    def give(call: Call) -> object:
        return value

    answered = answering(give, "GET")

    assert (answered.status_code, answered.headers.get("Content-Type"), answered.data) == (
        status,
        kind,
        body,
    )


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Reply(99),
        Reply(600),
        Reply(200, {"Bad Name": "x"}),
        Reply(200, {"X-A": "a\r\nSet-Cookie: stolen=1"}),
        Reply(200, {"Content-Length": "5"}),
        Reply(200, {"Transfer-Encoding": "chunked"}),
        {"a": object()},
    ],
)
def test_what_can_not_be_sent_is_a_failed_pipeline_and_sends_nothing_of_it(
    answering: Callable[..., TestResponse], value: object
) -> None:
    def give(call: Call) -> object:
        return value

    answered = answering(give, "GET")

    assert (answered.status_code, (answered.json or {})["type"]) == (500, "pipeline-failed")
    assert "Set-Cookie" not in answered.headers
    assert "TypeError" not in answered.text


def test_a_refusal_on_purpose_is_a_problem_document_with_all_it_says(
    answering: Callable[..., TestResponse],
) -> None:
    def refuse(call: Call) -> None:
        raise PipelineError(
            409,
            "Already there",
            "Once is enough.",
            type="already-there",
            headers={"Retry-After": "30"},
            seen=2,
        )

    answered = answering(refuse, "GET")

    assert answered.headers["Retry-After"] == "30"
    assert answered.content_type == "application/problem+json"
    assert answered.json == {
        "type": "already-there",
        "title": "Already there",
        "status": 409,
        "detail": "Once is enough.",
        "seen": 2,
        "run": answered.headers["X-Run-Id"],
    }


def test_what_a_refusal_adds_may_be_anything(answering: Callable[..., TestResponse]) -> None:
    def refuse(call: Call) -> None:
        raise PipelineError(
            409, "Taken", "Twice.", by=Decimal("1.5"), when=ValueError("then"), what=object
        )

    answered = answering(refuse, "GET")

    assert answered.status_code == 409
    assert ((answered.json or {})["by"], (answered.json or {})["when"]) == ("1.5", "then")


def test_what_a_refusal_adds_can_not_replace_what_it_is(
    answering: Callable[..., TestResponse],
) -> None:
    def refuse(call: Call) -> None:
        raise PipelineError(409, "Taken", "Twice.", run="forged")

    answered = answering(refuse, "GET", headers={"X-Request-Id": "mine-to-tell"})

    assert (answered.json or {})["run"] == answered.headers["X-Run-Id"] != "forged"
    assert answered.headers["X-Request-Id"] == "mine-to-tell"


def test_a_handler_that_exits_or_recurses_ends_only_its_own_call(
    answering: Callable[..., TestResponse],
) -> None:
    def leave(call: Call) -> None:
        raise SystemExit(1)

    def recurse(call: Call) -> None:
        recurse(call)

    assert [answering(handler, "GET").status_code for handler in (leave, recurse)] == [500, 500]


def test_observers_see_start_and_end_and_one_that_raises_changes_nothing(
    penstock_runtime: Start,
) -> None:
    seen: list[object] = []

    def penstock_call_started(call: Call) -> None:
        seen.append(("started", call.run))
        raise RuntimeError("no good")

    def penstock_call_finished(call: Call, status: int, seconds: float) -> None:
        seen.append(("finished", call.run, status, seconds >= 0))
        raise RuntimeError("no good")

    pipeline = example(api_key=True)

    @pipeline.get("/{kind}")
    def divide(call: Call, kind: str) -> dict[str, float]:
        return {"a": 1 / (kind == "good")}

    plugin = offering(
        pipeline,
        penstock_call_started=penstock_call_started,
        penstock_call_finished=penstock_call_finished,
    )
    runtime = penstock_runtime(plugin, policy="api-key")
    client = runtime.client(token=False)

    good, bad = (client.get(f"/v1/example/{kind}") for kind in ("good", "bad"))
    refused = runtime.anonymous().get("/v1/example/good").status_code

    assert (good.status_code, bad.status_code, refused) == (200, 500, 401)
    assert seen == [
        ("started", good.headers["X-Run-Id"]),
        ("finished", good.headers["X-Run-Id"], 200, True),
        ("started", bad.headers["X-Run-Id"]),
        ("finished", bad.headers["X-Run-Id"], 500, True),
    ]


def test_a_call_without_a_server_s_connection_is_timed_out_too(
    answering: Callable[..., TestResponse],
) -> None:
    def stuck(call: Call) -> None:
        time.sleep(2)

    answered = answering(stuck, "GET", trigger={"timeout": 0.1})

    assert (answered.status_code, (answered.json or {})["type"]) == (504, "timed-out")


@pytest.mark.parametrize("form", [False, True])
def test_a_body_is_read_by_the_call_s_own_thread_where_its_handler_runs_in_another(
    answering: Callable[..., TestResponse], form: bool
) -> None:
    """Two threads must not use one TLS connection at a time: one would answer at the limit while
    the other still reads."""
    readers: set[int] = set()
    handlers: set[int] = set()

    class Incoming(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            readers.add(threading.get_ident())
            return super().read(size)

    def take(call: Call, body: bytes) -> None:
        handlers.add(threading.get_ident())

    def take_form(call: Call, body: Annotated[dict[str, str], Form()]) -> None:
        handlers.add(threading.get_ident())

    kind = "application/x-www-form-urlencoded" if form else "application/octet-stream"
    sent = {
        "data": b"a=1",
        "content_type": kind,
        "environ_overrides": {"wsgi.input": Incoming(b"a=1")},
    }
    answered = answering(take_form if form else take, **sent)

    assert answered.status_code == 204
    assert readers == {threading.get_ident()}
    assert handlers.isdisjoint(readers)


def test_an_authenticator_that_fails_admits_no_call_and_reveals_nothing(
    penstock_runtime: Start,
) -> None:
    class Failing(Authenticator):
        name, noun, refusal, challenge = "failing", "thing", "invalid-thing", "Thing"

        def find(self, head: RequestHead, access: AccessView) -> str | None:
            raise KeyError("a secret of the plugin")

        def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
            return caller

    pipeline = example()
    pipeline.get("/")(lambda: "open")
    runtime = penstock_runtime(
        offering(pipeline, penstock_authenticators=lambda setup: [Failing()]), policy="any"
    )

    answered = runtime.anonymous().get("/v1/example/")

    assert (answered.status_code, (answered.json or {})["type"]) == (500, "internal")
    assert "secret" not in answered.text


def test_the_caller_is_who_the_gate_proved(penstock_runtime: Start) -> None:
    pipeline = example(api_key=True, jwt=True, scopes={"a"})

    @pipeline.get("/")
    def show(call: Call) -> dict[str, object]:
        caller = call.caller
        return {
            "consumer": caller.consumer,
            "subject": caller.subject,
            "scopes": sorted(caller.scopes),
            "aud": caller.claims["aud"],
        }

    client = penstock_runtime(offering(pipeline)).client("acme", subject="bob", scopes={"a", "b"})

    assert client.get("/v1/example/").json == {
        "consumer": "acme",
        "subject": "bob",
        "scopes": ["a", "b"],
        "aud": "test",
    }


def fail_in_every_way(pipeline: Pipeline) -> None:
    """Put a handler on the pipeline that does what its path says."""

    @pipeline.get("/{how}")
    def show(call: Call, how: str) -> str:
        if how == "stuck":
            time.sleep(2)
        if how == "refused":
            raise PipelineError(409, "Taken")
        return str({"good": 1}[how])


def every_answer(runtime: Runtime, name: str, **headers: str) -> dict[int, TestResponse]:
    """Return answers of each kind by status: of the handler, of what it raises, of the gate and
    the router, and those that are late or closed."""
    client = runtime.client(token=False)
    answers = [
        client.get(f"/v1/{name}/{how}", headers=headers)
        for how in ("good", "refused", "failed", "stuck")
    ]
    answers += [
        runtime.anonymous().get(f"/v1/{name}/good", headers=headers),
        client.post(f"/v1/{name}/good", headers=headers),
    ]
    runtime.operate("pipeline", "disable", name, "--env", "test")
    answers.append(client.get(f"/v1/{name}/good", headers=headers))
    found = {answered.status_code: answered for answered in answers}
    assert set(found) == {200, 401, 405, 409, 500, 503, 504}
    return found


@pytest.mark.parametrize(
    ("trigger", "declared", "problem"),
    [
        ({"cors": "*"}, {}, "cors='*' is no CORS"),
        ({"cors": Cors([5])}, {}, "CORS is for origins that are no text"),  # type: ignore[list-item]  a developer's slip
        ({"jwt": True, "scopes": [5]}, {}, "scope 5 has characters"),
        ({"rate": Rate(["1/second"])}, {}, "is no rate"),  # type: ignore[arg-type]  a developer's slip
        ({"idempotent": ["key"]}, {}, "idempotent=['key'] is not known"),
        ({"allow": [5]}, {}, "5 is no network"),
        ({"timeout": "long"}, {}, "timeout='long' is out of bounds"),
        ({}, {"durable": 5}, "durable=5 is no Durable"),
    ],
)
def test_a_declaration_of_the_wrong_types_refuses_that_pipeline_and_no_other(
    penstock_runtime: Start, trigger: dict[str, Any], declared: dict[str, Any], problem: str
) -> None:
    odd = Pipeline("odd", version="1.0.0", trigger=HttpTrigger(**trigger), **declared)
    odd.get("/")(lambda: "odd")
    fine = Pipeline("fine", version="1.0.0", trigger=HttpTrigger())
    fine.get("/")(lambda: "fine")
    runtime = penstock_runtime(offering(odd, fine), policy="any")

    assert any(problem in text for text in runtime.blocked()["v1/odd"])
    assert runtime.anonymous().get("/v1/fine/").text == "fine"


def test_what_can_t_be_understood_at_all_refuses_that_pipeline_and_no_other(
    penstock_runtime: Start,
) -> None:
    class Odd(Pipeline):
        def problems(self) -> Iterable[tuple[str, str]]:
            raise LookupError("what is this?")

    odd = Odd("odd", version="1.0.0", trigger=HttpTrigger())
    odd.get("/")(lambda: "odd")
    fine = Pipeline("fine", version="1.0.0", trigger=HttpTrigger())
    fine.get("/")(lambda: "fine")
    runtime = penstock_runtime(offering(odd, fine), policy="any")

    assert (
        "its declaration can't be understood: LookupError: what is this?"
        in runtime.blocked()["v1/odd"][0]
    )
    assert runtime.anonymous().get("/v1/fine/").text == "fine"
    assert runtime.anonymous().get("/v1/odd/").status_code == 503


def test_a_deprecated_pipeline_says_so_in_every_reply(penstock_runtime: Start) -> None:
    trigger = HttpTrigger(api_key=True, timeout=0.2)
    old = Pipeline(
        "old",
        version="1.0.0",
        trigger=trigger,
        deprecated=date(2026, 1, 31),
        sunset=date(2027, 1, 31),
    )
    old.get("/")(lambda: "still here")
    fail_in_every_way(old)
    runtime = penstock_runtime(offering(old), policy="api-key")
    described = json.loads(runtime.anonymous().get("/-/openapi.json").data)
    headers = {
        (answered.headers["Deprecation"], answered.headers["Sunset"])
        for answered in every_answer(runtime, "old").values()
    }

    assert headers == {("@1769817600", "Sun, 31 Jan 2027 00:00:00 GMT")}
    operation = described["paths"]["/v1/old"]["get"]
    assert operation["deprecated"] is True
    assert operation["description"] == "Deprecated since 2026-01-31. Expected to end on 2027-01-31."
    assert all(
        {"Deprecation", "Sunset"} <= set(response["headers"])
        for response in operation["responses"].values()
    )


def test_since_when_it_is_deprecated_may_be_left_open(penstock_runtime: Start) -> None:
    old = Pipeline("old", version="1.0.0", trigger=HttpTrigger(), deprecated=True)
    old.get("/")(lambda: "still here")
    client = penstock_runtime(offering(old), policy="any").anonymous()
    described = json.loads(client.get("/-/openapi.json").data)["paths"]["/v1/old"]["get"]

    assert client.get("/v1/old/").headers["Deprecation"] == "@0"
    assert (described["deprecated"], described["description"]) == (True, "Deprecated.")


@pytest.mark.parametrize(
    ("dates", "problem"),
    [
        ({"deprecated": "soon"}, "deprecated='soon' is no date"),
        (
            {"deprecated": datetime(2027, 1, 1, tzinfo=UTC), "sunset": date(2027, 2, 1)},
            "is no date",
        ),
        ({"sunset": "2027-01-31"}, "sunset='2027-01-31' is no date"),
        (
            {"deprecated": date(2027, 1, 1), "sunset": date(2026, 1, 1)},
            "it ends before it is deprecated",
        ),
    ],
)
def test_dates_that_make_no_sense_refuse_the_pipeline(
    penstock_runtime: Start, dates: dict[str, Any], problem: str
) -> None:
    old = Pipeline("old", version="1.0.0", trigger=HttpTrigger(), **dates)
    old.get("/")(lambda: "still here")

    assert any(
        problem in text
        for text in penstock_runtime(offering(old), policy="any").blocked()["v1/old"]
    )


def test_no_repr_of_a_call_shows_credentials_or_body(penstock_runtime: Start) -> None:
    pipeline = example(api_key=True, jwt=True)
    shown: list[str] = []

    @pipeline.post("/")
    def take(call: Call, body: bytes) -> None:
        shown.append(f"{call!r} {call.caller!r} {call.headers!r}")

    client = penstock_runtime(offering(pipeline)).client()
    client.post("/v1/example/", data=b"of the body")

    (text,) = shown
    assert "pk_test" not in text
    assert "eyJ" not in text
    assert "of the body" not in text


def test_a_problem_of_an_unknown_path_is_a_problem_document(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(policy="any")

    for path in ("/", "/v1", "/v1/none/", "/-/none", "/%00", "/../etc", "/v1//x"):
        answered = runtime.anonymous().get(path)

        assert (answered.status_code, json.loads(answered.data)["type"]) == (404, "not-found"), path


def test_browsers_may_use_the_methods_and_read_the_headers_that_cors_names(
    penstock_runtime: Start,
) -> None:
    cors = Cors(
        "https://shop.example",
        methods=["post"],
        headers=["X-API-Key"],
        expose=["Location"],
        max_age=60,
    )
    pipeline = example(cors=cors)
    pipeline.post("/")(lambda call: "done")
    pipeline.put("/")(lambda call: "done")
    client = penstock_runtime(offering(pipeline), policy="any").anonymous()

    def headers(method: str, origin: str, **more: str) -> dict[str, str]:
        answered = client.open("/v1/example/", method=method, headers={"Origin": origin, **more})
        return {
            name: value
            for name, value in answered.headers.items()
            if name.startswith("Access-Control")
        }

    asks = {"Access-Control-Request-Method": "POST"}
    assert headers("OPTIONS", "https://shop.example", **asks) == {
        "Access-Control-Allow-Origin": "https://shop.example",
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "x-api-key",
        "Access-Control-Max-Age": "60",
    }
    assert headers("POST", "https://shop.example") == {
        "Access-Control-Allow-Origin": "https://shop.example",
        "Access-Control-Expose-Headers": "Location",
    }
    assert (
        headers("OPTIONS", "https://evil.example", **asks)
        == headers("POST", "https://shop.example.evil.example")
        == {}
    )


def test_every_reply_has_cors_and_varies_by_origin(penstock_runtime: Start) -> None:
    """A browser would show its page nothing of a refusal without; and caches must not give one
    origin's reply to another."""
    shop = Pipeline(
        "shop",
        version="1.0.0",
        trigger=HttpTrigger(api_key=True, timeout=0.2, cors=Cors("https://shop.example")),
    )
    fail_in_every_way(shop)
    for origin, allowed in (
        ("https://shop.example", "https://shop.example"),
        ("https://evil.example", None),
        ("", None),
    ):
        runtime = penstock_runtime(offering(shop), policy="api-key")

        answers = every_answer(runtime, "shop", **({"Origin": origin} if origin else {}))

        assert {
            answered.headers.get("Access-Control-Allow-Origin") for answered in answers.values()
        } == {allowed}
        assert {answered.headers["Vary"] for answered in answers.values()} == {"Origin"}
        preflight = runtime.anonymous().options(
            "/v1/shop/good", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}
        )
        assert preflight.headers["Vary"] == "Origin"


def test_a_handler_s_own_cors_does_not_stand_beside_or_in_place_of_the_trigger_s(
    answering: Callable[..., TestResponse],
) -> None:
    def give(call: Call) -> Reply:
        return Reply(
            200,
            {"access-control-allow-origin": "*", "Access-Control-Allow-Credentials": "true"},
            "x",
        )

    def cors_headers(origin: str, **trigger: Any) -> dict[str, list[str]]:
        headers = answering(give, "GET", headers={"Origin": origin}, trigger=trigger).headers
        return {
            name.lower(): headers.getlist(name)
            for name in headers.keys()  # noqa: SIM118  no dict
            if name.lower().startswith("access-control-allow")
        }

    assert cors_headers("https://a.example", cors=Cors("https://a.example")) == {
        "access-control-allow-origin": ["https://a.example"]
    }
    assert cors_headers("https://b.example", cors=Cors("https://a.example")) == {}
    assert cors_headers("https://b.example") == {
        "access-control-allow-origin": ["*"],
        "access-control-allow-credentials": ["true"],
    }


def test_problems_are_not_for_caches(penstock_runtime: Start) -> None:
    pipeline = example(api_key=True, timeout=0.2)
    fail_in_every_way(pipeline)

    answers = every_answer(penstock_runtime(offering(pipeline), policy="api-key"), "example")

    assert answers.pop(200).headers.get("Cache-Control") is None
    assert {answered.headers["Cache-Control"] for answered in answers.values()} == {"no-store"}


def test_cors_for_everybody_with_credentials_refuses_the_pipeline(penstock_runtime: Start) -> None:
    pipeline = example(cors=Cors("*", credentials=True))
    pipeline.post("/")(lambda call: "done")

    assert (
        "CORS for every origin can't allow credentials"
        in penstock_runtime(offering(pipeline), policy="any").problems()[0]
    )
