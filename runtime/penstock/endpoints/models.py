"""Convert errors of Pydantic into faults with a JSON Pointer and a message that quotes no input.

The runtime does not import Pydantic; it reads the errors that a plugin's models raise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Fault = dict[str, str]

MAX_FAULTS = 100  # faults that are listed
MAX_COUNTED = 5_000  # errors; Pydantic builds a dict of each before the first can be read
MAX_TRIES = 200  # readings of one location
# Members of an error's context that may hold parts of the input.
QUOTED = ("error", "encoding_error", "reason", "tag", "tz_actual")
# Types of errors whose `error` is a fixed text of the parser.
SAFE = ("json_invalid", "date_", "datetime_", "time_")


def member_pointer(pointer: str, name: str) -> str:
    """Return the JSON Pointer (RFC 6901) of a member."""
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def model_faults(error: Any, value: object) -> list[Fault] | None:  # noqa: ANN401  Pydantic's ValidationError
    """Return the faults in Pydantic's ValidationError for a JSON value.

    Return None if the error is a JSON syntax error.
    """
    if error.error_count() > MAX_COUNTED:
        return [{"pointer": "", "detail": f"{error.error_count()} faults, too many to list"}]
    errors = error.errors(include_url=False)
    if any(item["type"] == "json_invalid" and not item["loc"] for item in errors):
        return None
    return [_fault(item, value) for item in errors[:MAX_FAULTS]]


def _fault(item: Mapping[str, Any], value: object) -> Fault:
    pointer, node = _place(item, value)
    context = item.get("ctx") or {}
    if item["type"] == "union_tag_invalid":
        name = str(context.get("discriminator", "")).strip("'")
        pointer = (
            member_pointer(pointer, name) if isinstance(node, dict) and name in node else pointer
        )
        return {"pointer": pointer, "detail": f"Expected one of {context.get('expected_tags', '')}"}
    return {"pointer": pointer, "detail": _detail(item, context)}


def _detail(item: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Return the message of an error, cut where it quotes the input.

    Messages of validators in plugin code are not cut.
    """
    text: str = item["msg"]
    for quoted in () if item["type"].startswith(SAFE) else QUOTED:
        if isinstance(context.get(quoted), str) and context[quoted] in text:
            text = text.partition(context[quoted])[0].rstrip(" ,:'\"`") if context[quoted] else text
    return text


def _place(item: Mapping[str, Any], value: object) -> tuple[str, object]:
    """Return the pointer and the value of a fault.

    A location of Pydantic has parts that are not in the JSON: the part of a union it tried, or
    `[key]`. Where it can be read in several ways, the right one leads to the value that Pydantic
    gives as the input.
    """
    loc: Sequence[int | str] = item["loc"]
    missing = item["type"] == "missing"
    path = loc[:-1] if missing and loc else loc
    first: tuple[str, object] | None = None
    for number, way in enumerate(_ways(path, 0, "", value)):
        first = first or way
        if number >= MAX_TRIES or _same(way[1], item.get("input")):
            first = way if number < MAX_TRIES else first
            break
    pointer, node = first or ("", value)
    return (member_pointer(pointer, str(loc[-1])) if missing and loc else pointer), node


def _ways(
    loc: Sequence[int | str], at: int, pointer: str, value: object
) -> Iterator[tuple[str, object]]:
    """Yield the pointers and values that a location can lead to.

    A part of a location is a member, an item, or not in the JSON.
    """
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
