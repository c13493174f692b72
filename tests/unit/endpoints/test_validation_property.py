"""Random types and random JSON: a body is never an outage, and each fault is where another look
at the value finds it."""

from __future__ import annotations

import enum
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.contracts.forms import Form
from penstock.endpoints import validation
from penstock.endpoints.decoders import compile_body
from penstock.errors import Refusal
from penstock.testing import a_call

Faults = set[str]
Look = Callable[[object, str], Faults]  # where a value does not fit, from its pointer on
NAMES = [
    "a",
    "b",
    "",
    "a.b",
    "a/b",
    "~",
    "[0]",
    "a[0]",
    ".a",
    "$",
    "`",
    " - at `$.a`",
    "key",
    "ü",
    "type",
]
WORDS = ["", "x", "1", "-5", "cat", "cow", "NaN", "\u2028", "é", "\x00", " - at `$.b`", "null"]
numbers = itertools.count()


def examples(number: int) -> settings:
    """The same examples each time; EXPLORE=10 tries ten times as many new ones."""
    more = int(os.environ.get("EXPLORE", "0"))
    return settings(
        max_examples=number * max(1, more),
        derandomize=not more,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Kind:
    """A type, and what another look says of a value of it."""

    type: Any
    look: Look
    hashable: bool = True
    text_key: Callable[[str], bool] | None = None
    shape: str = ""


def below(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def leaf(
    type_: Any, fits: Callable[[Any], bool], text_key: Callable[[str], bool] | None = None
) -> Kind:
    return Kind(
        type_, lambda value, pointer: set() if fits(value) else {pointer}, text_key=text_key
    )


def is_int(value: object) -> bool:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return whole or (isinstance(value, int) and not isinstance(value, bool))


class Colour(enum.Enum):
    RED = "x"
    BLUE = "cat"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


LEAVES = [
    leaf(int, is_int, lambda text: re.fullmatch(r"-?(0|[1-9]\d*)", text) is not None),
    leaf(str, lambda value: isinstance(value, str), lambda _: True),
    leaf(float, lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    leaf(bool, lambda value: isinstance(value, bool)),
    leaf(Colour, lambda value: value in ("x", "cat"), lambda text: text in ("x", "cat")),
    leaf(Level, lambda value: is_int(value) and value in (1, 2)),
    leaf(
        Literal["x", "1"],
        lambda value: isinstance(value, str) and value in ("x", "1"),
        lambda text: text in ("x", "1"),
    ),
    leaf(Literal[1] | None, lambda value: value is None or (is_int(value) and value == 1)),
    leaf(Annotated[int, msgspec.Meta(ge=0)], lambda value: is_int(value) and value >= 0),
    leaf(
        Annotated[str, msgspec.Meta(max_length=1)],
        lambda value: isinstance(value, str) and len(value) <= 1,
    ),
    leaf(int | str, lambda value: is_int(value) or isinstance(value, str)),
    leaf(None, lambda value: value is None),
]
ANYTHING = Kind(Any, lambda value, pointer: set(), hashable=False)


def a_list(item: Kind) -> Kind:
    def look(value: object, pointer: str) -> Faults:
        if not isinstance(value, list):
            return {pointer}
        return {
            fault for at, entry in enumerate(value) for fault in item.look(entry, f"{pointer}/{at}")
        }

    return Kind(list[item.type], look, hashable=False, shape="list")  # type: ignore[name-defined]  made here


def a_short_list(item: Kind) -> Kind:
    inner = a_list(item).look

    def look(value: object, pointer: str) -> Faults:
        return inner(value, pointer) | (
            {pointer} if isinstance(value, list) and len(value) > 1 else set()
        )

    return Kind(
        Annotated[list[item.type], msgspec.Meta(max_length=1)], look, hashable=False, shape="list"
    )  # type: ignore[name-defined]  made here


def a_set(item: Kind) -> Kind:
    inner = a_list(item).look

    def look(value: object, pointer: str) -> Faults:
        unfit = (
            {f"{pointer}/{at}" for at, entry in enumerate(value) if isinstance(entry, list | dict)}
            if isinstance(value, list)
            else set()
        )
        return inner(value, pointer) | unfit

    return Kind(set[item.type], look, hashable=False, shape="list")  # type: ignore[name-defined]  made here


def a_pair(first: Kind, second: Kind) -> Kind:
    def look(value: object, pointer: str) -> Faults:
        if not isinstance(value, list):
            return {pointer}
        faults = {
            fault
            for at, (kind, entry) in enumerate(zip((first, second), value, strict=False))
            for fault in kind.look(entry, f"{pointer}/{at}")
        }
        return faults | ({pointer} if len(value) != 2 else set())

    return Kind(tuple[first.type, second.type], look, hashable=False, shape="list")  # type: ignore[name-defined]  made here


def a_dict(key: Kind, item: Kind) -> Kind:
    assert key.text_key is not None
    fits = key.text_key

    def look(value: object, pointer: str) -> Faults:
        if not isinstance(value, dict):
            return {pointer}
        return {
            fault
            for name, entry in value.items()
            for fault in (
                item.look(entry, below(pointer, name)) if fits(name) else {below(pointer, name)}
            )
        }

    return Kind(dict[key.type, item.type], look, hashable=False, shape="dict")  # type: ignore[name-defined]  made here


def maybe(kind: Kind) -> Kind:
    return Kind(
        Optional[kind.type],  # noqa: UP045  made here
        lambda value, pointer: set() if value is None else kind.look(value, pointer),
        hashable=False,
        shape="none",
    )


def object_look(
    members: Mapping[str, tuple[Kind, bool]],
    *,
    strict: bool = False,
    tag: tuple[str, str] | None = None,
) -> Look:
    def look(value: object, pointer: str) -> Faults:
        if not isinstance(value, dict):
            return {pointer}
        faults: Faults = set()
        for name, (kind, required) in members.items():
            if name in value:
                faults |= kind.look(value[name], below(pointer, name))
            elif required:
                faults.add(below(pointer, name))
        if tag is not None and tag[0] in value and value[tag[0]] != tag[1]:
            faults.add(below(pointer, tag[0]))
        if strict:
            faults |= {
                below(pointer, name)
                for name in value.keys() - members.keys() - ({tag[0]} if tag else set())
            }
        return faults

    return look


def a_typed_dict(members: Mapping[str, tuple[Kind, bool]]) -> Kind:
    hints = {
        name: kind.type if required else NotRequired[kind.type]
        for name, (kind, required) in members.items()
    }
    return Kind(
        TypedDict(f"T{next(numbers)}", hints), object_look(members), hashable=False, shape="dict"
    )  # type: ignore[operator]  made here


def a_struct(
    members: Mapping[str, tuple[Kind, bool]], *, strict: bool, tag: str | None = None
) -> Kind:
    ordered = sorted(members.items(), key=lambda item: not item[1][1])
    plain = {name: f"f{at}" for at, (name, _) in enumerate(ordered)}
    struct = msgspec.defstruct(
        f"S{next(numbers)}",
        [
            (plain[name], kind.type) if required else (plain[name], kind.type, None)
            for name, (kind, required) in ordered
        ],
        rename={plain: name for name, plain in plain.items()},
        forbid_unknown_fields=strict,
        tag=tag,
        tag_field="type" if tag else None,
    )
    return Kind(
        struct,
        object_look(members, strict=strict, tag=("type", tag) if tag else None),
        hashable=False,
        shape="dict",
    )


def a_dataclass(members: Mapping[str, tuple[Kind, bool]]) -> Kind:
    named = {name: member for name, member in members.items() if name.isidentifier()}
    ordered = sorted(named.items(), key=lambda item: not item[1][1])
    class_ = make_dataclass(
        f"D{next(numbers)}",
        [
            (name, kind.type) if required else (name, kind.type, None)
            for name, (kind, required) in ordered
        ],
    )
    return Kind(class_, object_look(named), hashable=False, shape="dict")


def either(cat: Mapping[str, tuple[Kind, bool]], cow: Mapping[str, tuple[Kind, bool]]) -> Kind:
    parts = {
        "cat": a_struct(cat, strict=False, tag="cat"),
        "cow": a_struct(cow, strict=False, tag="cow"),
    }

    def look(value: object, pointer: str) -> Faults:
        if not isinstance(value, dict):
            return {pointer}
        tag = value.get("type")
        return (
            parts[tag].look(value, pointer)
            if isinstance(tag, str) and tag in parts
            else {below(pointer, "type")}
        )

    return Kind(Union[parts["cat"].type, parts["cow"].type], look, hashable=False, shape="dict")  # noqa: UP007  made here


def list_or_dict(first: Kind, other: Kind) -> Kind:
    as_list, as_dict = a_list(first), a_dict(LEAVES[1], other)

    def look(value: object, pointer: str) -> Faults:
        return (
            as_list.look(value, pointer)
            if isinstance(value, list)
            else as_dict.look(value, pointer)
        )

    return Kind(as_list.type | as_dict.type, look, hashable=False)


def a_model(members: Mapping[str, tuple[Kind, bool]]) -> Kind:
    """A model of Pydantic, with leaves that it reads as msgspec does."""
    types = {"a": str, "b": bool}
    fields = {
        name: (types[name], ... if required else None)
        for name, (_, required) in members.items()
        if name in types
    }
    model = pydantic.create_model(
        f"M{next(numbers)}", __config__=pydantic.ConfigDict(strict=True), **fields
    )  # type: ignore[call-overload]  made here
    look = object_look(
        {name: (LEAVES[1 if name == "a" else 3], members[name][1]) for name in fields}
    )
    return Kind(model, look, hashable=False, shape="model")


def members_of(
    kinds: st.SearchStrategy[Kind], names: list[str] = NAMES
) -> st.SearchStrategy[dict[str, tuple[Kind, bool]]]:
    return st.dictionaries(st.sampled_from(names), st.tuples(kinds, st.booleans()), max_size=4)


def larger(kinds: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    keys = st.sampled_from([kind for kind in LEAVES if kind.text_key is not None])
    members, untagged = members_of(kinds), members_of(kinds, NAMES[:-1])
    return st.one_of(
        st.builds(a_list, kinds),
        st.builds(a_short_list, kinds),
        st.builds(a_pair, kinds, kinds),
        st.builds(a_dict, keys, kinds),
        st.builds(maybe, kinds),
        st.builds(a_typed_dict, members),
        st.builds(a_struct, untagged, strict=st.booleans(), tag=st.sampled_from([None, "cat"])),
        st.builds(a_dataclass, members),
        st.builds(a_model, members),
        st.builds(either, untagged, untagged),
        st.builds(list_or_dict, kinds, kinds),
        st.builds(a_set, st.sampled_from([*LEAVES[:8], ANYTHING])),
    )


# Which is a text body.
kinds = st.recursive(st.sampled_from([*LEAVES, ANYTHING]), larger, max_leaves=12).filter(
    lambda kind: kind.type is not str
)
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([2**63, 2**64, -(2**70), 7.0, 1e15, 1e16, 1.5, -0.0, 1e300]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(WORDS),
    st.text(max_size=3).filter(lambda text: not re.search("[\ud800-\udfff]", text)),
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*NAMES, "x", "1", "-5", "cat"]), inner, max_size=5)
    ),
    max_leaves=20,
)


def met(kind: Any, body: bytes) -> list[dict[str, str]] | None:
    """Return the reported faults of a body, None where it was accepted. Errors that are no fault
    of the caller are raised."""
    try:
        compile_body("body", kind).read(
            a_call(body=body, headers={"Content-Type": "application/json"})
        )
    except Refusal as refusal:
        refused = refusal
    else:
        return None
    assert (refused.status, refused.code) in {(400, "body-malformed"), (422, "body-invalid")}
    faults = refused.extra.get("errors", [])
    assert isinstance(faults, list)
    assert bool(faults) is (refused.status == 422)
    return faults


def resolved(value: Any, pointer: str) -> Iterator[Any]:
    yield value
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
        yield value


@examples(700)
@given(kinds, values)
def test_exactly_the_faults_are_reported(kind: Kind, value: object) -> None:
    expected = kind.look(value, "")
    faults = met(kind.type, json.dumps(value).encode()) or []

    assert {fault["pointer"] for fault in faults} == expected
    for fault in faults:
        try:
            list(resolved(value, fault["pointer"]))
        except KeyError:
            assert fault["detail"] in {"Required, and missing", "Field required"}
            list(resolved(value, fault["pointer"].rpartition("/")[0]))


SCRAPS = [
    *'[]{},:1"',
    '{"":',
    '{"a":',
    "1e999",
    "NaN",
    "-Infinity",
    "9" * 5000,
    '"\\ud800"',
    '"\\udc00x"',
    '"a"',
    "null",
    "\ufeff",
]
TEXTS = st.one_of(
    st.binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16")),
    st.lists(st.sampled_from(SCRAPS)).map(lambda parts: "".join(parts).encode()),
    st.integers(1, 3000).map(lambda depth: b'{"a":[' * depth + b"1" + b"]}" * depth),
    st.integers(1, 3000).map(lambda depth: b'{"":' * depth + b"1" + b"}" * depth),
)


@examples(400)
@given(kinds, TEXTS)
def test_no_body_is_an_outage(kind: Kind, body: bytes) -> None:
    met(kind.type, body)


@examples(150)
@given(
    values.filter(lambda value: isinstance(value, dict)),
    values.filter(lambda value: isinstance(value, dict)),
    kinds,
)
def test_what_comes_twice_is_no_outage(
    first: dict[str, object], other: dict[str, object], kind: Kind
) -> None:
    body = json.dumps(first)[:-1] + ("," if first and other else "") + json.dumps(other)[1:]
    faults = met(kind.type, body.encode())

    for fault in faults or ():
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")


class Recursive(msgspec.Struct):
    kids: list[Recursive] = []
    named: dict[str, Recursive] = {}
    number: int = 0


class Nested(pydantic.BaseModel):
    kids: list[Nested] = []
    named: dict[str, Nested] = {}
    either: int | list[Nested] | dict[str, Nested] = 0


trees = st.recursive(
    st.fixed_dictionaries(
        {}, optional={"number": atoms, "either": atoms, "kids": atoms, "named": atoms}
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "number": atoms,
            "kids": st.lists(inner, max_size=3),
            "named": st.dictionaries(st.sampled_from([*NAMES, "Nested", "int"]), inner, max_size=3),
            "either": (
                st.dictionaries(
                    st.sampled_from(["Nested", "list[Nested]", "int", "kids", "a"]),
                    inner,
                    max_size=3,
                )
                | st.lists(inner, max_size=2)
            ),
        },
    ),
    max_leaves=30,
)


@examples(200)
@given(trees)
def test_faults_of_recursive_types_are_reported(value: dict[str, Any]) -> None:
    for kind in (Recursive, Nested):
        for fault in met(kind, json.dumps(value).encode()) or ():
            list(resolved(value, fault["pointer"]))


CANARY = "c4n4ry"


@examples(200)
@given(kinds, values)
def test_no_value_of_a_body_is_in_its_faults(kind: Kind, value: object) -> None:
    """Names of members are in pointers; values are reported nowhere."""

    def marked(value: object) -> object:
        if isinstance(value, str):
            return value + CANARY
        if isinstance(value, list):
            return [marked(item) for item in value]
        return (
            {name: marked(item) for name, item in value.items()}
            if isinstance(value, dict)
            else value
        )

    for fault in met(kind.type, json.dumps(marked(value)).encode()) or ():
        assert CANARY not in fault["detail"]


FORMS = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            "=",
            "&",
            "+",
            "%",
            "%ff",
            "%C3%A9",
            "é",
            "\ufeff",
            "1",
            "x",
            "true",
            "on",
            "null",
            ";",
            "[0]",
            "\x00",
        ]
    )
)


@dataclass
class Fields:
    a: int
    b: list[str] | None = None
    x: bool = False


@examples(200)
@given(
    FORMS.map("".join),
    st.sampled_from(
        ["", "; charset=utf-8", "; charset=latin-1", "; charset=shift_jis", "; charset=us-ascii"]
    ),
)
def test_no_form_is_an_outage(text: str, charset: str) -> None:
    from penstock.http.request_body import Body

    environ = {"CONTENT_TYPE": "application/x-www-form-urlencoded" + charset, "CONTENT_LENGTH": "0"}
    read = compile_body("body", Annotated[Fields, Form()]).read
    with suppress(Refusal):
        read(a_call(read_form=lambda _: Body(environ, 1000).form(text.encode())))


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_has_not_are_no_json_for_any_decoder(number: float) -> None:
    for kind in (dict, list[float], Nested, pydantic.create_model("Any", a=(float, 0.0))):
        with pytest.raises(Refusal) as raised:
            compile_body("body", kind).read(a_call(body=json.dumps({"a": number}).encode()))
        assert raised.value.code == "body-malformed"


def test_the_walk_survives_any_exception_of_plugin_code(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Odd:
        a: int
        b: int = 0

        def __post_init__(self) -> None:
            if self.b:
                raise LookupError("a slip of the plugin's")

    class Slip(msgspec.Struct):
        first: int
        odd: list[Any]

    Slip.__annotations__["odd"] = list[Odd]
    monkeypatch.setattr(
        validation,
        "object_fields",
        lambda kind: (_ for _ in ()).throw(LookupError("a slip of ours")),
    )

    assert met(Slip, b'{"first":"x","odd":[{"a":1,"b":1}]}') == [
        {"pointer": "/first", "detail": "Expected `int`, got `str`"}
    ]
