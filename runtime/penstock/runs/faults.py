"""Decode a JSON body into its type, or say every fault with its JSON Pointer (RFC 6901)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from penstock.contracts.call import Call
from penstock.errors import Refusal

MOST = 100
WHERE = re.compile(r" - at `[^`]*`$")


def decode_json(decoder: msgspec.json.Decoder[Any], kind: Any, call: Call) -> object:  # noqa: ANN401  any annotation
    """Return the body as its type. Raises Refusal: 415, 400 or 422."""
    kind_sent = call.content_type.partition(";")[0].strip().lower()
    if kind_sent not in {"", "application/json"} and not kind_sent.endswith("+json"):
        raise Refusal(415, "unsupported-media-type", "Send the body as application/json.", headers=[("Accept", "application/json")])
    body = call.body
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        first = error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None
    try:
        whole = msgspec.json.decode(body)  # what did not fit may stand before what is no JSON at all
        errors = list(_faults(kind, whole, ""))[:MOST]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None
    errors = errors or [{"pointer": "", "detail": WHERE.sub("", str(first))}]
    raise Refusal(422, "body-invalid", f"The body does not fit: {len(errors)} fault{'s' if len(errors) > 1 else ''}.", extra={"errors": errors})


def _malformed(error: Exception) -> Refusal:
    detail = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Refusal(400, "body-malformed", f"The body is not JSON: {detail}.")


def _faults(kind: Any, value: object, pointer: str) -> Iterable[dict[str, str]]:  # noqa: ANN401  any annotation
    """Yield each fault of a value, going down where its parts can be judged one by one."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        below = list(_faults_of_parts(kind, value, pointer))
        yield from below or [{"pointer": pointer, "detail": WHERE.sub("", str(error))}]


def _faults_of_parts(kind: Any, value: object, pointer: str) -> Iterable[dict[str, str]]:  # noqa: ANN401  any annotation
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(value, list) and get_origin(kind) in {list, set, frozenset, Sequence}:
        for index, item in enumerate(value):
            yield from _faults(get_args(kind)[0], item, f"{pointer}/{index}")
    elif isinstance(value, dict) and get_origin(kind) in {dict, Mapping}:
        for name, item in value.items():
            yield from _faults(get_args(kind)[1], item, _below(pointer, name))
    elif isinstance(value, dict) and isinstance(kind, type):
        info = msgspec.inspect.type_info(kind)
        if isinstance(info, msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType):
            yield from _faults_of_fields(kind, info, value, pointer)


def _faults_of_fields(
    kind: type,
    info: msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType,
    value: Mapping[str, object],
    pointer: str,
) -> Iterable[dict[str, str]]:
    hints = get_type_hints(kind, include_extras=True)
    for field in info.fields:
        at = _below(pointer, field.encode_name)
        if field.encode_name in value:
            yield from _faults(hints[field.name], value[field.encode_name], at)
        elif field.required:
            yield {"pointer": at, "detail": "Required, and missing"}
    if getattr(info, "forbid_unknown_fields", False):
        for name in sorted(value.keys() - {field.encode_name for field in info.fields}):
            yield {"pointer": _below(pointer, name), "detail": "Not known here"}


def _below(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
