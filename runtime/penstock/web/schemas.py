"""Schemas of types for an OpenAPI document, each under a name of its own: two types of one name must not share one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any
from xml.etree.ElementTree import Element

import msgspec

from penstock.contracts.call import Reply
from penstock.contracts.forms import Upload

REFERENCE = "#/components/schemas/{name}"
LOCAL = "#/of-one-type/"  # begins a reference whose name is not settled yet
NO_SCHEMA = (None, type(None), bytes, str, Element, Reply)

Document = dict[str, Any]


class Schemas:
    """The named schemas of one document; those that are given at the beginning keep their names."""

    def __init__(self, reserved: Mapping[str, Document]) -> None:
        self.named: Document = dict(reserved)
        self._chosen: dict[tuple[str, bytes], str] = {}

    def of(self, kind: Any, *, reply: bool = False) -> Document | None:  # noqa: ANN401  any annotation
        """Return the schema of a type as it is sent, or as it is replied; None where it has none or can't be described."""
        if any(kind is item for item in NO_SCHEMA):
            return None

        def other(kind: type) -> Document:
            return self._other(kind, reply=reply)

        try:
            (schema,), parts = msgspec.json.schema_components((kind,), schema_hook=other, ref_template=LOCAL + "{name}")
            return self._settle(schema, parts, reply=reply)
        except Exception:  # noqa: BLE001  a stranger's type may raise anything; the document goes out without its schema
            return None

    def _other(self, kind: Any, *, reply: bool) -> Document:  # noqa: ANN401  a type that msgspec can't describe, Pydantic's perhaps
        if kind is Upload:
            return {"type": "string", "format": "binary"}
        if not hasattr(kind, "model_json_schema"):
            return {"description": kind.__name__}
        mode = "serialization" if reply else "validation"
        schema: Document = kind.model_json_schema(ref_template=LOCAL + "{model}", mode=mode)
        parts: Document = schema.pop("$defs", {})
        if "$ref" not in schema:  # it is one of the parts where it refers to itself
            name = re.sub(r"[^a-zA-Z0-9._-]", "_", kind.__name__)
            while name in parts:
                name += "_"
            parts[name] = schema
            schema = {"$ref": LOCAL + name}
        return self._settle(schema, parts, reply=reply)

    def _settle(self, schema: Document, parts: Document, *, reply: bool) -> Document:
        """Keep the parts under names of this document, and return the schema with references to those."""
        names = {name: self._name(name, _whole(name, parts), reply=reply) for name in parts}
        for name, part in parts.items():
            self.named[names[name]] = _renamed(part, names)
        settled: Document = _renamed(schema, names)
        return settled

    def _name(self, name: str, whole: bytes, *, reply: bool) -> str:
        chosen = self._chosen.get((name, whole))
        if chosen is None:
            wanted = (name, *([f"{name}-Reply"] if reply else []))
            chosen = next((item for item in wanted if item not in self.named), None) or next(
                item for number in count(2) if (item := f"{name}-{number}") not in self.named
            )
            self._chosen[name, whole] = chosen
            self.named[chosen] = {}  # it is taken
        return chosen


def _whole(name: str, parts: Mapping[str, Document]) -> bytes:
    """Return a part together with all that it refers to: only where all of that is the same are two parts the same."""
    found: Document = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = parts[name]
            waiting += _references(parts[name])
    return msgspec.json.encode(found, order="sorted")


def _references(value: object) -> Iterable[str]:
    if isinstance(value, str) and value.startswith(LOCAL):
        yield value.removeprefix(LOCAL)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401  any part of a schema
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, str) and value.startswith(LOCAL):
        return REFERENCE.format(name=names[value.removeprefix(LOCAL)])
    return value
