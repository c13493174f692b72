"""Name the schemas of an OpenAPI document.

One name a schema, the same in every process, and readable where two classes share one.

Client generators make a class of each name or `title`, and drop or mix up schemas that share one.
So the title is the name, and two names differ in more than case and punctuation, which generators
change.

The first schema of a name keeps it. Pipelines are described by major version, then by name: a new
`v2` renames nothing of `v1`. The next schema of that name gets its pipeline in front
(`OrdersV2NewOrder`), and a number only where that is taken too. Two classes of one name with equal
schemas, and equal schemas of all types they refer to, are one schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any
from xml.etree.ElementTree import Element

import msgspec

from penstock.contracts.call import Reply
from penstock.web.openapi.dialect import NAMES, Document
from penstock.web.openapi.shapes import LOCAL, Part, describe_type, sanitized

REFERENCE = "#/components/schemas/{name}"
NO_JSON = (None, type(None), bytes, str, Element, Reply)


class Schemas:
    """The named schemas of one document; those that are given at the beginning keep their names."""

    def __init__(self, reserved: Mapping[str, Document]) -> None:
        self.named: Document = {name: {"title": name} | schema for name, schema in reserved.items()}
        self._taken = {_folded(name) for name in reserved}
        self._chosen: dict[tuple[str, bytes], str] = {}
        self._owners: dict[str, str] = {}  # the pipeline that each name was chosen for

    def of(self, kind: Any, owner: str, *, reply: bool = False) -> Document | None:  # noqa: ANN401  any annotation
        """Return the schema of a type of a pipeline, as it is sent or as it is replied.

        None where it is no JSON.

        A type that can't be described may be anything: `{}`.
        """
        if any(kind is item for item in NO_JSON):
            return None
        try:
            schema, parts = describe_type(kind, reply=reply)
        except Exception:  # noqa: BLE001  a plugin's type may raise anything; the document goes out without its schema
            return {}
        return self._settle(schema, parts, owner, reply=reply)

    def resolved(self, schema: Document) -> Document:
        """Return a schema, or the named one that it refers to."""
        named: Document = self.named.get(schema.get("$ref", "").rpartition("/")[2], schema)
        return named

    def add(self, name: str, schema: Document, owner: str) -> Document:
        """Add a schema that is no type's, under this name if it is free.

        Return the reference to it.
        """
        name = sanitized(name)
        return self._settle({"$ref": LOCAL}, {LOCAL: Part(name, {"title": name} | schema)}, owner)

    def _settle(
        self, schema: Document, parts: Mapping[str, Part], owner: str, *, reply: bool = False
    ) -> Document:
        """Add the parts under names of this document.

        Return the schema with references to them.
        """
        names = {
            key: self._name(part.name, _whole(key, parts), owner, reply=reply)
            for key, part in parts.items()
        }
        for key, part in parts.items():
            before: Document = self.named.get(names[key], {})
            self.named[names[key]] = before | _renamed(part.schema, names) | {"title": names[key]}
        settled: Document = _renamed(schema, names)
        return settled

    def _name(self, name: str, whole: bytes, owner: str, *, reply: bool) -> str:
        chosen = self._chosen.get((name, whole))
        if chosen is None:
            chosen = next(
                item
                for item in self._candidates(name, owner, reply=reply)
                if _folded(item) not in self._taken
            )
            self._chosen[name, whole] = chosen
            self._owners[chosen] = owner
            self._taken.add(_folded(chosen))
        return chosen

    def _candidates(self, name: str, owner: str, *, reply: bool) -> Iterator[str]:
        """Yield the names that a schema of a pipeline may get, the best one first.

        A schema of replies is named after that of requests.
        """
        version, _, pipeline = owner.partition("/")
        qualified = (
            "".join(part.capitalize() for part in pipeline.split("-")) + version.upper() + name
        )
        for candidate in chain((name, qualified), (f"{qualified}{number}" for number in count(2))):
            yield candidate
            if reply and self._owners.get(candidate) == owner:
                yield f"{candidate}Reply"


def _folded(name: str) -> str:
    """Return the least that generators keep of a name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _whole(key: str, parts: Mapping[str, Part]) -> bytes:
    """Return a part together with everything that it refers to.

    Two parts are the same if this is the same. References become numbers in the order of their
    appearance, because keys mean nothing outside of one call.
    """
    order, schemas = [key], list[object]()
    while len(schemas) < len(order):
        part = parts[order[len(schemas)]].schema
        words = {word: value for word, value in part.items() if word != NAMES}
        schema = msgspec.json.decode(msgspec.json.encode(words, order="sorted"))
        order += [item for item in dict.fromkeys(_references(schema)) if item not in order]
        schemas.append(
            _replaced(schema, {item: f"{LOCAL}{index}" for index, item in enumerate(order)})
        )
    return msgspec.json.encode(schemas)


def _references(value: object) -> Iterable[str]:
    if isinstance(value, str) and value.startswith(LOCAL):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401  any part of a schema
    return _replaced(value, {key: REFERENCE.format(name=name) for key, name in names.items()})


def _replaced(value: Any, references: Mapping[str, str]) -> Any:  # noqa: ANN401  any part of a schema
    if isinstance(value, dict):
        return {key: _replaced(item, references) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, references) for item in value]
    return references.get(value, value) if isinstance(value, str) else value
