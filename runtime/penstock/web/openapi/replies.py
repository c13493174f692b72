"""Describe the replies of a call that goes well, from what its handler says that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Union, get_args, get_origin

from penstock.contracts.call import Reply
from penstock.endpoints.endpoint import Endpoint
from penstock.web.openapi import components as parts
from penstock.web.openapi.dialect import BINARY, NULL, TEXT, Document
from penstock.web.openapi.schemas import REFERENCE, Schemas

JSON = "application/json"
OF_ANY_KIND = (None, Any, object, Reply)  # a handler that says no more may reply with anything
# The first media type is that of most replies, and the one that generators take; the second one is
# true of all others.
ANYTHING: Document = {JSON: {"schema": {}}, "*/*": {"schema": BINARY}}
RUN: Document = {"$ref": REFERENCE.format(name="Run")}
REPLY = "What the pipeline replies"


def replies_of(endpoint: Endpoint, siblings: Sequence[Endpoint], schemas: Schemas) -> Document:
    """Return the replies by status.

    `siblings` are all endpoints of the pipeline, whose runs one of the runtime's own may tell.
    """
    if endpoint.of_runtime:
        started = [item for item in siblings if item.route.durable]
        # A run under way fits each of several.
        run = run_of(started[0], schemas) if len(started) == 1 else RUN
        return {"200": {"description": "The run", "content": _json(run)}}
    if endpoint.route.durable:
        content = _json(run_of(endpoint, schemas))
        return {
            "200": {
                "description": "The run, which ended while its caller waited",
                "content": content,
            },
            "202": {
                "description": "The run is accepted",
                "headers": parts.LOCATION | parts.AGAIN,
                "content": content,
            },
        }
    kinds, owner = _members(endpoint.returns), endpoint.pipeline.id
    responses: Document = {}
    content = {media: {"schema": schema} for media, schema in _media(kinds, schemas, owner).items()}
    if content:
        responses["200"] = {"description": REPLY, "content": content}
    if type(None) in kinds:
        responses["204"] = {"description": "Done"}
    if any(kind in OF_ANY_KIND for kind in kinds):
        responses["2XX"] = {"description": REPLY, "content": ANYTHING}
    return responses


def run_of(endpoint: Endpoint, schemas: Schemas) -> Document:
    """Return the schema of a durable run, with what its handler returns in it."""
    kinds = _members(endpoint.returns)
    if any(kind in OF_ANY_KIND for kind in kinds):
        return RUN
    options = [
        TEXT if kind in {bytes, str} else NULL for kind in kinds if kind in {bytes, str, type(None)}
    ]
    result = _any_of(
        [
            *_media(
                [kind for kind in kinds if kind not in {bytes, str}], schemas, endpoint.pipeline.id
            ).values(),
            *options,
        ]
    )
    name = "".join(
        part.capitalize()
        for part in getattr(endpoint.route.handler, "__name__", "handler").split("_")
    )
    typed = {"allOf": [RUN, {"type": "object", "properties": {"result": result}}]}
    return schemas.add(f"{name}Run", typed, endpoint.pipeline.id)


def _members(returns: Any) -> list[Any]:  # noqa: ANN401  any annotation
    """Return the types that a handler may return, one by one."""
    if get_origin(returns) in {Union, UnionType}:
        return [item for member in get_args(returns) for item in _members(member)]
    return [bytes if returns in {bytearray, memoryview} else returns]


def _media(kinds: Sequence[Any], schemas: Schemas, owner: str) -> dict[str, Document]:
    """Return the media types of replies of these types, each with its schema."""
    in_json = [
        kind for kind in kinds if kind not in OF_ANY_KIND and kind not in {bytes, str, type(None)}
    ]
    media: dict[str, Document] = {}
    if in_json:
        together = schemas.of(reduce(or_, in_json), owner, reply=True)
        media[JSON] = together or _any_of(
            [schemas.of(kind, owner, reply=True) or {} for kind in in_json]
        )
    if str in kinds:
        media["text/plain"] = TEXT
    if bytes in kinds:
        media["application/octet-stream"] = BINARY
    return media


def _any_of(options: Sequence[Document]) -> Document:
    """Return the schema of one of several, each once."""
    distinct = [item for index, item in enumerate(options) if item not in options[:index]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def _json(schema: Document) -> Document:
    return {JSON: {"schema": schema}}
