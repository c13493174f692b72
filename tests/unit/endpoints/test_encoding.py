"""Results of steps come back unchanged, and results of handlers become JSON, also those that JSON
and MessagePack have no types for."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections import ChainMap, OrderedDict, deque, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from penstock.endpoints.encoding import encode_json, pack, unpack


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 2


class Mixed(Enum):
    PAIR = (1, 2)
    WORD = "word"


class Rights(Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: Any = None


class Camel(msgspec.Struct, rename="camel", tag=True, array_like=True):
    two_words: int
    more: Any = None


class Model(BaseModel):
    number: int = Field(alias="theNumber")
    point: Point | None = None


class Pair(NamedTuple):
    first: int
    second: Any


Plain = namedtuple("Plain", "a b")  # noqa: PYI024  as plugins may write it

SET_BACK = datetime(2026, 10, 25, 1, 30, fold=1, tzinfo=ZoneInfo("Europe/Lisbon"))
ODD_ZONE = timezone(timedelta(hours=5, seconds=7), "odd")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.fractions(),
    st.dates(),
    st.times(timezones=st.none() | st.just(UTC) | st.just(ODD_ZONE)),
    st.datetimes(timezones=st.none() | st.timezones() | st.just(ODD_ZONE)),
    st.timedeltas(),
    st.uuids(),
    st.ip_addresses(),
    st.decimals(allow_nan=False),
    st.sampled_from([Colour.RED, Level.HIGH, *Mixed, Rights.READ | Rights.WRITE, Path("/a/b")]),
)
HASHABLES = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
VALUES = st.recursive(
    SCALARS | st.floats() | st.complex_numbers(allow_nan=False) | st.decimals(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(HASHABLES, inner, max_size=4),
        st.sets(HASHABLES, max_size=4),
        st.builds(Point, st.floats(), inner),
        st.builds(Camel, st.integers(), inner),
        st.builds(Pair, st.integers(), inner),
    ),
    max_leaves=12,
)


def comparable(value: Any) -> object:
    """Return a value that is equal for two values of the same type and content; NaN equals NaN."""
    inner: object = value
    if isinstance(value, float | Decimal):
        inner = str(value)
    elif isinstance(value, list | tuple):
        inner = [comparable(item) for item in value]
    elif isinstance(value, dict):
        inner = comparable(list(value.items()))
    elif isinstance(value, Point):
        inner = comparable([value.x, value.y])
    elif isinstance(value, Camel):
        inner = comparable([value.two_words, value.more])
    elif isinstance(value, datetime | time):
        inner = value.isoformat(), value.fold
    return type(value), inner


def same(first: Any, other: Any) -> bool:
    return comparable(first) == comparable(other)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_a_step_result_comes_back_as_it_was(value: Any) -> None:
    assert same(unpack(pack(value)), value)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_a_reply_is_json_with_any_content(value: Any) -> None:
    encoded = encode_json(value)

    json.loads(encoded)
    msgspec.json.decode(encoded)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats()),
    st.dictionaries(st.integers(), st.decimals()),
    st.sets(st.datetimes()),
    st.tuples(st.integers(), st.binary()),
)
def test_an_annotated_result_comes_back_as_it_was(
    floats: Any, prices: Any, moments: Any, pair: Any
) -> None:
    for value, kind in (
        (floats, list[float]),
        (prices, dict[int, Decimal]),
        (moments, set[datetime]),
        (pair, tuple[int, bytes]),
    ):
        assert same(unpack(pack(value), kind), value)


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        (math.nan, float, math.nan),
        (1, float, 1.0),
        ({1: 2}, dict[str, int], {"1": 2}),
        ([1, 2], tuple[int, ...], (1, 2)),
        (Point(1.0), Point, Point(1.0)),
        ([Point(math.inf)], list[Point], [Point(math.inf)]),
        (Point(1.0), dict, {"x": 1.0, "y": None}),
        ({"x": 1.0}, Point, Point(1.0)),
        (Model(theNumber=2, point=Point(1.0)), Model, Model(theNumber=2, point=Point(1.0))),
        ([Mixed.PAIR], list[Mixed], [Mixed.PAIR]),
        (Plain(1, 2), Plain, Plain(1, 2)),
        ("red", Colour, Colour.RED),
        (Path("/x/\udcff"), Path, Path("/x/\udcff")),
        (SET_BACK, datetime, SET_BACK),
    ],
)  # fmt: skip
def test_a_result_is_read_as_its_annotation_says(value: Any, kind: Any, read: Any) -> None:
    assert same(unpack(pack(value), kind), read)


def test_an_object_of_a_class_that_is_not_there_any_more_is_what_it_was_made_of() -> None:
    @dataclasses.dataclass
    class Local:
        number: float

    @dataclasses.dataclass
    class Wanted:
        number: float

    packed = pack({"local": Local(math.inf)})

    assert unpack(packed) == {"local": {"number": math.inf}}
    assert unpack(packed, dict[str, Wanted]) == {"local": Wanted(math.inf)}


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        object,
        lambda: (item for item in "x"),
        lambda: {"deep": [{1: threading.Lock()}]},
    ],
)
@pytest.mark.parametrize("keep", [pack, encode_json])
def test_what_is_no_value_is_refused(
    make: Callable[[], object], keep: Callable[[object], bytes]
) -> None:
    with pytest.raises(TypeError, match="is nothing to reply with"):
        keep(make())


class Loud(str):
    """A text that says something else than it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ([math.nan, math.inf, -math.inf], "[null,null,null]"),
        ({"a\ud800": "\udfff"}, '{"a\N{REPLACEMENT CHARACTER}":"\N{REPLACEMENT CHARACTER}"}'),
        (
            {True: 1, False: 0, None: 2, (1, 2): 3, 1.5: 4, 7: 5},
            '{"true":1,"false":0,"null":2,"(1, 2)":3,"1.5":4,"7":5}',
        ),
        ({Mixed.PAIR: Mixed.WORD, Colour.RED: Level.HIGH}, None),
        (2**80, str(2**80)),
        (Decimal("1.10"), '"1.10"'),
        (
            {"a": {1}, "b": frozenset("x"), "c": deque([1]), "d": {"k": 1}.values(), "e": range(2)},
            '{"a":[1],"b":["x"],"c":[1],"d":[1],"e":[0,1]}',
        ),
        ([OrderedDict(a=1), ChainMap({"b": 2})], '[{"a":1},{"b":2}]'),
        ([b"\xff", bytearray(b"x"), memoryview(b"y")], '["/w==","eA==","eQ=="]'),
        ([Fraction(1, 3), 1 + 2j, Path("/x/\udcff"), ip_address("::1"), UUID(int=5)], None),
        ([Loud("quiet"), {Loud("quiet"): date(2026, 1, 2)}], '["quiet",{"quiet":"2026-01-02"}]'),
        (Point(math.nan, {(1,): "\ud800"}), '{"x":null,"y":{"(1,)":"\N{REPLACEMENT CHARACTER}"}}'),
    ],
)  # fmt: skip
def test_the_nearest_thing_is_sent(value: Any, sent: str | None) -> None:
    encoded = encode_json(value).decode()

    json.loads(encoded)
    assert sent in (None, encoded)
