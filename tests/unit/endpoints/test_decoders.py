"""What came is decoded as it says it was written: byte order marks, charsets, forms as browsers
and others send them. No message quotes it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from types import SimpleNamespace
from typing import Annotated, Any
from xml.etree.ElementTree import Element

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Call, HttpTrigger, Pipeline, hookimpl
from penstock.contracts.forms import Form, Upload
from penstock.endpoints.decoders import compile_body
from penstock.endpoints.media import charset_of, parameters_of
from penstock.errors import Refusal
from penstock.http.request_body import Body
from penstock.testing import a_call

CANARY = "c4n4ry"
BOM = b"\xef\xbb\xbf"
URL_ENCODED = "application/x-www-form-urlencoded"


@dataclass
class Guest:
    name: str
    age: int | None = None
    tags: list[str] = field(default_factory=list)
    news: bool | None = None


@dataclass
class Card:
    pin: str
    password: str


class CardModel(pydantic.BaseModel):
    pin: str
    password: str


@dataclass
class Picture:
    title: str
    image: Upload | None = None


GUEST = Annotated[Guest, Form()]
calls: list[Call] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Let go of files that came with forms, as the dispatcher does when a call has ended."""
    yield
    while calls:
        calls.pop().end()


def read(kind: Any, body: bytes, content_type: str = "application/json") -> Any:
    environ = {
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
    }
    sent = Body(environ, 10_000_000)
    call = a_call(headers={"Content-Type": content_type}, read_form=sent.form)
    call._read_body = sent.read  # noqa: SLF001  as the dispatcher does
    calls.append(call)
    return compile_body("body", kind).read(call)


def refused(kind: Any, body: bytes, content_type: str = "application/json") -> tuple[int, str]:
    with pytest.raises(Refusal) as raised:
        read(kind, body, content_type)
    assert CANARY not in raised.value.detail
    assert CANARY not in str(raised.value.extra)
    return raised.value.status, raised.value.detail


@pytest.mark.parametrize("kind", [Card, CardModel, dict], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "The body is empty; send JSON."),
        (b" \r\n", "The body is empty; send JSON."),
        (BOM, "The body is empty; send JSON."),
        (b'{"pin":"4711","password":"c4n4ry",}', "trailing comma in object (line 1, column 35)"),
        (
            b'{"pin":"4711",\n "password":"c4n4ry",\n}',
            "trailing comma in object (line 3, column 1)",
        ),
        (
            '{"pin":"Łódź","password":"c4n4ry",}'.encode(),
            "trailing comma in object (line 1, column 35)",
        ),
        (b'{"pin":"c4n4ry', "it ends too early (line 1, column 15)"),
        (b"{'pin':'c4n4ry'}", "object keys must be strings (line 1, column 2)"),
        (b'{"pin":"c4n4ry"} c4n4ry', "trailing characters (line 1, column 18)"),
        (b'{"pin":"c4n4ry\xff"}', "it is not UTF-8 (line 1, column 15)"),
        (b'{"pin":"c4n4ry\\ud800"}', "half of a surrogate pair"),
        (b'{"pin":c4n4ry}', "invalid character (line 1, column 8)"),
        (b'{"pin":NaN,"password":"c4n4ry"}', "invalid character (line 1, column 8)"),
        (b'{"pin":-Infinity,"password":"c4n4ry"}', "invalid character (line 1, column 9)"),
        ('{"pin":"c4n4ry"}'.encode("utf-16"), "it is in UTF-16 or UTF-32; send it in UTF-8"),
        ('{"pin":"c4n4ry"}'.encode("utf-32"), "it is in UTF-16 or UTF-32; send it in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_invalid_json_is_reported_with_its_place_and_without_its_content(
    kind: Any, body: bytes, expected: str
) -> None:
    status, detail = refused(kind, body)

    assert status == 400
    assert detail in {expected, f"The body is not JSON: {expected}."}


def test_json_may_begin_with_a_byte_order_mark() -> None:
    for kind in (dict, Card, CardModel):
        assert read(kind, BOM + b'{"pin":"1","password":"2"}')
    assert read(str, BOM + b"a", "text/plain") == "\ufeffa"
    assert read(bytes, BOM, "application/octet-stream") == BOM


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json;charset=UTF-8", 200),
        ('application/json; charset="utf-8"', 200),
        ("application/json; charset=us-ascii", 200),
        ("application/json; v=1; charset=utf8", 200),
        ('application/json; x="; charset=utf-16"', 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=", 415),
        ('application/json; charset="utf-8', 415),
        ("application/json; charset=utf-8; charset=utf-16", 415),
        ("application/json; charset=\xff\0", 415),
        ("application/json; charset=../../x", 415),
        ("application/json; charset=zlib_codec", 415),
        ("application/json; charset=idna", 415),
    ],
)
def test_the_charset_of_json_is_utf_8_or_refused(content_type: str, status: int) -> None:
    if status == 200:
        assert read(
            dict, '{"a":"é"}'.encode() if "ascii" not in content_type else b'{"a":1}', content_type
        )
    else:
        assert refused(dict, b'{"a":1}', content_type)[0] == status


@pytest.mark.parametrize(
    "charset",
    [
        "utf-8",
        "latin-1",
        "windows-1252",
        "utf-16",
        "utf-16-le",
        "utf-32",
        "shift_jis",
        "gb18030",
        "euc-kr",
        "koi8-r",
    ],
)
def test_a_charset_that_is_declared_is_that_of_text_and_of_xml(charset: str) -> None:
    word = {"shift_jis": "日本", "gb18030": "中文", "euc-kr": "한국", "koi8-r": "мир"}.get(
        charset, "Größe"
    )

    assert read(str, word.encode(charset), f"text/plain; charset={charset}") == word
    assert (
        read(Element, f"<a>{word}</a>".encode(charset), f"application/xml; charset={charset}").text
        == word
    )
    if not charset.startswith(("utf-16", "utf-32")):
        assert (
            read(
                Element,
                f'<?xml version="1.0" encoding="{charset}"?><a>{word}</a>'.encode(charset),
                "text/xml",
            ).text
            == word
        )
        assert read(
            GUEST, b"name=" + word.encode(charset), f"{URL_ENCODED}; charset={charset}"
        ) == Guest(word)


def test_a_byte_order_mark_of_xml_says_more_than_its_header() -> None:
    assert read(Element, "<a>Größe</a>".encode("utf-16"), "application/xml").text == "Größe"
    assert (
        read(Element, BOM + "<a>Größe</a>".encode(), "application/xml; charset=latin-1").text
        == "Größe"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<a>&c4n4ry;</a>", "undefined entity (line 1, column 4)"),
        (b"<a>\n<c4n4ry></a>", "mismatched tag (line 2, column 11)"),
        (b"<c4n4ry:a/>", "unbound prefix (line 1, column 1)"),
        (b"", "no element found (line 1, column 1)"),
        (
            b'<?xml version="1.0" encoding="c4n4ry"?><a/>',
            "its encoding is not known here; send it in UTF-8",
        ),
        (b"<a>" * 101, "nested too deeply"),
    ],
)
def test_invalid_xml_is_reported_without_its_content(body: bytes, expected: str) -> None:
    status, detail = refused(Element, body, "application/xml")

    assert (status, detail.startswith(f"The body is not XML: {expected}")) == (400, True)


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        (str, "text/plain; charset=us-ascii"),
        (Element, "application/xml; charset=us-ascii"),
        (GUEST, f"{URL_ENCODED}; charset=us-ascii"),
    ],
)
def test_what_is_not_in_its_charset_is_malformed(kind: Any, content_type: str) -> None:
    assert refused(kind, "c4n4ry=é".encode(), f"{content_type}; charset=us-ascii")[0] == 400


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("name=José".encode(), "José"),
        ("name=\N{GRINNING FACE}".encode(), "\N{GRINNING FACE}"),
        (b"name=Jos%C3%A9", "José"),
        (b"name=Jos%c3\xa9", "José"),
        (BOM + b"name=a", "a"),
        (b"name=%EF%BB%BFa", "\ufeffa"),
        (b"name=a+b%20c%2B", "a b c+"),
        (b"name=100%", "100%"),
        (b"name=%zz%4", "%zz%4"),
        (b"name=a=b", "a=b"),
        (b"name=a;b", "a;b"),
        (b"&&name=a&", "a"),
        (b"name=", ""),
        (b"name", ""),
        (b"n%61me=a", "a"),
        (b"name=a%00b", "a\0b"),
        (b"name=null", "null"),
        (b"=x&name=a&=", "a"),
    ],
)
def test_forms_are_read_as_the_url_standard_has_it(body: bytes, name: str) -> None:
    assert read(GUEST, body, URL_ENCODED) == Guest(name)
    assert read(
        GUEST, gzip.compress(body) and body, "Application/X-WWW-Form-URLencoded; charset=UTF-8"
    ) == Guest(name)


def test_names_of_fields_may_hold_any_text_too() -> None:
    assert read(Annotated[dict[str, str], Form()], "größe=é&=x".encode(), URL_ENCODED) == {
        "größe": "é",
        "": "x",
    }


@pytest.mark.parametrize("charset", ["utf-16", "UTF-32LE", "klingon"])
def test_a_form_in_a_charset_that_it_can_not_come_in_is_a_415(charset: str) -> None:
    assert refused(GUEST, b"name=a", f"{URL_ENCODED}; charset={charset}")[0] == 415


@pytest.mark.parametrize("body", [b"name=%ff", b"name=\xff", b"\xff=a", b"name=%C3"])
def test_a_form_that_is_not_in_utf_8_is_malformed(body: bytes) -> None:
    assert refused(GUEST, body, URL_ENCODED)[0] == 400


def test_a_field_that_is_not_known_may_come_twice_unless_none_may_come() -> None:
    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        name: str

    assert read(GUEST, b"name=a&x=1&x=2", URL_ENCODED) == Guest("a")
    assert read(GUEST, b"name=a&tags=1&tags=2&news=on", URL_ENCODED) == Guest(
        "a", None, ["1", "2"], True
    )
    assert refused(GUEST, b"name=a&name=b", URL_ENCODED)[0] == 422
    assert refused(Annotated[dict[str, str], Form()], b"a=1&a=2", URL_ENCODED)[0] == 422
    with pytest.raises(Refusal) as raised:
        read(Annotated[Strict, Form()], b"name=a&x/y=1&x/y=2", URL_ENCODED)
    assert raised.value.extra["errors"] == [{"pointer": "/x~1y", "detail": "Not known here"}]


def part(*lines: str, body: bytes = b"Ann") -> bytes:
    return b"--x\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n"


def multipart(*parts: bytes, charset: str = "") -> Guest | dict[str, Any]:
    given: Any = read(
        Annotated[dict[str, Any], Form()],
        b"".join(parts) + b"--x--\r\n",
        f"multipart/form-data; boundary=x{charset}",
    )
    return given


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Disposition: form-data",),
        ('Content-Disposition: form-data; filename="c4n4ry"',),
        ("Content-Disposition: form-data; name",),
        ('Content-Disposition: form-data; name="a',),
        ("Content-Type: text/plain",),
        ("X: c4n4ry",),
        ('Content-Disposition: attachment; name="a"',),
        ('Content-Disposition: name="a"',),
        ('Content-Disposition: form-data; name="a"; name="b"',),
        ("Content-Disposition: form-data; name=\"a\"; name*=utf-8''b",),
        ('Content-Disposition: form-data; name="a"; filename="b"; filename="c"',),
        ('Content-Disposition: form-data; name="a"', 'Content-Disposition: form-data; name="b"'),
    ],
)
def test_a_part_that_does_not_say_which_field_it_is_is_malformed(headers: tuple[str, ...]) -> None:
    kinds: tuple[Any, ...] = (Annotated[dict[str, Any], Form()], Annotated[Picture, Form()])
    for kind in kinds:
        for form in (
            part(*headers),
            part('Content-Disposition: form-data; name="title"') + part(*headers),
        ):
            assert refused(kind, form + b"--x--\r\n", "multipart/form-data; boundary=x")[0] == 400


def test_names_and_file_names_come_in_any_script() -> None:
    form = multipart(
        part('content-disposition: Form-Data; name="größe"'),
        part('Content-Disposition: form-data; name="b"; filename="Łódź \\"1\\".pdf"'),
        part("Content-Disposition: form-data; name=c; filename*=UTF-8''%C5%81.pdf"),
        part('Content-Disposition: form-data; name="d"; filename="say %22hi%22.txt"'),
        part('Content-Disposition: form-data; name=""'),
    )

    assert isinstance(form, dict)
    assert (form["größe"], form[""]) == ("Ann", "Ann")
    assert [form[name].filename for name in "bcd"] == ['Łódź "1".pdf', "Ł.pdf", 'say "hi".txt']


def test_a_field_is_in_the_charset_of_its_own_part_or_of_the_form() -> None:
    field_a, latin = 'Content-Disposition: form-data; name="a"', "Größe".encode("latin-1")

    assert multipart(part(field_a, "Content-Type: text/plain; charset=latin-1", body=latin)) == {
        "a": "Größe"
    }
    assert multipart(part(field_a, body=latin), charset="; charset=latin-1") == {"a": "Größe"}
    assert multipart(
        part(field_a, "Content-Type: text/plain; charset=utf-8", body="é".encode()),
        charset="; charset=latin-1",
    ) == {"a": "é"}
    assert multipart(part(field_a, body=BOM + b"a")) == {"a": "\ufeffa"}
    for lines, body, status in (
        ((field_a,), latin, 400),
        ((field_a, "Content-Type: text/plain; charset=klingon"), b"a", 415),
        ((field_a, "Content-Transfer-Encoding: base64"), b"QQ==", 415),
    ):
        assert (
            refused(
                Annotated[dict[str, Any], Form()],
                part(*lines, body=body) + b"--x--\r\n",
                "multipart/form-data; boundary=x",
            )[0]
            == status
        )


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=x; boundary=y",
    ],
)
def test_a_form_without_one_boundary_is_malformed(content_type: str) -> None:
    assert (
        refused(
            Annotated[dict[str, Any], Form()],
            part('Content-Disposition: form-data; name="a"') + b"--x--\r\n",
            content_type,
        )[0]
        == 400
    )


def test_a_media_type_is_known_in_any_case() -> None:
    body = part('Content-Disposition: form-data; name="a"') + b"--x--\r\n"

    assert read(Annotated[dict[str, Any], Form()], body, "Multipart/Form-Data; Boundary=x") == {
        "a": "Ann"
    }


LINES = st.lists(
    st.sampled_from(
        [
            'Content-Disposition: form-data; name="a"', "Content-Disposition: form-data",
            'Content-Disposition: form-data; filename="f"',
            "Content-Type: text/plain; charset=latin-1", "Content-Type: ;;=",
            "Content-Disposition:", ": x", "", "\xff: \xff", "\r", "X",
            "Content-Disposition: form-data; name*0=a; name*1=b",
            "Content-Disposition: form-data; name*=x''%ff", "Content-Transfer-Encoding: base64",
        ]
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(
            LINES, st.binary(max_size=8) | st.sampled_from([b"--x", b"\r\n--x--", b"\n--x\n"])
        ),
        max_size=3,
    ),
    st.binary(max_size=5),
)
def test_no_multipart_form_is_an_outage(parts: list[tuple[list[str], bytes]], end: bytes) -> None:
    form = b"".join(part(*lines, body=body) for lines, body in parts) + b"--x--\r\n" + end
    for whole in (form, form[:-7]):
        with suppress(Refusal):
            read(Annotated[Picture, Form()], whole, "multipart/form-data; boundary=x")
        calls.pop().end()


def test_parameters_are_read_with_their_quotes() -> None:
    assert parameters_of('a/b; X=1; y="; z=2\\""; y=3 ;z') == [
        ("x", "1"),
        ("y", '; z=2"'),
        ("y", "3"),
    ]
    assert charset_of("") == charset_of("text/plain") == "utf-8"


def test_a_query_that_is_not_escaped_is_utf_8(penstock_runtime: Callable[..., Any]) -> None:
    pipeline = Pipeline("echo", version="1.0.0", trigger=HttpTrigger())

    @pipeline.get("/")
    def echo(call: Call, *, name: str, more: list[int] | None = None) -> dict[str, object]:
        return {"name": name, "more": more}

    plugin = SimpleNamespace(__name__="echo", penstock_pipelines=hookimpl(lambda: [pipeline]))
    client = penstock_runtime(plugin, policy="any").anonymous()

    def get(query: bytes) -> Any:
        return client.get(
            "/v1/echo/", environ_overrides={"QUERY_STRING": query.decode("latin-1")}
        ).json

    assert get("name=José".encode()) == {"name": "José", "more": None}
    assert get(b"name=Jos%C3%A9&more=1&more=2") == {"name": "José", "more": [1, 2]}
    assert get(b"name=a&more=1") == {"name": "a", "more": [1]}
    assert get(b"name=\xff") == {"name": "\ufffd", "more": None}
    assert get(b"name=a&more=c4n4ry")["errors"] == [
        {"parameter": "more", "in": "query", "detail": "Expected `int`, got `str`"}
    ]
