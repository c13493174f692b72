"""Describe JSON schemas to readers: the type in words, the limits, and the fields of an object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.console.examples import SCHEMAS

Schema = Mapping[str, Any]
# The words of a type, each with the name of the schema that it refers to, or "".
Type = Sequence[tuple[str, str]]

LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "multipleOf": "multiple of",
    "minLength": "min length",
    "maxLength": "max length",
    "minItems": "min items",
    "maxItems": "max items",
    "minProperties": "min fields",
    "maxProperties": "max fields",
    "pattern": "pattern",
    "default": "default",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an object, as a row of a table."""

    name: str
    type: Type
    required: bool
    limits: str
    text: str


def type_of(schema: object) -> Type:
    """Return the type of a schema in words, with references to named schemas."""
    if not isinstance(schema, Mapping) or not schema:
        return [("any", "")]
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(SCHEMAS)
        return [(name, name)]
    for word, between in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " with ")):
        if word in schema:
            return _joined([type_of(item) for item in schema[word]], between)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        return [(" | ".join(map(_json, values)), "")]
    return _array(schema) if schema.get("type") == "array" else _plain(schema)


def _array(schema: Schema) -> Type:
    if "prefixItems" in schema:
        inner = _joined([type_of(item) for item in schema["prefixItems"]], ", ")
        return [("[", ""), *inner, ("]", "")]
    return [("array of ", ""), *type_of(schema.get("items"))]


def _plain(schema: Schema) -> Type:
    kind, values = schema.get("type", "any"), schema.get("additionalProperties")
    if kind == "object" and "properties" not in schema and isinstance(values, Mapping):
        return [("object of ", ""), *type_of(values)]
    name = " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind)
    return [(f"{name} ({schema['format']})" if "format" in schema else name, "")]


def limits_of(schema: object) -> str:
    """Return the limits and the default of a schema in words."""
    if not isinstance(schema, Mapping):
        return ""
    found = [f"{text} {_json(schema[word])}" for word, text in LIMITS.items() if word in schema]
    return ", ".join(found)


def fields_of(schema: object, schemas: Mapping[str, Schema]) -> list[Field]:
    """Return the fields of an object, of the named schema where one is referred to."""
    found: dict[str, Field] = {}
    for part in _parts(schema, schemas):
        required = part.get("required", ())
        for name, field in part.get("properties", {}).items():
            text = str(field.get("description", "")) if isinstance(field, Mapping) else ""
            found[name] = Field(name, type_of(field), name in required, limits_of(field), text)
    return list(found.values())


def _parts(schema: object, schemas: Mapping[str, Schema], depth: int = 0) -> Iterator[Schema]:
    """Yield a schema and those that it is made of."""
    if not isinstance(schema, Mapping) or depth > 8:  # noqa: PLR2004  a plugin's hook may loop
        return
    if "$ref" in schema:
        named = schemas.get(str(schema["$ref"]).removeprefix(SCHEMAS))
        yield from _parts(named, schemas, depth + 1)
    for item in schema.get("allOf", ()):
        yield from _parts(item, schemas, depth + 1)
    if schema.get("type") == "array":
        yield from _parts(schema.get("items"), schemas, depth + 1)
    yield schema


def _joined(types: Sequence[Type], between: str) -> Type:
    words: list[tuple[str, str]] = []
    for index, item in enumerate(types):
        words += [(between, "")] if index else []
        words += item
    return words


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
