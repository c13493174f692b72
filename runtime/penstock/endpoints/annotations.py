"""Take type annotations apart: unions, containers, fields, allowed values."""

from __future__ import annotations

import typing
from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import inspect as shapes

OF_FIELDS = {typing.Required, typing.NotRequired, typing.Final}
MARKS = OF_FIELDS | {Annotated}
UNIONS = {Union, UnionType}
SETS = {set, frozenset, AbstractSet}
LISTS = {list, Collection, Sequence, MutableSequence} | SETS
DICTS = {dict, Mapping, MutableMapping}
MAX_VALUES_SHOWN = 20  # that a message names

Bounds = tuple[msgspec.Meta, ...]
Mark = TypeVar("Mark")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a dataclass, TypedDict or Struct, by their names in JSON.

    `others` are the further members that are allowed, None for any. `tag` is the name and the value
    of the member that identifies the type.
    """

    kinds: Mapping[str, Any]
    required: tuple[str, ...]
    others: frozenset[str] | None
    tag: tuple[str, object] | None

    def odd(self, value: Mapping[str, object]) -> Iterable[tuple[str, str]]:
        """Yield name and fault of each missing and each unknown member."""
        yield from ((name, "Required, and missing") for name in self.required if name not in value)
        if self.others is not None:
            yield from (
                (name, "Not known here")
                for name in sorted(value.keys() - self.kinds.keys() - self.others)
            )


def bare_type(kind: Any) -> Any:  # noqa: ANN401  any annotation
    """Return a type without Annotated, NewType and aliases around it."""
    return _stripped(kind)[0]


def _stripped(kind: Any) -> tuple[Any, Bounds]:  # noqa: ANN401  as above
    bounds: Bounds = ()
    while True:
        if get_origin(kind) in MARKS:
            bounds += tuple(
                mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, msgspec.Meta)
            )
            kind = get_args(kind)[0]
        elif isinstance(kind, NewType):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":  # Python 3.12 has it, typing_extensions before
            kind = kind.__value__
        else:
            return kind, bounds


def find_marker(hint: Any, mark: type[Mark]) -> Mark | None:  # noqa: ANN401  any annotation
    """Return the marker of a type or of a part of a union, None if there is none.

    For example `Header()` of `Annotated[str, Header()] | None`.
    """
    for item in getattr(hint, "__metadata__", ()):
        if item is mark or isinstance(item, mark):
            return item if isinstance(item, mark) else mark()
    inner = (
        get_args(hint)[:1]
        if get_origin(hint) is Annotated
        else get_args(hint)
        if get_origin(hint) in UNIONS
        else ()
    )
    return next((marker for part in inner if (marker := find_marker(part, mark)) is not None), None)


def intended(kind: Any, value: object) -> tuple[Any, Bounds]:  # noqa: ANN401  any annotation
    """Return the type of a list or an object, and its bounds.

    For a union that is the one part with the same shape and tag, None if there are several.
    """
    kind, bounds = _stripped(kind)
    if get_origin(kind) not in UNIONS:
        return kind, bounds
    parts = [
        part
        for part in (intended(part, value) for part in get_args(kind))
        if _has_shape(part[0], value)
    ]
    if len(parts) > 1:
        parts = [part for part in parts if _has_tag(part[0], value)]
    return (parts[0][0], bounds + parts[0][1]) if len(parts) == 1 else (None, ())


def _has_shape(kind: Any, value: object) -> bool:  # noqa: ANN401  any annotation
    if isinstance(value, list):
        return item_type(kind) is not None or positional_types(kind) is not None
    return isinstance(value, dict) and (
        member_types(kind) is not None or object_fields(kind) is not None
    )


def _has_tag(kind: Any, value: Any) -> bool:  # noqa: ANN401  any annotation
    fields = object_fields(kind)
    return (
        fields is not None and fields.tag is not None and value.get(fields.tag[0]) == fields.tag[1]
    )


def item_type(kind: Any) -> Any | None:  # noqa: ANN401  any annotation
    """Return the type of the items of a list, None for other types and for fixed tuples."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin not in LISTS | {tuple} or (origin is tuple and parts[1:] != (Ellipsis,) and parts):
        return None
    return Any if not parts else NoneType if parts[0] is None else parts[0]


def member_types(kind: Any) -> tuple[Any, Any] | None:  # noqa: ANN401  any annotation
    """Return the types of the keys and the values of a dict, None for other types."""
    if (get_origin(kind) or kind) not in DICTS:
        return None
    return get_args(kind) or (Any, Any)


def positional_types(kind: Any) -> tuple[Any, ...] | None:  # noqa: ANN401  any annotation
    """Return the types of the items of a tuple, NamedTuple or array-like Struct, in order.

    Return None for other types.
    """
    if get_origin(kind) is tuple:
        return get_args(kind) if item_type(kind) is None else None
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind, include_extras=True)
        return tuple(hints.get(name, Any) for name in kind._fields)
    if (
        isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__struct_config__.array_like
    ):
        hints = typing.get_type_hints(kind, include_extras=True)
        tag = (Any,) if kind.__struct_config__.tag is not None else ()
        return (*tag, *(hints[name] for name in kind.__struct_fields__))
    return None


def object_fields(kind: Any) -> Fields | None:  # noqa: ANN401  any annotation
    """Return the fields of a dataclass, TypedDict or Struct, None for other types."""
    origin = get_origin(kind) or kind
    return (
        _object_fields(kind)
        if isinstance(origin, type) and origin not in LISTS | DICTS | {tuple}
        else None
    )


@lru_cache(maxsize=1024)
def _object_fields(kind: Any) -> Fields | None:  # noqa: ANN401  as above
    info = shapes.type_info(kind)
    if not isinstance(info, shapes.StructType | shapes.DataclassType | shapes.TypedDictType):
        return None
    if isinstance(info, shapes.StructType) and info.array_like:
        return None
    hints = _hints(kind)
    if hints is None:
        return None
    tag = getattr(info, "tag_field", None)
    return Fields(
        {field.encode_name: hints[field.name] for field in info.fields},
        tuple(field.encode_name for field in info.fields if field.required),
        (
            frozenset({tag} if tag else set[str]())
            if getattr(info, "forbid_unknown_fields", False)
            else None
        ),
        (tag, info.tag) if tag and isinstance(info, shapes.StructType) else None,
    )


def _hints(kind: Any) -> dict[str, Any] | None:  # noqa: ANN401  as above
    """Return the annotations of a class with its type parameters filled in.

    Return None if a type parameter has no value.
    """
    origin = get_origin(kind) or kind
    given = dict(zip(getattr(origin, "__parameters__", ()), get_args(kind), strict=False))
    hints = {
        name: _filled(_unmarked(hint), given)
        for name, hint in typing.get_type_hints(origin, include_extras=True).items()
    }
    return None if any(map(_is_open, hints.values())) else hints


def _unmarked(hint: Any) -> Any:  # noqa: ANN401  as above
    while get_origin(hint) in OF_FIELDS:
        hint = get_args(hint)[0]
    return hint


def _filled(hint: Any, given: Mapping[Any, Any]) -> Any:  # noqa: ANN401  as above
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    return (
        hint[tuple(given.get(item, item) for item in parameters)]
        if parameters and not isinstance(hint, type)
        else hint
    )


def _is_open(hint: Any) -> bool:  # noqa: ANN401  as above
    return isinstance(hint, TypeVar) or bool(
        getattr(hint, "__parameters__", ()) and not isinstance(hint, type)
    )


def union_parts(kind: Any) -> Iterator[Any]:  # noqa: ANN401  any annotation
    """Yield the parts of a union, or the type itself."""
    kind = bare_type(kind)
    if get_origin(kind) in UNIONS:
        for part in get_args(kind):
            yield from union_parts(part)
    else:
        yield kind


def allowed_values(kind: Any) -> str:  # noqa: ANN401  any annotation
    """Return the values of an Enum or a Literal as JSON, comma-separated, else an empty text."""
    values: list[object] = []
    for part in union_parts(kind):
        if get_origin(part) is Literal:
            values += get_args(part)
        elif isinstance(part, type) and issubclass(part, Enum):
            values += [member.value for member in part]
    return _as_json_list(values)


def allowed_tags(kind: Any) -> str:  # noqa: ANN401  any annotation
    """Return the tags of a union of Structs as JSON, separated by commas; empty if it has none."""
    parts = (object_fields(part) for part in union_parts(kind))
    return _as_json_list(
        [fields.tag[1] for fields in parts if fields is not None and fields.tag is not None]
    )


def _as_json_list(values: Sequence[object]) -> str:
    shown = [msgspec.json.encode(value).decode() for value in values[:MAX_VALUES_SHOWN]]
    return ", ".join([*shown, *(["…"] if len(values) > MAX_VALUES_SHOWN else [])])


def type_name(kind: Any) -> str:  # noqa: ANN401  any annotation
    """Return the name of a type for messages, nearly as its developer wrote it."""
    return (
        kind.__name__
        if isinstance(kind, type) and get_origin(kind) is None
        else str(kind).replace("typing.", "")
    )


# Which types can work in which place. Each function returns the problem, or an empty text.
