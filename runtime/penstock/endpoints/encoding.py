"""Encode results: of handlers as JSON, of steps as MessagePack that is decoded to equal values.

JSON has no NaN, no lone surrogates and no keys but text; a caller gets the nearest JSON value. The
result of a step is read again by the handler that called the step, perhaps in another process. So
it is stored as MessagePack, with extensions for other types, and is decoded as the return
annotation of the step declares.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from numbers import Complex, Integral, Rational, Real
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

from penstock.contracts.sanitize import MAX_INTEGER, MIN_INTEGER, SURROGATES
from penstock.endpoints.validation import decode_custom

ADDRESSES = (
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
    ipaddress.IPv4Interface, ipaddress.IPv6Interface,
)  # fmt: skip
# types that the JSON encoder writes itself
LEAVES = (bytes, bytearray, memoryview, datetime, date, time, timedelta, Decimal, UUID)
CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
KEYS = frozenset({int, float, datetime, date, time, Decimal, UUID})  # likewise, as keys
UNFIT = (TypeError, UnicodeEncodeError)  # raised for values that may have a nearest one


NEAREST: tuple[tuple[Any, Callable[[Any], object]], ...] = (
    (str, str.__str__),  # subclasses too, even if they override `__str__`
    (bytes, lambda value: bytes(memoryview(value))),
    (int, int.__int__),
    (float, float.__float__),
    (Integral, int),
    (Rational, str),
    (Real, float),
    ((Complex, PurePath, *ADDRESSES), str),
    ((bytearray, memoryview), bytes),
    (Mapping, lambda value: dict(value.items())),
    ((Sequence, AbstractSet, ValuesView), list),
)


def _nearest(value: Any) -> object:  # noqa: ANN401  any value that msgspec does not know
    """Return the nearest value of a type that msgspec knows. Raises TypeError without one."""
    if hasattr(value, "model_dump"):  # a Pydantic model, which the runtime does not import
        # A warning would quote the reply.
        return value.model_dump(mode="json", by_alias=True, warnings=False)
    if type(value) in CONTAINERS:
        raise TypeError("it is a key")  # the encoder calls this for keys too
    for kinds, near in NEAREST:
        if isinstance(value, kinds):
            return near(value)
    raise TypeError(f"a {type(value).__name__} is nothing to reply with")


encode = msgspec.json.Encoder(decimal_format="string", enc_hook=_nearest).encode


def whole(text: str) -> str:
    """Return a text that UTF-8 can encode: lone surrogates are replaced."""
    return text if text.isascii() else SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def encode_nearest(value: object) -> bytes:
    """Return a value as JSON, with texts and keys replaced by their nearest ones.

    Raises TypeError without one.
    """
    return encode(_fit(msgspec.to_builtins(value, builtin_types=LEAVES, enc_hook=_nearest)))


def encode_json(value: object) -> bytes:
    """Return a value as JSON, or the nearest value that has JSON. Raises TypeError without one."""
    try:
        return encode(value)
    except UNFIT:
        return encode_nearest(value)


def _fit(value: Any) -> Any:  # noqa: ANN401  what msgspec has built
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, dict):
        return {_key(key): _fit(item) for key, item in value.items()}
    return [_fit(item) for item in value] if isinstance(value, list | tuple) else value


def _key(key: object) -> object:
    if type(key) in KEYS:
        return key
    return (
        whole(key)
        if isinstance(key, str)
        else {None: "null", True: "true", False: "false"}.get(key) or whole(str(key))  # type: ignore[call-overload]  # any key may be looked up
    )


# Step results


class _ByText(NamedTuple):
    """A type whose values are stored as text, with its encoder and its decoder."""

    write: Callable[[Any], str]
    read: Callable[[str], object]


def _write_moment(moment: datetime) -> str:
    zone = moment.tzinfo.key if isinstance(moment.tzinfo, ZoneInfo) and moment.tzinfo.key else ""
    return f"{moment.isoformat()} {moment.fold} {zone}"


def _read_moment(text: str) -> datetime:
    moment, fold, zone = text.split(" ", 2)
    read = datetime.fromisoformat(moment).replace(fold=int(fold))
    return read.replace(tzinfo=ZoneInfo(zone)) if zone else read


def _write_span(span: timedelta) -> str:
    return f"{span.days} {span.seconds} {span.microseconds}"


BY_TEXT: dict[type, _ByText] = {
    datetime: _ByText(_write_moment, _read_moment),
    date: _ByText(date.isoformat, date.fromisoformat),
    time: _ByText(
        lambda value: f"{value.isoformat()} {value.fold}",
        lambda text: time.fromisoformat(text[:-2]).replace(fold=int(text[-1])),
    ),
    timedelta: _ByText(_write_span, lambda text: timedelta(*map(int, text.split()))),
    type(Path()): _ByText(str, Path),
    **{kind: _ByText(str, kind) for kind in (Decimal, UUID, Fraction, complex, *ADDRESSES)},
}
NAMED = {kind.__name__: way for kind, way in BY_TEXT.items()}
TEXT, INT, TUPLE, SET, FROZENSET, PAIRS, NAMED_TEXT, ENUM, OBJECT = range(1, 10)
GROUPS: dict[type, int] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}
BUILD: dict[int, Callable[[Any], object]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    PAIRS: dict,
}
MARK = "surrogatepass"


def pack(value: object) -> bytes:
    """Return a value as bytes that `unpack` decodes to an equal one.

    Raises TypeError for an object that is no value, such as a lock.
    """
    return msgspec.msgpack.encode(_tagged(value))


def unpack(packed: bytes, kind: Any = Any) -> Any:  # noqa: ANN401  any annotation, and a value of it
    """Return the value that `pack` has encoded, converted to an annotation.

    Raises ValidationError where it does not fit, TypeError where it can't be converted.
    """
    value = msgspec.msgpack.decode(packed, ext_hook=_untagged)
    try:
        return msgspec.convert(value, kind, dec_hook=decode_custom)
    except TypeError:
        return value  # the annotation is none that msgspec understands
    except msgspec.ValidationError:
        if isinstance(kind, type) and isinstance(value, kind):
            return value  # its fields are not as they say, as they were not when it was made
        # What JSON has text for, such as keys of numbers.
        return msgspec.json.decode(encode_json(value), type=kind, dec_hook=decode_custom)


def type_named(name: str) -> type | None:
    """Return a class by its module and name, None where the module is not loaded."""
    module, _, path = name.partition(":")
    member: Any = sys.modules.get(module)
    for part in path.split("."):
        member = getattr(member, part, None)
    return member if isinstance(member, type) else None


def name_of(kind: type) -> str:
    """Return the name of a class for `type_named`."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _ext(code: int, value: object) -> Ext:
    return Ext(code, msgspec.msgpack.encode(value))


def _itself(value: object) -> object:
    return value


def _tagged(value: object) -> object:
    return TAGGERS.get(type(value), _tagged_object)(value)


def _tagged_text(value: str) -> object:
    return Ext(TEXT, value.encode(errors=MARK)) if SURROGATES.search(value) else value


def _tagged_int(value: int) -> object:
    return (
        value
        if MIN_INTEGER <= value <= MAX_INTEGER
        else Ext(INT, value.to_bytes(value.bit_length() // 8 + 1, signed=True))
    )


def _tagged_list(value: Iterable[object]) -> list[object]:
    return [_tagged(item) for item in value]


def _tagged_dict(value: dict[object, object]) -> object:
    pairs: list[tuple[Any, object]] = [(_tagged(key), _tagged(item)) for key, item in value.items()]
    return dict(pairs) if all(type(key) is str for key, _ in pairs) else _ext(PAIRS, pairs)


def _tagged_group(value: Iterable[object]) -> object:
    return _ext(GROUPS[type(value)], _tagged_list(value))


def _tagged_by_text(value: object) -> object:
    kind = type(value)
    return _ext(NAMED_TEXT, (kind.__name__, _tagged(BY_TEXT[kind].write(value))))


def _tagged_object(value: Any) -> object:  # noqa: ANN401  any value
    kind = type(value)
    if isinstance(value, Enum):
        return _ext(ENUM, (name_of(kind), _tagged(value.value)))
    attributes = _attributes(value)
    return (
        _tagged(_nearest(value))
        if attributes is None
        else _ext(OBJECT, (name_of(kind), _tagged(attributes)))
    )


TAGGERS: dict[type, Callable[[Any], object]] = {
    **dict.fromkeys((bool, float, bytes, type(None)), _itself),
    str: _tagged_text,
    int: _tagged_int,
    list: _tagged_list,
    dict: _tagged_dict,
    **dict.fromkeys(GROUPS, _tagged_group),
    **dict.fromkeys(BY_TEXT, _tagged_by_text),
}


def _attributes(value: Any) -> dict[str, object] | None:  # noqa: ANN401  any value
    """Return the attributes of an object with declared fields, None for other objects."""
    if isinstance(value, type):
        return None
    if hasattr(value, "model_dump"):
        return dict(vars(value))
    if dataclasses.is_dataclass(value):
        names: Any = [item.name for item in dataclasses.fields(value)]
    elif hasattr(value, "__attrs_attrs__"):
        names = [item.name for item in value.__attrs_attrs__]
    else:
        names = getattr(value, "_fields" if isinstance(value, tuple) else "__struct_fields__", None)
    return (
        None
        if names is None
        else {name: getattr(value, name) for name in names if hasattr(value, name)}
    )


def _untagged(code: int, data: memoryview) -> object:
    if code == TEXT:
        return bytes(data).decode(errors=MARK)
    if code == INT:
        return int.from_bytes(data, signed=True)
    value: Any = msgspec.msgpack.decode(data, ext_hook=_untagged)
    if code in BUILD:
        return BUILD[code](value)
    name, attributes = value
    if code == NAMED_TEXT:
        return NAMED[name].read(attributes)
    kind: Any = type_named(name)
    try:
        return (
            attributes
            if kind is None
            else kind(attributes)
            if code == ENUM
            else _rebuilt(kind, attributes)
        )
    except Exception:  # noqa: BLE001  the class is another one by now, or wants more than its fields
        return attributes


def _rebuilt(kind: Any, attributes: dict[str, object]) -> object:  # noqa: ANN401  any class
    """Return an object with these attributes, without calling the initialiser of its class."""
    if hasattr(kind, "model_construct"):
        return kind.model_construct(**attributes)
    if hasattr(kind, "__struct_fields__") or issubclass(kind, tuple):
        return kind(**attributes)
    instance = kind.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(instance, name, value)
    return instance
