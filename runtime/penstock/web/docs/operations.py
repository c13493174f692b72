"""The operations of an OpenAPI document as values for the page: what to send, and what comes back.

A hook of plugin code may have changed the document, so nothing in it is taken for granted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.console.examples import example_of
from penstock.gate.descriptions import curl_command
from penstock.web.docs.schemas import Field, Schema, Type, fields_of, limits_of, type_of

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
# How readers name a credential; others by the name of their scheme.
CREDENTIALS = {"api_key": "API key", "jwt": "JWT", "mtls": "client certificate"}
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value in the path, the query or a header; `choices` are all values that it may have."""

    name: str
    place: str
    required: bool
    type: Type
    limits: str
    text: str
    choices: Sequence[str]
    many: bool


@dataclass(frozen=True, slots=True)
class Content:
    """A body: its media type, its type, the fields of an object, and an example."""

    media: str
    type: Type
    fields: Sequence[Field]
    example: str
    files: frozenset[str] = frozenset()

    @property
    def form(self) -> bool:
        """Whether it is sent as the fields of a form."""
        return self.media in FORMS

    @property
    def binary(self) -> bool:
        """Whether it is sent as a file."""
        return self.type == [("string (binary)", "")]


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its status, what it means, its bodies, and its headers with their meanings."""

    status: str
    text: str
    contents: Sequence[Content]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Callback:
    """A request that the server sends: what it reports, and its body."""

    text: str
    contents: Sequence[Content]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation: how to call it. `anchor` is unique on the page."""

    anchor: str
    method: str
    path: str
    summary: str
    text: str
    deprecated: bool
    requires: Sequence[str]
    scopes: Sequence[str]
    parameters: Sequence[Parameter]
    bodies: Sequence[Content]
    responses: Sequence[Response]
    callbacks: Sequence[Callback]
    command: str

    @property
    def credentials(self) -> str:
        """The credentials that a call must present, as readers name them."""
        names = (CREDENTIALS.get(name, name.replace("_", " ")) for name in self.requires)
        return " + ".join(names)


@dataclass(frozen=True, slots=True)
class Group:
    """The operations of a pipeline."""

    name: str
    anchor: str
    text: str
    operations: Sequence[Operation]


def groups_of(document: Document, base: str) -> list[Group]:
    """Return the operations of a document by their first tag. `base` is the address to call."""
    texts = {tag["name"]: str(tag.get("description", "")) for tag in document.get("tags", ())}
    found: dict[str, list[Operation]] = {name: [] for name in texts}
    for path, methods in document.get("paths", {}).items():
        for method in METHODS:
            if method in methods:
                operation = methods[method]
                tag = next(iter(operation.get("tags", ())), "other")
                described = _operation(document, base, path, method, operation)
                found.setdefault(tag, []).append(described)
    return [
        Group(name, f"in-{_anchor(name)}", texts.get(name, ""), operations)
        for name, operations in found.items()
        if operations
    ]


def _operation(
    document: Document, base: str, path: str, method: str, operation: Document
) -> Operation:
    schemas = document.get("components", {}).get("schemas", {})
    offered = operation.get("security", document.get("security", ()))
    security: Document = next(iter(offered), {})
    bodies = list(_contents(_resolved(document, operation.get("requestBody", {})), schemas))
    schemes = document.get("components", {}).get("securitySchemes", {})
    return Operation(
        anchor=_anchor(str(operation.get("operationId") or f"{method}{path}")),
        method=method.upper(),
        path=path,
        summary=str(operation.get("summary", "")),
        text=str(operation.get("description", "")),
        deprecated=bool(operation.get("deprecated")),
        requires=list(security),
        scopes=[scope for scopes in security.values() for scope in scopes],
        parameters=[
            _parameter(_resolved(document, item), schemas)
            for item in operation.get("parameters", ())
        ],
        bodies=bodies,
        responses=list(_responses(document, operation.get("responses", {}), schemas)),
        callbacks=list(_callbacks(document, operation.get("callbacks", {}), schemas)),
        command=curl_command(
            method.upper(),
            f"{base}{path}",
            security,
            schemes,
            media=bodies[0].media if bodies else None,
            body=bodies[0].example if bodies else "",
        ),
    )


def _parameter(item: Document, schemas: Mapping[str, Schema]) -> Parameter:
    schema = item.get("schema", {})
    named = schemas.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    choices = list(map(str, named.get("enum", ())))
    if named.get("type") == "boolean":
        choices = ["true", "false"]
    return Parameter(
        name=str(item.get("name", "")),
        place=str(item.get("in", "")),
        required=bool(item.get("required")),
        type=type_of(schema),
        limits=limits_of(schema),
        text=str(item.get("description", "")),
        choices=choices,
        many=named.get("type") == "array",
    )


def _contents(owner: Document, schemas: Mapping[str, Schema]) -> Iterator[Content]:
    for media, value in owner.get("content", {}).items():
        schema = value.get("schema", {})
        fields = fields_of(schema, schemas)
        example = example_of(schema, schemas) if schema else None
        text = json.dumps(example, ensure_ascii=False, indent=2) if media.endswith("json") else ""
        if media.startswith("text/"):
            text = "text"
        yield Content(
            media,
            type_of(schema),
            fields,
            "" if example is None and not text.strip('"') else text,
            frozenset(field.name for field in fields if ("string (binary)", "") in field.type),
        )


def _responses(
    document: Document, responses: Document, schemas: Mapping[str, Schema]
) -> Iterator[Response]:
    for status, response in responses.items():
        described = _resolved(document, response)
        headers = {
            name: str(_resolved(document, header).get("description", ""))
            for name, header in described.get("headers", {}).items()
        }
        text = str(described.get("description", ""))
        yield Response(str(status), text, list(_contents(described, schemas)), headers)


def _callbacks(
    document: Document, callbacks: Document, schemas: Mapping[str, Schema]
) -> Iterator[Callback]:
    for paths in callbacks.values():
        for methods in paths.values():
            for operation in methods.values():
                body = _resolved(document, operation.get("requestBody", {}))
                yield Callback(str(operation.get("summary", "")), list(_contents(body, schemas)))


def _resolved(document: Document, value: Document) -> Document:
    """Return a part of a document, or the one below `components` that it refers to."""
    reference = str(value.get("$ref", ""))
    if not reference.startswith("#/components/"):
        return value
    kind, _, name = reference.removeprefix("#/components/").partition("/")
    part: Document = document.get("components", {}).get(kind, {}).get(name, {})
    return part


def _anchor(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-")
