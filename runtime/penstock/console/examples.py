"""Examples of values that fit a schema of an OpenAPI document, to be filled in by a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMAS = "#/components/schemas/"
MAX_DEPTH = 6
LEAVES = {"integer": 1, "number": 1.5, "boolean": True, "string": "text"}

Json = Any  # any value of an OpenAPI document


def example_of(schema: Mapping[str, Json], schemas: Mapping[str, Json], depth: int = 0) -> Json:
    """Return an example value of a schema; `schemas` are the named ones that it may refer to."""
    if depth > MAX_DEPTH:
        return None
    values = [schema[word] for word in ("default", "const") if word in schema]
    values += schema.get("enum", ())
    if values:
        return values[0]
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if choices or "$ref" in schema:
        referred = choices[0] if choices else schemas.get(schema["$ref"].removeprefix(SCHEMAS), {})
        return example_of(referred, schemas, depth + 1)
    if schema.get("type") == "object":
        fields: Mapping[str, Json] = schema.get("properties", {})
        return {
            name: example_of(fields[name], schemas, depth + 1)
            for name in schema.get("required", fields)
            if name in fields
        }
    if schema.get("type") == "array":
        items = schema.get("items")
        return [example_of(items, schemas, depth + 1)] if isinstance(items, Mapping) else []
    return LEAVES.get(str(schema.get("type")))
