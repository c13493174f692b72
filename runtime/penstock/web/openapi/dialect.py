"""Small schemas in the dialect of JSON Schema (2020-12) that client generators understand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

Document = dict[str, Any]

BINARY: Document = {"type": "string", "format": "binary"}
TEXT: Document = {"type": "string"}
NULL: Document = {"type": "null"}
TYPES: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
}
# The names of an enum's values, for generators; Pydantic does not say them.
NAMES = "x-enum-varnames"
OFFSET = re.compile(r"(?:[Zz]|[+-]\d\d:\d\d)$")  # RFC 3339
# Words of a schema that hold values, not schemas.
VALUES = frozenset({"default", "enum", "const", "example", "examples"})


def present(**words: object) -> Document:
    """Return the words of a schema that have a value."""
    return {word: value for word, value in words.items() if value is not None}


def default_of(value: object) -> Document:
    """Return a default value as a member of a schema."""
    if value is msgspec.NODEFAULT or value is msgspec.UNSET:
        return {}
    try:
        return {"default": msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))}
    except (TypeError, ValueError, msgspec.MsgspecError):
        return {}


def fitting(schema: Document) -> Document:
    """Return a schema without a default that it does not allow.

    A time without an offset, where the format asks for one.
    """
    default = schema.get("default")
    timed = any(
        item.get("format") in {"date-time", "time"} for item in (schema, *schema.get("anyOf", ()))
    )
    if timed and isinstance(default, str) and not OFFSET.search(default):
        return {word: value for word, value in schema.items() if word != "default"}
    return schema


def choice_of(values: Iterable[object]) -> Document:
    """Return the schema of one of these values, each group of one type apart.

    Generators know no enum of several.
    """
    groups: dict[str, list[object]] = {}
    for value in values:
        groups.setdefault(TYPES[type(value)], []).append(value)
    options = [{"type": name, "enum": group} for name, group in groups.items() if name != "null"]
    options += [NULL] if "null" in groups else []
    return dict(options[0]) if len(options) == 1 else {"anyOf": options}


def tuple_of(
    items: Sequence[Document], *, least: int | None = None, more: bool = False
) -> Document:
    """Return the schema of an array with items of these types, one by one.

    `items` says it once more, for generators that know no `prefixItems` and fail at `items: false`;
    `maxItems` leaves nothing that it could allow.
    """
    bare = [{word: value for word, value in item.items() if word != "default"} for item in items]
    kinds = [item for index, item in enumerate(bare) if item not in bare[:index]]
    schema: Document = {
        "type": "array",
        **({"prefixItems": list(items)} if items else {}),
        "minItems": len(items) if least is None else least,
    }
    if more:
        return schema | {"items": {}}
    return schema | {
        "items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {},
        "maxItems": len(items),
    }


def common_form(value: Any) -> Any:  # noqa: ANN401  any part of a schema
    """Return what Pydantic says in the form that types of msgspec have."""
    if isinstance(value, list):
        return [common_form(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema: Document = {
        word: (
            item
            if word in VALUES
            else _properties(item)
            if word == "properties"
            else common_form(item)
        )
        for word, item in value.items()
    }
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and all(type(item) in TYPES for item in values):
        return {
            word: item for word, item in schema.items() if word not in {"enum", "const", "type"}
        } | choice_of(values)
    if schema.get("format") == "binary":  # in JSON it is text
        del schema["format"]
    if schema.get("type") == "array" and "prefixItems" in schema:
        schema |= tuple_of(
            schema["prefixItems"], least=schema.get("minItems", 0), more="maxItems" not in schema
        )
    return fitting(schema)


def _properties(value: Mapping[str, Any]) -> Document:
    """Return the properties of a model, without the titles that Pydantic makes of their names."""
    properties = {name: common_form(item) for name, item in value.items()}
    for name, item in properties.items():
        if isinstance(item, dict) and item.get("title") == name.title().replace("_", " ").strip():
            del item["title"]
    return properties
