"""Annotations that can never work are reported at load, in every place, with the fix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NoReturn, TypedDict
from uuid import UUID
from xml.etree.ElementTree import Element

import msgspec
import pydantic
import pytest

from penstock import Call, Form, Header, HttpTrigger, Pipeline, Reply, Token, Upload
from penstock.endpoints.compiler import compile_routes
from penstock.endpoints.endpoint import Endpoint
from penstock.errors import Refusal
from penstock.testing import a_call


class Thing:
    """A plain class: nothing decodes into it, and nothing writes it."""


class Colour(Enum):
    RED = "red"


class Shaded(Enum):
    DARK = "dark"


class Row(NamedTuple):
    name: str


class Named(TypedDict):
    name: str


class Model(pydantic.BaseModel):
    name: str


class Node(msgspec.Struct):
    kids: list[Node] = []
    data: Mapping[str, Any] = {}


@dataclass
class Person:
    name: str
    note: Path | None = None  # a handler may fill it in


@dataclass
class Locked:
    name: str
    lock: threading.Thread


@dataclass(frozen=True)
class Frozen:
    name: str


@dataclass
class Picture:
    title: str
    image: Upload
    more: list[Upload] = field(default_factory=list)
    kinds: ClassVar[list[Thing]] = []
    born: date | None = None


@dataclass
class Nested:
    person: Person


def compiled(
    handler: Callable[..., object], path: str = "/", method: str = "POST"
) -> tuple[list[Endpoint], str]:
    pipeline = Pipeline("example", version="1.0.0", trigger=HttpTrigger())
    pipeline.route(method, path)(handler)
    endpoints, problems = compile_routes(pipeline)
    return endpoints, "; ".join(f"{item.problem}; {item.fix}" for item in problems)


def with_hint(place: str, kind: Any) -> str:
    """Return what is wrong with a handler that has an annotation in a place."""

    def in_path(value): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    def in_query(*, value): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    def as_body(value): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    def as_reply(): ...  # type: ignore[no-untyped-def]  # noqa: ANN202

    if place == "header":
        kind = Annotated[kind, Header()]
    handler: Any = {
        "path": in_path,
        "query": in_query,
        "header": in_query,
        "body": as_body,
        "form": as_body,
        "reply": as_reply,
    }[place]
    handler.__annotations__ = {
        "return" if place == "reply" else "value": (
            Annotated[kind, Form()] if place == "form" else kind
        )
    }
    endpoints, problems = compiled(handler, "/{value}" if place == "path" else "/")
    assert bool(endpoints) is not bool(problems)
    return problems


TEXTS: list[Any] = [
    str,
    int,
    float,
    bool,
    bytes,
    date,
    UUID,
    Decimal,
    Colour,
    Literal["a", "b"],
    Literal[1, 2],
    Any,
    object,
    str | None,
    int | None,
]
LISTS: list[Any] = [
    list,
    list[int],
    set[str],
    frozenset[int],
    tuple[int, ...],
    tuple[int, str],
    Sequence[str],
    list[str] | None,
    Annotated[list[int], "x"],
    int | list[int],
]
NO_TEXTS: list[Any] = [
    dict,
    dict[str, int],
    Person,
    Named,
    Node,
    Model,
    Thing,
    Path,
    Row,
    Upload,
    Thing | None,
    None,
    msgspec.Raw,
]
NO_LISTS: list[Any] = [
    list[Person],
    list[dict[str, int]],
    list[list[int]],
    tuple[int, Thing],
    list[Thing] | None,
    set[list[str]],
    list[Model],
]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_what_text_can_become_works_in_path_query_and_headers(kind: Any) -> None:
    assert [with_hint(place, kind) for place in ("path", "query", "header")] == ["", "", ""]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_lists_of_that_work_in_query_and_headers_and_not_in_a_path(kind: Any) -> None:
    assert [with_hint(place, kind) for place in ("query", "header")] == ["", ""]
    if kind != int | list[int]:
        assert "'value' can't be a" in with_hint("path", kind)


@pytest.mark.parametrize("kind", [*NO_TEXTS, *NO_LISTS], ids=str)
def test_types_that_text_can_not_become_are_reported_in_path_query_and_headers(kind: Any) -> None:
    for place in ("path", "query", "header"):
        message = with_hint(place, kind)
        assert "'value' can't be a" in message
        assert message.endswith("use str, int, or another type that text can become")


@pytest.mark.parametrize(
    "kind",
    [
        dict,
        list,
        Person,
        Node,
        Model,
        Named,
        Row,
        list[Model],
        dict[str, Model],
        dict[int, Person],
        dict[Colour, int],
        dict[UUID, int],
        Any,
        object,
        int,
        str,
        bytes,
        Element,
        msgspec.Raw,
        set[int],
        set[Frozen],
        frozenset[tuple[int, ...]],
        Iterable[int],
        Model | None,
        Literal["a"],
        date,
        set,
        None,
    ],
    ids=str,
)
def test_what_a_body_can_become_works(kind: Any) -> None:
    assert with_hint("body", kind) == ""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Thing, "JSON can't become Thing"),
        (Thing | None, "JSON can't become Thing"),
        (list[Thing], "JSON can't become Thing"),
        (dict[str, list[Thing]], "JSON can't become Thing"),
        (Locked, "its field lock: JSON can't become Thread"),
        (list[Locked], "its field lock: JSON can't become Thread"),
        (Path, "JSON can't become"),
        (Upload, "JSON can't become Upload"),
        (Callable[[], int], "JSON can't become Callable"),
        (Iterator[bytes], "JSON can't become Iterator"),
        (dict[Person, int], "can't become the keys of this dict"),
        (dict[tuple[int, int], int], "can't become the keys of this dict"),
        (set[list[int]], "list has no hash, so it can't be in a set"),
        (set[Person], "Person has no hash, so it can't be in a set"),
        (frozenset[dict[str, int]], "dict has no hash, so it can't be in a set"),
        (int | Thing, "not supported"),
        (msgspec.msgpack.Ext, "JSON can't become"),
        (Annotated[str, Header()], "a header is no body: let it stand after the *"),
    ],
    ids=str,
)
def test_types_that_a_body_can_not_become_are_reported(kind: Any, expected: str) -> None:
    message = with_hint("body", kind)

    assert "the body can't be decoded into" in message
    assert expected in message
    assert message.endswith("use a dataclass, TypedDict, msgspec Struct or Pydantic model")


@pytest.mark.parametrize(
    "kind",
    [
        Person,
        Named,
        Picture,
        dict,
        dict[str, str],
        dict[str, list[str]],
        dict[str, Any],
        Mapping[str, Upload | str],
    ],
    ids=str,
)
def test_what_a_form_can_become_works(kind: Any) -> None:
    assert with_hint("form", kind) == ""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (int, "a form has fields"),
        (list[str], "a form has fields"),
        (Model, "a form has fields"),
        (Person | None, "a form has fields"),
        (Nested, "its field person: text can't become Person"),
        (Locked, "its field lock: text can't become Thread"),
        (dict[str, Person], "text can't become Person"),
        (dict[str, list[Model]], "text can't become Model"),
    ],
    ids=str,
)
def test_types_that_a_form_can_not_become_are_reported(kind: Any, expected: str) -> None:
    assert expected in with_hint("form", kind)


@pytest.mark.parametrize(
    "kind",
    [
        None,
        dict,
        list,
        str,
        bytes,
        int,
        Person,
        Named,
        Row,
        Node,
        Model,
        list[Model],
        Model | None,
        Reply,
        Reply | Person,
        Token,
        Person | Frozen,
        list[Person | Frozen],
        NoReturn,
        Any,
        object,
        Iterable[int],
        Mapping[str, int],
        set[int],
        Colour,
        Decimal,
        date,
        UUID,
        Literal["a"],
        Annotated[dict, "x"],
        msgspec.Raw,
        tuple[int, ...],
    ],
    ids=str,
)
def test_what_can_be_replied_works(kind: Any) -> None:
    assert with_hint("reply", kind) == ""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Iterator[bytes], "Iterator[bytes] is nothing to reply with"),
        (Generator[bytes, None, None], "is nothing to reply with"),
        (Path, "Path is nothing to reply with"),
        (Thing, "Thing is nothing to reply with"),
        (Thing | None, "Thing is nothing to reply with"),
        (list[Thing], "Thing is nothing to reply with"),
        (dict[str, list[Thing]], "Thing is nothing to reply with"),
        (Person | Thing, "Thing is nothing to reply with"),
        (Annotated[Thing, "x"], "Thing is nothing to reply with"),
        (Locked, "its field lock: Thread is nothing to reply with"),
        (Element, "Element is nothing to reply with"),
        (complex, "complex is nothing to reply with"),
        (Callable[[], int], "is nothing to reply with"),
    ],
    ids=str,
)
def test_types_that_can_not_be_replied_are_reported(kind: Any, expected: str) -> None:
    message = with_hint("reply", kind)

    assert "handler as_reply of POST /: its reply can't be a" in message
    assert expected in message
    assert message.endswith("return a dict, a dataclass, a list, text, bytes, None or a Reply")


def test_a_generator_as_handler_is_reported() -> None:
    def stream(call: Call):  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield b"a"

    assert (
        "handler stream of POST / yields: a reply is sent as a whole; return a dict"
        in compiled(stream)[1]
    )


@pytest.mark.parametrize("name", ["X Trace", "X_Trace", "Größe", "X:"])
def test_a_header_that_is_never_passed_on_is_reported(name: str) -> None:
    def take(call: Call, *, trace: Annotated[str, Header(name)] = "") -> None: ...

    take.__annotations__ = {"trace": Annotated[str, Header(name)], "return": None}
    assert "is named" in compiled(take)[1]


def test_a_form_after_the_star_is_reported() -> None:
    def take(call: Call, *, person: Annotated[Person, Form()]) -> None: ...

    assert "a form is a body: let it stand before the *" in compiled(take)[1]


def get(handler: Callable[..., object], **parts: Any) -> Any:
    (endpoint,), problems = compiled(handler, method="GET")
    assert problems == ""
    return endpoint.run(a_call(**parts))


def test_a_list_in_the_query_may_be_optional() -> None:
    def find(
        call: Call,
        *,
        opt: list[str] | None = None,
        numbers: Annotated[set[int] | None, msgspec.Meta(description="x")] = None,
        tags: Annotated[list[str], Header("X-Wanted")] | None = None,
        either: int | list[int] = 0,
        pair: tuple[int, str] | None = None,
    ) -> list[object]:
        return [opt, numbers, tags, either, pair]

    assert get(find) == [None, None, None, 0, None]
    assert get(find, query_string="opt=a&numbers=1&either=5") == [["a"], {1}, None, [5], None]
    query = "opt=a&opt=b&numbers=1&numbers=2&pair=1&pair=x"
    assert get(find, query_string=query, headers={"X-Wanted": "a,, b ,"}) == [
        ["a", "b"], {1, 2}, ["a", "b"], 0, (1, "x"),
    ]  # fmt: skip


def test_a_parameter_that_fits_no_choice_is_answered_with_the_choices_only() -> None:
    def find(
        call: Call,
        *,
        colour: Colour | None = None,
        kind: Literal["a", "b"] = "a",
        level: Annotated[Literal[1, 2], Header()] = 1,
        many: list[Shaded] | None = None,
    ) -> None: ...

    with pytest.raises(Refusal) as raised:
        get(
            find,
            query_string="colour=c4n4ry&kind=c4n4ry&many=dark&many=c4n4ry",
            headers={"Level": "3"},
        )
    assert {item["parameter"]: item["detail"] for item in raised.value.extra["errors"]} == {  # type: ignore[attr-defined]  a list of dicts
        "colour": 'Expected one of "red"',
        "kind": 'Expected one of "a", "b"',
        "Level": "Expected one of 1, 2",
        "many": 'Expected one of "dark"',
    }
