"""Faults of bodies: each with where it is, a hundred at most, and without more work than decoding was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NewType, NotRequired, Optional, Self, TypedDict

import msgspec
import pydantic
import pytest

from penstock.errors import Refusal
from penstock.runs import faults
from penstock.runs.bodies import compile_body
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
    """Return what is told of a body that does not fit, by pointer."""
    with pytest.raises(Refusal) as raised:
        compile_body("body", kind).read(a_call(body=body))
    assert (raised.value.status, raised.value.code) == (422, "body-invalid")
    told = raised.value.extra["errors"]
    assert isinstance(told, list)
    return {fault["pointer"]: fault["detail"] for fault in told}


INT, TEXT, MISSING = "Expected `int`, got `str`", "Expected `str`, got `int`", "Required, and missing"


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        (
            list[Person],
            b'[{"name":"a"},{"name":1,"home":{"street":2},"work":{"zip":"x","street":3}},{}]',
            {"/1/name": TEXT, "/1/home/street": TEXT, "/1/home/zip": MISSING, "/1/work/zip": INT, "/1/work/street": TEXT, "/2/name": MISSING},
        ),
        (Change, b'{"size":"x","tags":[1,"x",2,"y"]}', {"/size": INT, "/tags/1": INT, "/tags/3": INT, "/path": MISSING}),
        (Everything, b'{"counts":{"1":"a","2":3},"kind":"c"}', {"/counts/2": TEXT, "/kind": "Invalid enum value 'c'"}),
        (Everything, b'{"counts":{"1":"a"},"number":"x"}', {"/number": INT}),
        (Everything, b'{"counts":{"1":"a","x/y":"b","z":"c"}}', {"/counts/x~1y": INT, "/counts/z": INT}),
        (
            Everything,
            b'{"maps":{"a":{"b":{"street":"s","zip":1},"c":{"street":1,"zip":"x"}},"d":5},"kind":"c"}',
            {"/maps/a/c/street": TEXT, "/maps/a/c/zip": INT, "/maps/d": "Expected `object`, got `int`", "/kind": "Invalid enum value 'c'"},
        ),
        (
            Everything,
            b'{"pets":[{"type":"cat","lives":"x"},{"type":"dog","tricks":[1,"a",2]},{"type":"cow"}],"number":"x"}',
            {"/pets/0/lives": INT, "/pets/1/tricks/0": TEXT, "/pets/1/tricks/2": TEXT, "/pets/2/type": "Invalid value 'cow'", "/number": INT},
        ),
        (
            Everything,
            b'{"pair":[1,2],"many":[1,"x","y"],"few":[1,2,3],"plus":{"number":-1},"number":"x"}',
            {"/pair/1": TEXT, "/many/1": INT, "/many/2": INT, "/few": "Expected `array` of length <= 2", "/plus": "below zero", "/number": INT},
        ),
        (Everything, b'{"number":"x","raw":{"any":"thing"},"either":["x",1,"y"]}', {"/number": INT, "/either/0": INT, "/either/2": INT}),
        (
            Strict,
            b'{"type":"strict","a.b[0]/c":"x","zz":1,"aa":2}',
            {"/a.b[0]~1c": INT, "/first-name": MISSING, "/aa": "Not known here", "/zz": "Not known here"},
        ),
        (Strict, b'{"type":"loose","first-name":1}', {"/type": "Invalid value 'loose'", "/first-name": TEXT}),
        (
            list[Model],
            b'[{"street":5},{"street":"a","zip":1},{"street":"a","zip":1,"packed":"{"}]',
            {
                "/0/street": "Input should be a valid string",
                "/0/zip": "Field required",
                "/2/packed": "Invalid JSON: EOF while parsing an object at line 1 column 1",
            },
        ),
        (dict[str, dict[str, Model]], b'{"a":{"b":{"street":5,"zip":1}}}', {"/a/b/street": "Input should be a valid string"}),
        (Person, b"[]", {"": "Expected `object`, got `array`"}),
        (Person, b'{"name":1,"name":"a"}', {"/name": TEXT}),
    ],
)
def test_every_fault_is_told_where_it_is(kind: Any, body: bytes, told: Mapping[str, str]) -> None:
    assert read(kind, body) == told


def test_a_fault_in_json_within_json_is_no_malformed_body() -> None:
    assert list(read(Model, b'{"street":"a","zip":1,"packed":"{"}')) == ["/packed"]


def test_a_hundred_are_told_and_no_more_are_looked_for() -> None:
    Looked.times = 0

    assert list(read(list[Looked], b"[" + b",".join([b"false"] * 50_000) + b"]")) == [f"/{number}" for number in range(faults.MOST)]
    assert Looked.times <= faults.MOST + 1


def test_what_lies_before_a_fault_is_not_converted_again_however_deep_it_is() -> None:
    """Each leaf is decoded once to meet the fault; the walk to it and past it may look at each once more, not once a level."""
    body = b'{"leaves":[' + b",".join([b"true"] * 5_000) + b",false" + b",true" * 5_000 + b"]}"
    for _ in range(150):
        body = b'{"kids":[' + body + b',{"leaves":[true]}]}'
    Looked.times = 0

    assert list(read(Tree, body)) == ["/kids/0" * 150 + "/leaves/5000"]
    assert Looked.times <= 10_001 + 150 + 1_000


def test_dicts_within_dicts_are_gone_through_a_few_times_and_no_more() -> None:
    body = b'{"leaves":[' + b"true," * 5_000 + b"false]}"
    for _ in range(100):
        body = b'{"named":{"a":' + body + b"}}"
    Looked.times = 0

    assert read(Tree, body) == {"/named/a" * faults.MAPS + "/named": "does not fit"}
    assert Looked.times <= 5_001 * (faults.MAPS + 2)


def test_a_fault_too_deep_to_walk_to_is_told_all_the_same() -> None:
    value: object = {"leaves": [False]}
    for _ in range(1_000):
        value = {"kids": [value]}
    met = msgspec.ValidationError(f"does not fit - at `${'.kids[0]' * 1_000}.leaves[0]`")

    assert faults.all_faults(Tree, value, met) == [{"pointer": "/kids/0" * 1_000 + "/leaves/0", "detail": "does not fit"}]


def test_what_pydantic_found_is_listed_unless_it_is_far_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    class Names(pydantic.BaseModel):
        names: list[str]

    def body(count: int) -> bytes:
        return b'{"names":[' + b",".join([b"1"] * count) + b"]}"

    assert list(read(Names, body(faults.MOST + 20))) == [f"/names/{number}" for number in range(faults.MOST)]
    assert read(Names, body(faults.MOST_TOLD_BY_PYDANTIC + 1)) == {"": f"{faults.MOST_TOLD_BY_PYDANTIC + 1} faults, too many to list"}


def test_the_answer_says_when_there_may_be_more() -> None:
    assert faults.invalid([{"pointer": "", "detail": "x"}]).detail == "The body does not fit: 1 fault."
    assert faults.invalid([{"pointer": "", "detail": "x"}] * faults.MOST).detail == "The body does not fit: 100 faults or more."
