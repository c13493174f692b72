"""Faults of bodies: each with where it is, a hundred at most, and without more work than
decoding was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Self,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import msgspec
import pydantic
import pytest

from penstock.endpoints import faults, models, validation
from penstock.endpoints.decoders import compile_body
from penstock.errors import Refusal
from penstock.testing import a_call


class Looked:
    """A type of ours that counts how often one is decoded; `False` does not fit."""

    times: ClassVar[int] = 0

    @classmethod
    def model_validate(cls, value: object) -> Self:
        Looked.times += 1
        if value is False:
            raise ValueError("does not fit")
        return cls()


class Tree(msgspec.Struct):
    kids: list[Tree] = []
    leaves: list[Looked] = []
    named: dict[str, Tree] = {}


Number = NewType("Number", int)
T = TypeVar("T")


@dataclass
class Address:
    street: str
    zip: int


@dataclass
class Person:
    name: str
    home: Address | None = None
    work: Optional[Annotated[Address, "where they work"]] = None  # noqa: UP045  as many still write it


class Change(TypedDict):
    path: str
    size: NotRequired[int]
    tags: NotRequired[Annotated[list[int], "any"]]


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    tricks: list[str]


class Strict(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, tag="strict"):
    first_name: str
    odd_name: int = msgspec.field(name="a.b[0]/c", default=0)


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("below zero")


class Model(pydantic.BaseModel):
    street: str
    zip: int
    packed: pydantic.Json[int] | None = None


class Page(msgspec.Struct, Generic[T]):
    items: list[T]
    next: T | None = None


class Place(NamedTuple):
    name: str
    at: dict[str, int] = {}  # noqa: RUF012  read alone


class Row(msgspec.Struct, array_like=True, tag="row"):
    name: str
    cells: list[int] = []


class Grade(Enum):
    GOOD = "good"
    BAD = "bad"


@dataclass
class Everything:
    counts: dict[int, str] = field(default_factory=dict)
    maps: dict[str, dict[str, Address]] = field(default_factory=dict)
    pets: list[Cat | Dog] = field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    many: tuple[int, ...] = ()
    few: Annotated[list[int], msgspec.Meta(max_length=2)] = field(default_factory=list)
    plus: Positive | None = None
    raw: msgspec.Raw = field(default_factory=msgspec.Raw)
    either: list[int] | dict[str, int] | None = None
    kind: Literal["a", "b"] = "a"
    number: Number = Number(0)


def read(kind: Any, body: bytes) -> dict[str, str]:
    """Return the faults of a body that does not fit, by pointer."""
    with pytest.raises(Refusal) as raised:
        compile_body("body", kind).read(a_call(body=body))
    assert (raised.value.status, raised.value.code) == (422, "body-invalid")
    faults = raised.value.extra["errors"]
    assert isinstance(faults, list)
    return {fault["pointer"]: fault["detail"] for fault in faults}


INT, TEXT, MISSING = (
    "Expected `int`, got `str`",
    "Expected `str`, got `int`",
    "Required, and missing",
)
CHOICES, TAGS = 'Expected one of "a", "b"', 'Expected one of "cat", "dog"'


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (
            list[Person],
            b'[{"name":"a"},{"name":1,"home":{"street":2},"work":{"zip":"x","street":3}},{}]',
            {
                "/1/name": TEXT,
                "/1/home/street": TEXT,
                "/1/home/zip": MISSING,
                "/1/work/zip": INT,
                "/1/work/street": TEXT,
                "/2/name": MISSING,
            },
        ),
        (
            Change,
            b'{"size":"x","tags":[1,"x",2,"y"]}',
            {"/size": INT, "/tags/1": INT, "/tags/3": INT, "/path": MISSING},
        ),
        (
            Everything,
            b'{"counts":{"1":"a","2":3},"kind":"c"}',
            {"/counts/2": TEXT, "/kind": CHOICES},
        ),
        (Everything, b'{"counts":{"1":"a"},"number":"x"}', {"/number": INT}),
        (
            Everything,
            b'{"counts":{"1":"a","x/y":"b","z":"c"}}',
            {"/counts/x~1y": INT, "/counts/z": INT},
        ),
        (
            Everything,
            b'{"maps":{"a":{"b":{"street":"s","zip":1},"c":{"street":1,"zip":"x"}},"d":5},"kind":"c"}',
            {
                "/maps/a/c/street": TEXT,
                "/maps/a/c/zip": INT,
                "/maps/d": "Expected `object`, got `int`",
                "/kind": CHOICES,
            },
        ),
        (
            Everything,
            b'{"pets":[{"type":"cat","lives":"x"},{"type":"dog","tricks":[1,"a",2]},{"type":"cow"}],"number":"x"}',
            {
                "/pets/0/lives": INT,
                "/pets/1/tricks/0": TEXT,
                "/pets/1/tricks/2": TEXT,
                "/pets/2/type": 'Expected one of "cat", "dog"',
                "/number": INT,
            },
        ),
        (
            Everything,
            b'{"pair":[1,2],"many":[1,"x","y"],"few":[1,2,3],"plus":{"number":-1},"number":"x"}',
            {
                "/pair/1": TEXT,
                "/many/1": INT,
                "/many/2": INT,
                "/few": "Expected `array` of length <= 2",
                "/plus": "below zero",
                "/number": INT,
            },
        ),
        (
            Everything,
            b'{"number":"x","raw":{"any":"thing"},"either":["x",1,"y"]}',
            {"/number": INT, "/either/0": INT, "/either/2": INT},
        ),
        (
            Strict,
            b'{"type":"strict","a.b[0]/c":"x","zz":1,"aa":2}',
            {
                "/a.b[0]~1c": INT,
                "/first-name": MISSING,
                "/aa": "Not known here",
                "/zz": "Not known here",
            },
        ),
        (
            Strict,
            b'{"type":"loose","first-name":1}',
            {"/type": 'Expected one of "strict"', "/first-name": TEXT},
        ),
        (
            list[Model],
            b'[{"street":5},{"street":"a","zip":1},{"street":"a","zip":1,"packed":"{"}]',
            {
                "/0/street": "Input should be a valid string",
                "/0/zip": "Field required",
                "/2/packed": "Invalid JSON: EOF while parsing an object at line 1 column 1",
            },
        ),
        (
            dict[str, dict[str, Model]],
            b'{"a":{"b":{"street":5,"zip":1}}}',
            {"/a/b/street": "Input should be a valid string"},
        ),
        (Person, b"[]", {"": "Expected `object`, got `array`"}),
        (Person, b'{"":1}', {"/name": MISSING}),
        (Strict, b'{"":1,"type":"strict"}', {"/first-name": MISSING, "/": "Not known here"}),
        (
            Page[int],
            b'{"items":["x",1,"y"],"next":"z"}',
            {"/items/0": INT, "/items/2": INT, "/next": "Expected `int | null`, got `str`"},
        ),
        (Page[Person], b'{"items":[{"name":1}]}', {"/items/0/name": TEXT}),
        (list[Place], b'[[1,{"a/b":"x"}],["a"]]', {"/0/0": TEXT, "/0/1/a~1b": INT}),
        (
            list[Row],
            b'[["row",1,[1,"x"]],["row"]]',
            {"/0/1": TEXT, "/0/2/1": INT, "/1": "Expected `array` of at least length 2, got 1"},
        ),
        (list[Grade], b'["good","worst"]', {"/1": 'Expected one of "good", "bad"'}),
        (dict[Grade, int], b'{"worst":1}', {"/worst": 'Expected one of "good", "bad"'}),
        (Literal[1, 2] | None, b"3", {"": "Expected one of 1, 2"}),
        (set[Any], b'[1,[2],{"a":3}]', {"/1": faults.UNHASHABLE, "/2": faults.UNHASHABLE}),
        (
            Annotated[dict[str, int], msgspec.Meta(max_length=1)],
            b'{"a":"x","b":1}',
            {"/a": INT, "": "Expected `object` of length <= 1"},
        ),
        (Person, b'{"name":1,"name":"a"}', {"/name": TEXT}),
    ],
)
def test_every_fault_is_reported_where_it_is(
    kind: Any, body: bytes, expected: Mapping[str, str]
) -> None:
    assert read(kind, body) == expected


def test_a_fault_in_json_within_json_is_no_malformed_body() -> None:
    assert list(read(Model, b'{"street":"a","zip":1,"packed":"{"}')) == ["/packed"]


def test_at_most_a_hundred_faults_are_reported() -> None:
    Looked.times = 0

    assert list(read(list[Looked], b"[" + b",".join([b"false"] * 50_000) + b"]")) == [
        f"/{number}" for number in range(validation.MAX_FAULTS)
    ]
    assert Looked.times <= validation.MAX_FAULTS + 1


def test_what_lies_before_a_fault_is_not_converted_again_however_deep_it_is() -> None:
    """Each leaf is decoded once to meet the fault; the walk to it and past it may look at each
    once more, not once a level."""
    body = b'{"leaves":[' + b",".join([b"true"] * 5_000) + b",false" + b",true" * 5_000 + b"]}"
    for _ in range(150):
        body = b'{"kids":[' + body + b',{"leaves":[true]}]}'
    Looked.times = 0

    assert list(read(Tree, body)) == ["/kids/0" * 150 + "/leaves/5000"]
    assert Looked.times <= 10_001 + 150 + 1_000


def test_the_members_of_dicts_within_dicts_are_found_however_deep_they_are() -> None:
    body = b'{"leaves":[false]}'
    for _ in range(150):
        body = b'{"named":{"a/b":' + body + b',"":{}}}'

    assert read(Tree, body) == {"/named/a~1b" * 150 + "/leaves/0": "does not fit"}


def test_large_dicts_within_dicts_are_gone_through_a_few_times_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "MIN_REREAD_BYTES", 0)
    body = b'{"leaves":[' + b"true," * 5_000 + b"false]}"
    for _ in range(100):
        body = b'{"named":{"a":' + body + b"}}"
    Looked.times = 0

    assert read(Tree, body) == {"/named/a" * validation.MAX_REREADS + "/named": "does not fit"}
    assert Looked.times <= 5_001 * (validation.MAX_REREADS + 2)


def test_a_fault_beyond_the_depth_of_the_walk_is_reported_too() -> None:
    value: object = {"leaves": [False]}
    for _ in range(1_000):
        value = {"kids": [value]}
    met = msgspec.ValidationError(f"does not fit - at `${'.kids[0]' * 1_000}.leaves[0]`")

    assert validation.validation_errors(Tree, value, met) == [
        {"pointer": "/kids/0" * 1_000 + "/leaves/0", "detail": "does not fit"}
    ]


def test_what_pydantic_found_is_listed_unless_it_is_far_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Names(pydantic.BaseModel):
        names: list[str]

    def body(count: int) -> bytes:
        return b'{"names":[' + b",".join([b"1"] * count) + b"]}"

    assert list(read(Names, body(validation.MAX_FAULTS + 20))) == [
        f"/names/{number}" for number in range(validation.MAX_FAULTS)
    ]
    assert read(Names, body(models.MAX_COUNTED + 1)) == {
        "": f"{models.MAX_COUNTED + 1} faults, too many to list"
    }


def test_the_answer_says_when_there_may_be_more() -> None:
    assert (
        validation.invalid_body([{"pointer": "", "detail": "x"}]).detail
        == "The body does not fit: 1 fault."
    )
    assert (
        validation.invalid_body([{"pointer": "", "detail": "x"}] * validation.MAX_FAULTS).detail
        == "The body does not fit: 100 faults or more."
    )


def test_numbers_that_are_whole_may_be_written_with_a_point() -> None:
    @dataclass
    class Count:
        number: int
        rest: object = None

    assert compile_body("body", Count).read(a_call(body=b'{"number":7.0}')) == Count(7)
    assert compile_body("body", Count).read(a_call(body=b'{"number":1e3}')) == Count(1000)
    assert read(Count, b'{"number":7.5}') == {"/number": "Expected `int`, got `float`"}
    assert read(Count, b'{"number":1e300}') == {"/number": "Expected `int`, got `float`"}
    assert read(list[Count], b'[{"number":7.0},{"number":"x"}]') == {"/1/number": INT}


NO_INT = "Input should be a valid integer, unable to parse string as an integer"


class Dog2(pydantic.BaseModel):
    kind: Literal["dog"]
    tricks: list[int] = []


class Cat2(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Owner(pydantic.BaseModel):
    pet: Annotated[Cat2 | Dog2, pydantic.Field(discriminator="kind")] | None = None
    either: int | list[Cat2] | dict[str, Cat2] = 0
    ages: dict[int, int] = {}
    id: UUID | None = None
    born: date | None = None
    full_name: str = pydantic.Field("", alias="fullName", max_length=3)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"pet":{"kind":"cat","cat":1}}', {"/pet/lives": "Field required"}),
        (
            b'{"pet":{"kind":"dog","dog":{"tricks":["y"]},"tricks":["x"]}}',
            {"/pet/tricks/0": NO_INT},
        ),
        (b'{"pet":{"kind":"c4n4ry"}}', {"/pet/kind": "Expected one of 'cat', 'dog'"}),
        (b'{"pet":{}}', {"/pet": "Unable to extract tag using discriminator 'kind'"}),
        (
            b'{"ages":{"c4n4ry":1,"2":"x"}}',
            {
                "/ages/c4n4ry": NO_INT,
                "/ages/2": NO_INT,
            },
        ),
        (b'{"id":"c4n4ry"}', {"/id": "Input should be a valid UUID"}),
        (
            b'{"born":"2026-13-01"}',
            {
                "/born": (
                    "Input should be a valid date or datetime, month value is outside expected"
                    " range of 1-12"
                )
            },
        ),
        (b'{"fullName":"c4n4ry"}', {"/fullName": "String should have at most 3 characters"}),
    ],
)
def test_faults_of_pydantic_have_pointers_and_no_values(
    body: bytes, expected: Mapping[str, str]
) -> None:
    assert read(Owner, body) == expected
    assert read(list[Owner], b"[" + body + b"]") == {
        "/0" + pointer: detail for pointer, detail in expected.items()
    }


def test_the_part_of_a_union_that_pydantic_tried_is_no_place_in_the_body() -> None:
    faults = read(Owner, b'{"either":[{"kind":"cat","lives":"x","list[Cat2]":[{}]}]}')

    assert set(faults) == {"/either", "/either/0/lives"}
