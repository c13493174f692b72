"""Faults that Pydantic found, told as those of any other body: where each is in the JSON, and nothing of what was sent.

The runtime imports no Pydantic: it brings its own errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Fault = dict[str, str]

MAX_FAULTS = 100  # faults that are listed
MAX_COUNTED = 5_000  # Pydantic makes a dict of each before any can be read
MAX_TRIES = 200  # ways to read where a fault is
OF_INPUT = ("error", "encoding_error", "reason", "tag", "tz_actual")  # what a message may quote of the input, by its name in the context
SAFE = ("json_invalid", "date_", "datetime_", "time_")  # kinds whose parser says what is wrong and quotes nothing


def member_pointer(pointer: str, name: str) -> str:
    """Return the JSON Pointer (RFC 6901) of a member."""
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def model_faults(error: Any, value: object) -> list[Fault] | None:  # noqa: ANN401  Pydantic's ValidationError
    """Return the faults that Pydantic found in a value of JSON, or None where what it read is no JSON."""
    if error.error_count() > MAX_COUNTED:
        return [{"pointer": "", "detail": f"{error.error_count()} faults, too many to list"}]
    found = error.errors(include_url=False)
    if any(item["type"] == "json_invalid" and not item["loc"] for item in found):
        return None
    return [_fault(item, value) for item in found[:MAX_FAULTS]]


def _fault(item: Mapping[str, Any], value: object) -> Fault:
    pointer, node = _place(item, value)
    context = item.get("ctx") or {}
    if item["type"] == "union_tag_invalid":
        name = str(context.get("discriminator", "")).strip("'")
        pointer = member_pointer(pointer, name) if isinstance(node, dict) and name in node else pointer
        return {"pointer": pointer, "detail": f"Expected one of {context.get('expected_tags', '')}"}
    return {"pointer": pointer, "detail": _detail(item, context)}


def _detail(item: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Return the message without what it quotes of the input; what a developer's validator says is told as it is."""
    text: str = item["msg"]
    for quoted in () if item["type"].startswith(SAFE) else OF_INPUT:
        if isinstance(context.get(quoted), str) and context[quoted] in text:
            text = text.partition(context[quoted])[0].rstrip(" ,:'\"`") if context[quoted] else text
    return text


def _place(item: Mapping[str, Any], value: object) -> tuple[str, object]:
    """Return the pointer of a fault, and what is there.

    Pydantic's location also has what is not in the JSON: which part of a union it tried, or `[key]`. What it calls the input tells the ways
    to read a location apart, where there are several.
    """
    loc: Sequence[int | str] = item["loc"]
    missing = item["type"] == "missing"
    path = loc[:-1] if missing and loc else loc
    first: tuple[str, object] | None = None
    for number, found in enumerate(_ways(path, 0, "", value)):
        first = first or found
        if number >= MAX_TRIES or _same(found[1], item.get("input")):
            first = found if number < MAX_TRIES else first
            break
    pointer, node = first or ("", value)
    return (member_pointer(pointer, str(loc[-1])) if missing and loc else pointer), node


def _ways(loc: Sequence[int | str], at: int, pointer: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield where a location may lead: each part is a member or an item, or no place at all."""
    if at == len(loc):
        yield pointer, value
        return
    part = loc[at]
    if isinstance(value, dict) and str(part) in value:
        yield from _ways(loc, at + 1, member_pointer(pointer, str(part)), value[str(part)])
    elif isinstance(value, list) and isinstance(part, int) and part < len(value):
        yield from _ways(loc, at + 1, f"{pointer}/{part}", value[part])
    yield from _ways(loc, at + 1, pointer, value)


def _same(value: object, other: object) -> bool:
    try:
        return type(value) is type(other) and value == other
    except RecursionError:
        return True
