"""Say every fault of a body that does not fit its type, each with its JSON Pointer (RFC 6901)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from penstock.errors import Refusal

MOST = 100
WHERE = re.compile(r" - at `[^`]*`$")


def decode_custom(kind: type, value: object) -> object:
    """Decode a type that msgspec does not know: a Pydantic model inside of another type."""
    if isinstance(value, kind):
        return value
    if not hasattr(kind, "model_validate"):
        raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return kind.model_validate(value)


def invalid(faults: list[dict[str, str]]) -> Refusal:
    """Return the answer to a body that does not fit."""
    many = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    return Refusal(422, "body-invalid", f"The body does not fit: {many}.", extra={"errors": faults[:MOST]})


def all_faults(kind: Any, value: object, first: Exception, *, strict: bool = True) -> list[dict[str, str]]:  # noqa: ANN401  any annotation
    """Return every fault of a value; `first` is the one that was met decoding it. Not `strict`: text may stand for numbers."""
    found = list(islice(_faults(kind, value, "", strict=strict), MOST))
    return found or [{"pointer": "", "detail": WHERE.sub("", str(first))}]


def pydantic_faults(error: Any) -> list[dict[str, str]] | None:  # noqa: ANN401  Pydantic's ValidationError, which the runtime does not import
    """Return every fault that Pydantic found, or None where the body is no JSON at all."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if any(item["type"] == "json_invalid" for item in found):
        return None
    return [{"pointer": "".join(_below("", str(part)) for part in item["loc"]), "detail": item["msg"]} for item in found]


def _faults(kind: Any, value: object, pointer: str, *, strict: bool) -> Iterable[dict[str, str]]:  # noqa: ANN401  any annotation
    """Yield each fault of a value, going down where its parts can be judged one by one."""
    try:
        msgspec.convert(value, kind, strict=strict, dec_hook=decode_custom)
    except msgspec.ValidationError as error:
        below = list(_faults_of_parts(kind, value, pointer, strict=strict))
        yield from below or [{"pointer": pointer, "detail": WHERE.sub("", str(error))}]


def _faults_of_parts(kind: Any, value: object, pointer: str, *, strict: bool) -> Iterable[dict[str, str]]:  # noqa: ANN401  any annotation
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(value, list) and get_origin(kind) in {list, set, frozenset, Sequence}:
        for index, item in enumerate(value):
            yield from _faults(get_args(kind)[0], item, f"{pointer}/{index}", strict=strict)
    elif isinstance(value, dict) and get_origin(kind) in {dict, Mapping}:
        for name, item in value.items():
            yield from _faults(get_args(kind)[1], item, _below(pointer, name), strict=strict)
    elif isinstance(value, dict) and isinstance(kind, type):
        info = msgspec.inspect.type_info(kind)
        if isinstance(info, msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType):
            yield from _faults_of_fields(kind, info, value, pointer, strict=strict)


def _faults_of_fields(
    kind: type,
    info: msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType,
    value: Mapping[str, object],
    pointer: str,
    *,
    strict: bool,
) -> Iterable[dict[str, str]]:
    hints = get_type_hints(kind, include_extras=True)
    for field in info.fields:
        at = _below(pointer, field.encode_name)
        if field.encode_name in value:
            yield from _faults(hints[field.name], value[field.encode_name], at, strict=strict)
        elif field.required:
            yield {"pointer": at, "detail": "Required, and missing"}
    if getattr(info, "forbid_unknown_fields", False):
        for name in sorted(value.keys() - {field.encode_name for field in info.fields}):
            yield {"pointer": _below(pointer, name), "detail": "Not known here"}


def _below(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
