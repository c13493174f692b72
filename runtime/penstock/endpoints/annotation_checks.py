"""Find types that can never work in their place.

A place is a path, a query, a header, a body, a form or a reply.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import (
    Callable,
    Iterable,
)
from contextlib import suppress
from enum import Enum
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from msgspec import inspect as shapes

from penstock.contracts.call import Reply
from penstock.contracts.forms import Upload
from penstock.endpoints.annotations import (
    DICTS,
    LISTS,
    SETS,
    UNIONS,
    bare_type,
    item_type,
    positional_types,
    type_name,
    union_parts,
)

JSON_TYPES = (dict, list, str, int, float, bool, NoneType)


NO_TEXT = (
    shapes.CollectionType,
    shapes.DataclassType,
    shapes.DictType,
    shapes.ExtType,
    shapes.NamedTupleType,
    shapes.RawType,
    shapes.StructType,
    shapes.TupleType,
    shapes.TypedDictType,
)


REPLY_TYPES = (*JSON_TYPES, tuple, set, frozenset, bytes)


def takes_several(kind: Any) -> bool:  # noqa: ANN401  any annotation
    """Return whether a parameter or a form field of that type takes several values."""
    return any(
        item_type(part) is not None or get_origin(part) is tuple for part in union_parts(kind)
    )


def text_problem(kind: Any, *, file: bool = False) -> str:  # noqa: ANN401  any annotation
    """Return why text can't become a value of that type; with `file` an `Upload` can be one too."""
    return (
        ""
        if any(_takes_text(part, file=file) for part in union_parts(kind))
        else f"text can't become {type_name(kind)}"
    )


def _takes_text(kind: Any, *, file: bool) -> bool:  # noqa: ANN401  as above
    if kind in (None, NoneType) or kind is Upload:
        return file and kind is Upload
    info = shapes.type_info(kind)
    if isinstance(info, shapes.CustomType):
        return _is_any_of(info.cls, (str,))
    return not isinstance(info, NO_TEXT)


def texts_problem(kind: Any, *, file: bool = False) -> str:  # noqa: ANN401  any annotation
    """Return why neither one text nor several can become a value of that type.

    With `file` an `Upload` can be one too.
    """
    problems = []
    for part in union_parts(kind):
        item, places = item_type(part), positional_types(part)
        if item is None and (places is None or get_origin(part) is not tuple):
            problems.append(text_problem(part, file=file))
            continue
        problem = next(
            filter(None, (text_problem(inner, file=file) for inner in places or (item,))), ""
        )
        problems.append(
            problem
            or (_set_problem(shapes.type_info(item)) if (get_origin(part) or part) in SETS else "")
        )
    return "" if not all(problems) else problems[0]


def json_problem(kind: Any) -> str:  # noqa: ANN401  any annotation
    """Return why JSON can't be decoded into that type.

    Raises TypeError for an annotation that msgspec does not support.
    """
    return _json_problem(shapes.type_info(kind), set())


def _json_problem(info: shapes.Type, seen: set[object]) -> str:
    if isinstance(info, shapes.Metadata):
        return _json_problem(info.type, seen)
    if isinstance(
        info,
        shapes.StructType | shapes.DataclassType | shapes.TypedDictType | shapes.NamedTupleType,
    ):
        if info.cls in seen:
            return ""
        seen.add(info.cls)
        problems = (
            (field.encode_name, _json_problem(field.type, seen))
            for field in info.fields
            if field.required
        )
        return next((f"its field {name}: {problem}" for name, problem in problems if problem), "")
    return _own_json_problem(info) or next(
        filter(None, (_json_problem(part, seen) for part in _inner_types(info))), ""
    )


def _own_json_problem(info: shapes.Type) -> str:
    """Return why JSON can't become that type, apart from the types in it."""
    if isinstance(info, shapes.CustomType) and not (
        hasattr(info.cls, "model_validate") or _is_any_of(info.cls, JSON_TYPES)
    ):
        return f"JSON can't become {type_name(info.cls)}"
    if isinstance(info, shapes.ExtType):
        return "JSON can't become an extension type of MessagePack"
    if isinstance(info, shapes.DictType) and not _is_name(info.key_type):
        return "the names of a JSON object are text, which can't become the keys of this dict"
    return (
        _set_problem(info.item_type)
        if isinstance(info, shapes.SetType | shapes.FrozenSetType)
        else ""
    )


def _inner_types(info: shapes.Type) -> Iterable[shapes.Type]:
    if isinstance(info, shapes.UnionType):
        return info.types
    if isinstance(info, shapes.CollectionType):
        return (info.item_type,)
    if isinstance(info, shapes.TupleType):
        return info.item_types
    return (info.value_type,) if isinstance(info, shapes.DictType) else ()


def _set_problem(info: shapes.Type) -> str:
    """Return why a value of that type can't be in a set."""
    for part in (
        (info, *_inner_types(info))
        if isinstance(info, shapes.UnionType | shapes.VarTupleType | shapes.TupleType)
        else (info,)
    ):
        cls = getattr(part, "cls", None)
        lists = isinstance(
            part, shapes.ListType | shapes.SetType | shapes.DictType | shapes.TypedDictType
        )
        if lists or (cls is not None and getattr(cls, "__hash__", None) is None):
            plain = type(part).__name__.removesuffix("Type").lower()
            name = type_name(cls) if cls is not None else plain
            return f"{name} has no hash, so it can't be in a set"
    return ""


def _is_name(info: shapes.Type) -> bool:
    if isinstance(info, shapes.Metadata):
        return _is_name(info.type)
    if isinstance(info, shapes.UnionType):
        return any(map(_is_name, info.types))
    cls = getattr(info, "cls", None)
    return not (
        _inner_types(info)
        or isinstance(info, shapes.ExtType | shapes.RawType | shapes.NoneType)
        or (cls is not None and not _is_enum(cls))
    )


def _is_enum(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, Enum)


def reply_problem(kind: Any) -> str:  # noqa: ANN401  any annotation
    """Return why a value of that type can't be sent as a reply."""
    return _reply_problem(kind, set())


def _reply_problem(kind: Any, seen: set[Any]) -> str:  # noqa: ANN401  as above
    """Walk the annotation itself.

    Msgspec can encode types that it can't decode or describe, such as a union of two dataclasses.
    """
    kind = bare_type(kind)
    origin = get_origin(kind)
    if (
        kind in (Any, NoReturn, typing.Never, None, Ellipsis)
        or origin is Literal
        or isinstance(kind, TypeVar | str)
    ):
        return ""
    if origin in UNIONS | DICTS | LISTS | {tuple}:
        return next(filter(None, (_reply_problem(part, seen) for part in get_args(kind))), "")
    cls = origin or kind
    if (
        not isinstance(cls, type)
        or cls in seen
        or issubclass(cls, Reply)
        or hasattr(cls, "model_dump")
    ):
        return ""
    seen.add(cls)
    with suppress(TypeError):
        info = shapes.type_info(cls)
        if isinstance(info, shapes.CustomType) and not _is_any_of(cls, REPLY_TYPES):
            return f"{type_name(kind)} is nothing to reply with"
    with suppress(Exception):  # annotations of plugin code may be anything
        problems = (
            (name, _reply_problem(hint, seen))
            for name, hint in _encoded_fields(cls)
            if NoneType not in union_parts(hint)
        )
        return next((f"its field {name}: {problem}" for name, problem in problems if problem), "")
    return ""


def _encoded_fields(cls: type) -> Iterable[tuple[str, Any]]:
    """Yield the name and the annotation of each field of a class that is encoded."""
    if _is_enum(cls) or not hasattr(cls, "__annotations__"):
        return
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if get_origin(hint) is not typing.ClassVar and not (
            name.startswith("_") and dataclasses.is_dataclass(cls)
        ):
            yield name, hint


def _is_any_of(cls: Any, kinds: Iterable[type]) -> bool:  # noqa: ANN401  a class
    with suppress(TypeError):
        return any(issubclass(kind, cls) for kind in kinds)
    return False


def is_generator(handler: Callable[..., object]) -> bool:
    """Return whether a handler is a generator function."""
    return inspect.isgeneratorfunction(inspect.unwrap(handler))
