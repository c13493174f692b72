"""Translate errors of msgspec into faults with a JSON Pointer (RFC 6901)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.endpoints.annotations import (
    allowed_tags,
    allowed_values,
)
from penstock.endpoints.models import Fault, member_pointer, model_faults

PLACE = " - at `"  # begins the path in a message of msgspec


WHERE = re.compile(r" - at (?:`key` in )?`\$?(.*)`\Z", re.DOTALL)


# Begin messages that quote a value or a name.
QUOTING = ("Invalid enum value", "Invalid value", "Object")


INDEX = re.compile(r"\[(\d+)\]")


MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


UNHASHABLE = "Items of a set are texts, numbers, true, false or null"


def field_at(kinds: Mapping[str, Any], path: str) -> str | None:
    """Return the field that a path starts with, None if that is unknown or ambiguous.

    Names may contain dots and brackets.
    """
    fields = [
        name
        for name in kinds
        if path.startswith(f".{name}") and path[1 + len(name) :][:1] in {"", ".", "["}
    ]
    return fields[0] if len(fields) == 1 else None


def error_path(error: Exception) -> str | None:
    """Return the path in an error of msgspec, empty for the value itself, None without a path."""
    return _split(error)[1] if isinstance(error, msgspec.ValidationError) else None


def _split(error: Exception) -> tuple[str, str]:
    """Return the message and the path of an error.

    Both may contain values and names of the body, which may look like a path.
    """
    text = str(error)
    at = text.rfind(PLACE) if text.startswith(QUOTING) else text.find(PLACE)
    match = WHERE.fullmatch(text, at) if at >= 0 else None
    return (text[:at].strip(), match[1]) if match else (text.strip(), "")


def _follow(pointer: str, value: object, path: str) -> tuple[str, object]:
    """Return the pointer and the value that a path leads to, as far as it can be followed."""
    while path:
        step = INDEX.match(path)
        if step is not None and isinstance(value, list) and int(step[1]) < len(value):
            pointer, value, path = (
                f"{pointer}/{int(step[1])}",
                value[int(step[1])],
                path[step.end() :],
            )
            continue
        name = (
            max(
                (name for name in value if field_at({name: None}, path) is not None),
                key=len,
                default=None,
            )
            if isinstance(value, dict)
            else None
        )
        if name is None or not isinstance(value, dict):
            break
        pointer, value, path = member_pointer(pointer, name), value[name], path[1 + len(name) :]
    return pointer, value


def faults_at(kind: Any, error: Exception, value: object, pointer: str, path: str) -> list[Fault]:  # noqa: ANN401  any annotation
    """Return the faults in an error, at the part of a value that `path` leads to."""
    pointer, value = _follow(pointer, value, path)
    if hasattr(error.__cause__, "error_count"):
        faults = model_faults(error.__cause__, value) or [{"pointer": "", "detail": "Does not fit"}]
        return [
            {"pointer": pointer + fault["pointer"], "detail": fault["detail"]} for fault in faults
        ]
    missing = MISSING.fullmatch(_split(error)[0])
    if missing is not None:
        return [{"pointer": member_pointer(pointer, missing[1]), "detail": "Required, and missing"}]
    return [{"pointer": pointer, "detail": fault_detail(kind, error)}]


def fault_detail(kind: Any, error: Exception) -> str:  # noqa: ANN401  any annotation
    """Return the message of an error of msgspec, without the path and values of the body."""
    if isinstance(error, TypeError):
        return UNHASHABLE
    text = _split(error)[0]
    if text.startswith("Invalid enum value"):
        return expected(allowed_values(kind))
    if text.startswith("Invalid value"):
        return expected(allowed_tags(kind))
    if text.startswith("Object contains unknown field"):
        return "Has an unknown member"
    return text


def expected(choices: str) -> str:
    """Return the message for a value that is none of some choices, which are JSON."""
    return f"Expected one of {choices}" if choices else "Expected one of the allowed values"
