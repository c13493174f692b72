"""Describe what an environment serves, as OpenAPI 3.1.

Routes, schemas, problems, and what a call must present here.

Every process describes an environment with the same bytes: pipelines come by major version and
name, routes as they were declared, and nothing is written in the order of a set. Paths have no
slash at their end here; the server takes both spellings.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from xml.etree.ElementTree import Element

import msgspec
import structlog

from penstock.endpoints.decoders import Body
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.parameters import Parameter
from penstock.gate.compliance import Evaluation
from penstock.host.catalog import Catalog
from penstock.http.problems import CONTENT_TYPE
from penstock.runs.idempotency import SAFE
from penstock.web.openapi import components as parts
from penstock.web.openapi.dialect import BINARY, NULL, TEXT, Document, default_of, fitting
from penstock.web.openapi.replies import replies_of, run_of
from penstock.web.openapi.schemas import REFERENCE, Schemas

UNNAMED = "handler"  # in an operationId
# Bodies that are no JSON.
RAW: Mapping[object, Document] = {bytes: BINARY, str: TEXT, Element: TEXT}


def describe(
    catalog: Catalog, environment: str, evaluated: Mapping[str, Evaluation], url: str = ""
) -> Document:
    """Return the document of an environment; what it does not serve is not in it.

    `url` is where callers reach it; without one they do where the document comes from.
    """
    served = {
        name: evaluated[name] for name in sorted(evaluated, key=_rank) if evaluated[name].served
    }
    endpoints = {name: catalog.loaded[name].endpoints for name in served}
    durable = any(endpoint.route.durable for items in endpoints.values() for endpoint in items)
    schemas = Schemas({"Problem": parts.PROBLEM, **({"Run": parts.RUN} if durable else {})})
    for name, items in endpoints.items():  # what is sent is named before what is replied
        for kind in (kind for endpoint in items for kind in _kinds(endpoint)):
            schemas.of(kind, name)
    paths: dict[str, Document] = {}
    for name, items in endpoints.items():
        for endpoint in items:
            described = _operation(name, endpoint, items, served[name], schemas)
            paths.setdefault(path_of(name, endpoint), {})[endpoint.route.method.lower()] = described
    _number_duplicates(operation for path in paths.values() for operation in path.values())
    used = {scheme for item in served.values() for scheme in item.requires}
    schemes = {
        item.name: item.security_scheme()
        for item in catalog.plugins.authenticators
        if item.name in used
    }
    document: Document = {
        "openapi": "3.1.0",
        "info": {"title": f"Pipelines of {environment}", "version": version("penstock")},
        "servers": [{"url": url or "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.named.items())),
            "securitySchemes": {name: dict(schemes[name]) for name in sorted(schemes)},
        },
        "tags": [
            {"name": name, "description": item.pipeline.summary or f"Pipeline {name}"}
            for name, item in served.items()
        ],
    }
    # What a hook changes is in one place of one document.
    document = msgspec.json.decode(msgspec.json.encode(document))
    for implementation in catalog.plugins.manager.hook.penstock_openapi.get_hookimpls():
        try:
            implementation.function(document)
        except BaseException:  # noqa: BLE001  a plugin's hook may raise anything; the document goes out without it
            structlog.get_logger("penstock").exception(
                "penstock_openapi failed", plugin=implementation.plugin_name
            )
    return document


def path_of(identifier: str, endpoint: Endpoint) -> str:
    """Return the path of an endpoint of a pipeline as it is described."""
    return f"/{identifier}{endpoint.route.path}".rstrip("/")


def _rank(identifier: str) -> tuple[int, str]:
    major, _, name = identifier.partition("/")
    return int(major[1:]), name


def _kinds(endpoint: Endpoint) -> Iterable[object]:
    """Return the types of what is sent."""
    return (
        endpoint.body.kind if endpoint.body else None,
        *endpoint.kinds.values(),
        *(parameter.kind for parameter in endpoint.parameters),
    )


def _number_duplicates(operations: Iterable[Document]) -> None:
    """Add a number to operations that share an id.

    A handler may be on several routes, and generators drop the punctuation of an id.
    """
    seen: Counter[str] = Counter()
    for operation in operations:
        identifier = operation["operationId"]
        folded = re.sub(r"[^a-z0-9]", "", identifier.lower())
        seen[folded] += 1
        if seen[folded] > 1:
            operation["operationId"] = f"{identifier}.{seen[folded]}"  # no handler's name has a dot


def _operation(
    name: str,
    endpoint: Endpoint,
    siblings: Sequence[Endpoint],
    evaluated: Evaluation,
    schemas: Schemas,
) -> Document:
    method = endpoint.route.method
    called = _called(endpoint)
    summary, more = _texts(endpoint.route.handler)
    notice, headers = parts.deprecation(evaluated.pipeline)
    operation: Document = {
        "operationId": (
            f"{name.replace('/', '-')}-{'runs.' if endpoint.of_runtime else ''}"
            f"{called}-{method.lower()}"
        ),
        "summary": (
            summary
            or (
                called.strip("_").replace("_", " ").capitalize()
                if called != UNNAMED
                else f"{method} {path_of(name, endpoint)}"
            )
        ),
        "tags": [name],
        "parameters": list(_parameters(name, endpoint, schemas)),
        "responses": (
            replies_of(endpoint, siblings, schemas)
            | {status: _problem(status) for status in _statuses(endpoint, evaluated)}
        ),
        "security": _security(evaluated),
    }
    if more or notice:
        operation["description"] = "\n\n".join(text for text in (notice, more) if text)
    if evaluated.pipeline.deprecated:
        operation["deprecated"] = True
    for response in operation["responses"].values() if headers else ():
        response["headers"] = {**response.get("headers", {}), **headers}
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": _sent(name, endpoint.body, schemas),
        }
    if endpoint.route.durable:
        operation["callbacks"] = parts.callback_of(
            run_of(endpoint, schemas), operation["operationId"]
        )
    return operation


def _security(evaluated: Evaluation) -> list[Document]:
    """Return the credentials that a call must present, all of them."""
    if not evaluated.requires:
        return []
    scopes = sorted(evaluated.pipeline.trigger.scopes)
    return [{scheme: scopes if scheme == "jwt" else [] for scheme in sorted(evaluated.requires)}]


def _called(endpoint: Endpoint) -> str:
    """Return the name of a handler, a substitute where it has none that can be written."""
    handler = endpoint.route.handler
    while isinstance(handler, partial):
        handler = handler.func
    name = getattr(handler, "__name__", "")
    return name if name.isascii() and name.isidentifier() else UNNAMED


def _texts(handler: object) -> tuple[str, str]:
    """Return the first paragraph of a handler's docstring in one line, and the rest."""
    while isinstance(handler, partial):
        handler = handler.func
    first, _, more = inspect.cleandoc(getattr(handler, "__doc__", None) or "").partition("\n\n")
    return " ".join(first.split()), more.strip()


def _parameters(name: str, endpoint: Endpoint, schemas: Schemas) -> Iterable[Document]:
    for place in endpoint.in_path:
        yield {
            "name": place,
            "in": "path",
            "required": True,
            "schema": _without_null(schemas.of(endpoint.kinds.get(place), name) or TEXT),
        }
    for item in endpoint.parameters:
        yield {
            "name": item.sent_as,
            "in": item.place,
            "required": item.required,
            "schema": _parameter(name, item, schemas),
        }
    if _repeatable(endpoint):
        yield parts.IDEMPOTENCY_KEY
    if endpoint.route.durable:
        yield parts.CALLBACK_URL
    if endpoint.route.durable or (endpoint.of_runtime and endpoint.route.method == "GET"):
        yield parts.PREFER


def _parameter(name: str, item: Parameter, schemas: Schemas) -> Document:
    schema = _without_null(schemas.of(item.kind, name) or TEXT)
    return (
        schema
        if item.required or item.default is None
        else fitting(schema | default_of(item.default))
    )


def _without_null(schema: Document) -> Document:
    """Return a schema as far as a query, a header or a path can hold it.

    None of them has a null, it is left out.
    """
    options = [item for item in schema.get("anyOf", ()) if item != NULL]
    if not options:
        return schema
    others = {word: value for word, value in schema.items() if word != "anyOf"}
    return others | (options[0] if len(options) == 1 else {"anyOf": options})


def _repeatable(endpoint: Endpoint) -> bool:
    return endpoint.pipeline.trigger.idempotent is not None and endpoint.route.method not in SAFE


def _statuses(endpoint: Endpoint, evaluated: Evaluation) -> list[str]:
    # What is sent unasked is checked too, and operators' bounds are live.
    may = {"401", "403", "429", "500", "503", "504", "default"}
    if evaluated.gate.reads_body:
        may |= {"400", "413"}
    if _repeatable(endpoint):
        may |= {"400", "409", "422"}
    if endpoint.in_path:
        may.add("404")
    if endpoint.parameters or endpoint.route.durable:
        may.add("422")
    if endpoint.body is not None:
        may |= {"400", "413", "415"}
        may |= set() if endpoint.body.kind in RAW else {"422"}
    return sorted(may)


def _problem(status: str) -> Document:
    return {
        "description": parts.PROBLEMS[status],
        "content": {CONTENT_TYPE: {"schema": {"$ref": REFERENCE.format(name="Problem")}}},
    }


def _sent(name: str, body: Body, schemas: Schemas) -> Document:
    """Return the media type of a body with its schema.

    Only the first of several is described: some generators send all of them at once.
    """
    raw = RAW.get(body.kind) if isinstance(body.kind, type) else None
    schema = raw if raw is not None else schemas.of(body.kind, name) or {}
    lists = (
        [
            field
            for field, kind in schemas.resolved(schema).get("properties", {}).items()
            if _is_list(kind)
        ]
        if body.form
        else []
    )
    # Otherwise some generators join the values.
    repeated = (
        {"encoding": {field: {"style": "form", "explode": True} for field in lists}}
        if lists
        else {}
    )
    return {body.media[0]: {"schema": schema, **repeated}}


def _is_list(schema: Document) -> bool:
    """Return whether a field of a form may be sent several times, as text."""
    return any(
        item.get("type") == "array" and item.get("items") != BINARY
        for item in (schema, *schema.get("anyOf", ()))
    )
