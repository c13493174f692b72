"""Forms, files, XML, text in any charset, Pydantic models and typed headers, through the real
dispatcher."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal
from xml.etree.ElementTree import Element

import msgspec
import pydantic
import pytest
from werkzeug.test import TestResponse

from penstock import Call, Form, Header, HttpTrigger, Pipeline, Upload, hookimpl
from penstock.testing import Runtime

Start = Callable[..., Runtime]


def offering(
    *handlers: Callable[..., object], method: str = "POST", **trigger: Any
) -> SimpleNamespace:
    """Make a plugin of one pipeline, with each handler at a path of its own name."""
    pipeline = Pipeline("example", version="1.0.0", trigger=HttpTrigger(**trigger))
    for handler in handlers:
        pipeline.route(method, f"/{handler.__name__}")(handler)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def post(penstock_runtime: Start) -> Callable[..., TestResponse]:
    """Post once to a handler of the test's own."""

    def send(
        handler: Callable[..., object],
        method: str = "POST",
        trigger: dict[str, Any] | None = None,
        **call: Any,
    ) -> TestResponse:
        runtime = penstock_runtime(
            offering(handler, method=method, **(trigger or {})), policy="any"
        )
        assert runtime.problems() == []
        return runtime.anonymous().open(f"/v1/example/{handler.__name__}", method=method, **call)

    return send


def problem(answered: TestResponse) -> tuple[int, str]:
    return answered.status_code, (answered.json or {}).get("type", "")


@dataclass
class SignUp:
    name: str
    age: int
    news: bool = False
    tags: list[str] = field(default_factory=list)


@dataclass
class Picture:
    title: Annotated[str, msgspec.Meta(min_length=1)]
    image: Upload
    more: list[Upload] = field(default_factory=list)


def sign_up(call: Call, body: Annotated[SignUp, Form()]) -> SignUp:
    return body


def upload(call: Call, picture: Annotated[Picture, Form()]) -> dict[str, object]:
    files = [picture.image, *picture.more]
    return {
        "title": picture.title,
        "files": [
            [item.filename, item.content_type, item.size, len(item.read())] for item in files
        ],
    }


def test_a_form_comes_url_encoded_or_multipart_and_is_typed(
    post: Callable[..., TestResponse],
) -> None:
    sent = {"name": "Jörg & Ann", "age": "41", "news": "on", "tags": ["a", "b"]}

    encoded = post(sign_up, data=sent)
    multipart = post(sign_up, data=sent, content_type="multipart/form-data")

    assert (
        encoded.json
        == multipart.json
        == {
            "name": "Jörg & Ann",
            "age": 41,
            "news": True,
            "tags": ["a", "b"],
        }
    )


def test_every_fault_of_a_form_is_listed(post: Callable[..., TestResponse]) -> None:
    answered = post(sign_up, data={"age": "old", "news": "perhaps"})

    assert problem(answered) == (422, "body-invalid")
    assert {fault["pointer"]: fault["detail"] for fault in (answered.json or {})["errors"]} == {
        "/name": "Required, and missing",
        "/age": "Expected `int`, got `str`",
        "/news": "Expected `bool`, got `str`",
    }
    assert post(sign_up, data={"name": ["a", "b"], "age": "1"}).json["errors"] == [
        {"pointer": "/name", "detail": "Given more than once"}
    ]  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("", b"name=a", 415),
        ("multipart/form-data", b"--x\r\n", 400),
        ("multipart/form-data; boundary=x", b"no form at all", 400),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nAnn',
            400,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n--x--\r\n',
            400,
        ),
        ("application/x-www-form-urlencoded", b"name=%ff", 400),
        ("application/x-www-form-urlencoded", b"name=\xff", 400),
        ("application/x-www-form-urlencoded", b"a&" * 1001, 400),
    ],
)
def test_what_is_no_form_is_refused(
    post: Callable[..., TestResponse], kind: str, body: bytes, status: int
) -> None:
    assert post(sign_up, data=body, content_type=kind).status_code == status


def test_files_come_with_their_fields(post: Callable[..., TestResponse]) -> None:
    sent = {
        "title": "Us",
        "image": (BytesIO(b"x" * 200_000), "us.png", "image/png"),
        "more": [(BytesIO(b"1"), "a.txt"), (BytesIO(b""), "b.txt")],
    }

    answered = post(upload, data=sent)

    assert answered.json == {
        "title": "Us",
        "files": [
            ["us.png", "image/png", 200_000, 200_000],
            ["a.txt", "text/plain", 1, 1],
            ["b.txt", "text/plain", 0, 0],
        ],
    }


def test_a_file_input_that_nothing_was_chosen_for_is_no_file(
    post: Callable[..., TestResponse],
) -> None:
    boundary = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\nContent-Type:'
        b" application/octet-stream\r\n\r\n\r\n--x--\r\n"
    )
    answered = post(looks, data=boundary, content_type="multipart/form-data; boundary=x")

    assert answered.json == {"fields": []}


def looks(call: Call) -> dict[str, list[str]]:
    return {"fields": sorted(call.form)}


def test_text_is_no_file_and_a_file_no_text(post: Callable[..., TestResponse]) -> None:
    answered = post(
        upload,
        data={"title": (BytesIO(b"x"), "t"), "image": "text"},
        content_type="multipart/form-data",
    )

    assert problem(answered) == (422, "body-invalid")
    assert sorted(fault["pointer"] for fault in (answered.json or {})["errors"]) == [
        "/image",
        "/title",
    ]


def test_a_form_is_bounded_in_bytes_fields_and_files(post: Callable[..., TestResponse]) -> None:
    def take(call: Call, body: Annotated[dict[str, Any], Form()]) -> int:
        return len(body)

    def send(fields: dict[str, Any], **trigger: Any) -> TestResponse:
        return post(take, data=fields, content_type="multipart/form-data", trigger=trigger)

    assert send({str(n): (BytesIO(b""), "f") for n in range(100)}).status_code == 200
    assert problem(send({str(n): (BytesIO(b""), "f") for n in range(101)})) == (
        413,
        "body-too-large",
    )
    assert problem(send({str(n): "x" for n in range(1002)})) == (413, "body-too-large")
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 600_000 + b"\r\n"
    much = post(
        take,
        data=part * 2 + b"--x--\r\n",
        content_type="multipart/form-data; boundary=x",
        trigger={"max_body": 10_000_000},
    )
    assert problem(much) == (413, "body-too-large")
    assert problem(send({"a": (BytesIO(b"x" * 20_000), "f")}, max_body=10_000)) == (
        413,
        "body-too-large",
    )


def test_a_form_may_come_as_gzip_and_a_bomb_is_a_413(post: Callable[..., TestResponse]) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
    title = b'\r\n--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nUs\r\n--x--\r\n'

    def send(data: bytes, coding: str = "gzip") -> TestResponse:
        headers = {"Content-Encoding": coding, "Content-Type": "multipart/form-data; boundary=x"}
        return post(upload, data=data, headers=headers, trigger={"max_body": 100_000})

    assert send(gzip.compress(head + b"y" * 90_000 + title)).json == {
        "title": "Us",
        "files": [["f", "application/octet-stream", 90_000, 90_000]],
    }
    assert problem(send(gzip.compress(head + b"y" * 10_000_000 + title))) == (413, "body-too-large")
    assert problem(send(gzip.compress(head + title)[:-9])) == (400, "body-malformed")
    assert problem(send(head + title)) == (400, "body-malformed")
    assert problem(send(head, "br")) == (415, "unsupported-media-type")


def test_files_are_gone_when_the_call_has_ended(post: Callable[..., TestResponse]) -> None:
    uploads: list[Upload] = []

    def keep(call: Call, picture: Annotated[Picture, Form()]) -> None:
        uploads.append(picture.image)

    assert (
        post(keep, data={"title": "Us", "image": (BytesIO(b"x" * 200_000), "us.png")}).status_code
        == 204
    )
    assert uploads[0].file.closed
    assert "x" not in repr(uploads[0]).replace("octet", "").replace("text", "")


def test_a_file_can_be_saved(post: Callable[..., TestResponse], tmp_path: Path) -> None:
    def save(call: Call, picture: Annotated[Picture, Form()]) -> None:
        picture.image.read(3)
        picture.image.save(tmp_path / "saved")

    post(save, data={"title": "Us", "image": (BytesIO(b"0123456789"), "../../etc/passwd")})

    assert (tmp_path / "saved").read_bytes() == b"0123456789"


def test_a_handler_may_look_at_a_form_itself(post: Callable[..., TestResponse]) -> None:
    def look(call: Call) -> dict[str, object]:
        return dict(call.form)

    assert post(look, data={"a": ["1", "2"], "b": "3"}).json == {"a": ["1", "2"], "b": ["3"]}


def test_a_form_that_is_none_is_a_mistake_at_load(penstock_runtime: Start) -> None:
    def bad(call: Call, body: Annotated[int, Form()]) -> None: ...

    assert "a form has fields" in penstock_runtime(offering(bad), policy="any").problems()[0]


def title_of(call: Call, document: Element) -> dict[str, str | None]:
    return {"title": document.findtext("title")}


def test_xml_comes_as_an_element_in_any_charset(post: Callable[..., TestResponse]) -> None:
    text = "<book><title>Größe</title></book>"
    declared = f'<?xml version="1.0" encoding="iso-8859-1"?>{text}'.encode("latin-1")

    assert post(title_of, data=text.encode(), content_type="application/xml").json == {
        "title": "Größe"
    }
    assert post(title_of, data=declared, content_type="text/xml").json == {"title": "Größe"}
    assert post(
        title_of,
        data=text.encode("cp1252"),
        content_type="application/atom+xml; charset=windows-1252",
    ).json == {"title": "Größe"}
    assert problem(post(title_of, data=b"{}", content_type="application/json")) == (
        415,
        "unsupported-media-type",
    )


BILLION = (
    '<!DOCTYPE b [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY a{n} "{"&a;" * 10}">' for n in range(9))
    + "]><b>&a8;</b>"
)


@pytest.mark.parametrize(
    "body",
    [
        BILLION,
        '<!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/passwd">]><b>&x;</b>',
        '<!DOCTYPE b SYSTEM "http://127.0.0.1:1/b.dtd"><b/>',
        "<a>" * 100_000,
        "<a>" * 101 + "</a>" * 101,
        "<a><b></a>",
        "<a>&nbsp;</a>",
        "",
        "\x00",
        '<?xml version="1.0" encoding="nonsense"?><a/>',
    ],
)
def test_xml_that_is_a_bomb_or_none_is_a_400(post: Callable[..., TestResponse], body: str) -> None:
    assert problem(post(title_of, data=body.encode(), content_type="application/xml")) == (
        400,
        "body-malformed",
    )


def test_text_comes_in_its_charset(post: Callable[..., TestResponse]) -> None:
    def shout(call: Call, text: str) -> str:
        return text.upper()

    def send(data: bytes, kind: str) -> TestResponse:
        return post(shout, data=data, content_type=kind)

    assert send("grün".encode("latin-1"), 'text/plain; charset="ISO-8859-1"').text == "GRÜN"
    assert send("grün".encode("utf-16"), "text/plain;charset=utf-16").text == "GRÜN"
    assert send("grün".encode(), "text/plain").text == "GRÜN"
    assert problem(send("grün".encode("latin-1"), "text/plain")) == (400, "body-malformed")
    assert problem(send(b"abc", "text/plain; charset=idna")) == (415, "unsupported-media-type")
    assert problem(send(b"abc", "text/plain; charset=rot13")) == (415, "unsupported-media-type")
    assert problem(send(b"abc", "text/plain; charset=klingon")) == (415, "unsupported-media-type")


def test_json_is_taken_in_utf_8_alone(post: Callable[..., TestResponse]) -> None:
    def take(call: Call, body: dict[str, str]) -> dict[str, str]:
        return body

    assert post(
        take, data='{"a": "ü"}'.encode(), content_type="application/json; charset=UTF-8"
    ).json == {"a": "ü"}
    assert problem(
        post(
            take,
            data='{"a": "ü"}'.encode("latin-1"),
            content_type="application/json; charset=latin-1",
        )
    ) == (
        415,
        "unsupported-media-type",
    )


class Address(pydantic.BaseModel):
    street: str
    zip: int


class Person(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(min_length=2)]
    kind: Literal["friend", "foe"] = "friend"
    addresses: list[Address] = []


def test_pydantic_models_are_bodies_and_replies(post: Callable[..., TestResponse]) -> None:
    def meet(call: Call, person: Person) -> Person:
        return person.model_copy(update={"name": person.name.upper()})

    good = post(meet, json={"name": "Ann", "addresses": [{"street": "A", "zip": 1}]})
    bad = post(
        meet,
        json={"name": "A", "kind": "x", "addresses": [{"street": "A", "zip": 1}, {"zip": "many"}]},
    )

    assert good.json == {"name": "ANN", "kind": "friend", "addresses": [{"street": "A", "zip": 1}]}
    assert problem(bad) == (422, "body-invalid")
    assert [fault["pointer"] for fault in (bad.json or {})["errors"]] == [
        "/name",
        "/kind",
        "/addresses/1/street",
        "/addresses/1/zip",
    ]
    assert problem(post(meet, data=b"{", content_type="application/json")) == (
        400,
        "body-malformed",
    )
    assert problem(post(meet, data=b"[" * 100_000, content_type="application/json")) == (
        400,
        "body-malformed",
    )


def test_pydantic_models_may_lie_inside_of_other_types(post: Callable[..., TestResponse]) -> None:
    def count(call: Call, people: list[Person]) -> dict[str, Person]:
        return {person.name: person for person in people}

    assert set(post(count, json=[{"name": "Ann"}, {"name": "Bob"}]).json or {}) == {"Ann", "Bob"}
    answered = post(count, json=[{"name": "Ann"}, {"name": "B"}])
    assert problem(answered) == (422, "body-invalid")
    assert [fault["pointer"] for fault in (answered.json or {})["errors"]] == ["/1/name"]


def test_headers_are_typed_parameters(post: Callable[..., TestResponse]) -> None:
    def get(
        call: Call,
        *,
        limit: int = 5,
        if_match: Annotated[str, Header()],
        attempt: Annotated[int, msgspec.Meta(ge=1), Header("X-Attempt")] = 1,
        tags: Annotated[list[str], Header("X-Wanted")] = [],  # noqa: B006  a handler's default, never changed
    ) -> dict[str, object]:
        return {"limit": limit, "if_match": if_match, "attempt": attempt, "wanted": tags}

    good = post(get, "GET", headers={"If-Match": '"a"', "x-attempt": "3", "X-Wanted": "a, b"})
    bad = post(get, "GET", headers={"X-Attempt": "0"}, query_string="limit=x")

    assert good.json == {"limit": 5, "if_match": '"a"', "attempt": 3, "wanted": ["a", "b"]}
    assert problem(bad) == (422, "parameters-invalid")
    assert [(fault["in"], fault["parameter"]) for fault in (bad.json or {})["errors"]] == [
        ("query", "limit"),
        ("header", "If-Match"),
        ("header", "X-Attempt"),
    ]


def test_openapi_describes_forms_files_headers_xml_and_pydantic(penstock_runtime: Start) -> None:
    from openapi_spec_validator import validate  # heavy, and only needed here

    def meet(
        call: Call, person: Person, *, trace: Annotated[str, Header("X-Trace")] = ""
    ) -> list[Address]: ...

    runtime = penstock_runtime(offering(sign_up, upload, title_of, meet), policy="any")
    document: Any = runtime.anonymous().get("/-/openapi.json").json

    validate(document)
    paths = document["paths"]
    schemas = document["components"]["schemas"]
    assert list(paths["/v1/example/sign_up"]["post"]["requestBody"]["content"]) == [
        "application/x-www-form-urlencoded"
    ]
    assert list(paths["/v1/example/upload"]["post"]["requestBody"]["content"]) == [
        "multipart/form-data"
    ]
    assert schemas["Picture"]["properties"]["image"] == {"type": "string", "format": "binary"}
    assert list(paths["/v1/example/title_of"]["post"]["requestBody"]["content"]) == [
        "application/xml"
    ]
    trace = {
        "name": "X-Trace",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "default": ""},
    }
    assert paths["/v1/example/meet"]["post"]["parameters"] == [trace]
    assert schemas["Person"]["properties"]["addresses"]["items"] == {
        "$ref": "#/components/schemas/Address"
    }
    assert "$defs" not in json.dumps(document)
