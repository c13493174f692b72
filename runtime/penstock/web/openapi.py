"""Describe what an environment serves, as OpenAPI 3.1: routes, schemas, problems, and what a call must present here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from xml.etree.ElementTree import Element

import structlog

from penstock.contracts.call import Reply
from penstock.gate.compliance import Judged, State
from penstock.host import Host
from penstock.runs.bodies import Body
from penstock.runs.handlers import Endpoint
from penstock.runs.idempotency import SAFE
from penstock.web.problems import CONTENT_TYPE
from penstock.web.schemas import REFERENCE, Document, Schemas

Found = Mapping[int, Document | None]  # schemas by the identity of their types
SERVED = {State.SERVED, State.NON_CONFORMANT}
TEXT: Document = {"type": "string"}
PROBLEM: Document = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "run": {"type": "string", "description": "The run's id"},
        "errors": {
            "type": "array",
            "description": "Every fault: of the body by its JSON Pointer, of the query and the headers by the parameter",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "format": "json-pointer"},
                    "parameter": {"type": "string"},
                    "in": {"type": "string", "enum": ["query", "header"]},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
IDEMPOTENCY_KEY: Document = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes the call safe to repeat: a repeat with the same key gets the first call's reply, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
PROBLEMS = {
    "400": "The body or the Idempotency-Key can't be understood",
    "401": "A credential is missing or no good",
    "403": "The consumer is not associated with this pipeline, the token lacks a scope, or the address may not call",
    "404": "There is nothing at this path",
    "409": "The first call with this Idempotency-Key is still running",
    "413": "The body is too large",
    "415": "The body has the wrong media type",
    "422": "The parameters or the body do not fit",
    "429": "Too many calls",
    "500": "The pipeline failed",
    "503": "The pipeline is not available",
    "504": "The pipeline took too long",
    "default": "A problem of the pipeline's own",
}


def describe(host: Host, environment: str, judged: Mapping[str, Judged]) -> Document:
    """Return the document of an environment; what it does not serve is not in it."""
    served = {name: item for name, item in judged.items() if item.state in SERVED}
    endpoints = [(name, endpoint) for name in served for endpoint in host.loaded[name].endpoints]
    named = Schemas({"Problem": PROBLEM})
    sent = {id(kind): named.of(kind) for _, endpoint in endpoints for kind in _kinds(endpoint)}
    replied = {id(endpoint.returns): named.of(endpoint.returns, reply=True) for _, endpoint in endpoints}
    schemes = {item.name: item.security_scheme() for item in host.plugins.authenticators}
    paths: dict[str, Document] = {}
    for name, endpoint in endpoints:
        path = f"/{name}{endpoint.route.path}"
        paths.setdefault(path, {})[endpoint.route.method.lower()] = _operation(name, endpoint, served[name], sent, replied)
    used = {scheme for item in served.values() for scheme in item.requires}
    document: Document = {
        "openapi": "3.1.0",
        "info": {"title": f"Pipelines of {environment}", "version": version("penstock")},
        "paths": paths,
        "components": {
            "schemas": named.named,
            "securitySchemes": {name: dict(scheme) for name, scheme in schemes.items() if name in used},
        },
        "tags": [{"name": name, "description": item.pipeline.summary} for name, item in served.items()],
    }
    for implementation in host.plugins.manager.hook.penstock_openapi.get_hookimpls():
        try:
            implementation.function(document)
        except Exception:  # noqa: BLE001  a stranger's hook may raise anything; the document goes out without it
            structlog.get_logger("penstock").exception("penstock_openapi failed", plugin=implementation.plugin_name)
    return document


def _kinds(endpoint: Endpoint) -> Iterable[object]:
    """Return the types of what is sent."""
    return endpoint.body.kind if endpoint.body else None, *endpoint.kinds.values(), *(parameter.kind for parameter in endpoint.parameters)


def _operation(name: str, endpoint: Endpoint, judged: Judged, sent: Found, replied: Found) -> Document:
    handler = endpoint.route.handler
    trigger = judged.pipeline.trigger
    says = (getattr(handler, "__doc__", None) or "").strip()
    operation: Document = {
        "operationId": f"{name.replace('/', '-')}-{getattr(handler, '__name__', 'handler')}-{endpoint.route.method.lower()}",
        "tags": [name],
        "parameters": [
            {"name": parameter, "in": "path", "required": True, "schema": sent.get(id(endpoint.kinds.get(parameter))) or TEXT}
            for parameter in endpoint.in_path
        ]
        + [
            {"name": item.sent_as, "in": item.place, "required": item.required, "schema": sent.get(id(item.kind)) or TEXT}
            for item in endpoint.parameters
        ]
        + ([IDEMPOTENCY_KEY] if _repeatable(endpoint) else []),
        "responses": {**_reply(endpoint, replied), **{status: _problem(status) for status in _statuses(endpoint, judged)}},
    }
    if says:
        operation["summary"], _, more = (part.strip() for part in says.partition("\n"))
        if more:
            operation["description"] = more
    if judged.pipeline.deprecated is not None:
        operation["deprecated"] = True
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _sent(endpoint.body, sent)}
    if judged.requires:
        operation["security"] = [{scheme: sorted(trigger.scopes) if scheme == "jwt" else [] for scheme in sorted(judged.requires)}]
    return operation


def _repeatable(endpoint: Endpoint) -> bool:
    return endpoint.pipeline.trigger.idempotent is not None and endpoint.route.method not in SAFE


def _statuses(endpoint: Endpoint, judged: Judged) -> list[str]:
    may = {"401", "403", "429", "500", "503", "504", "default"}  # what is sent unasked is checked too, and operators' bounds are live
    if judged.gate.reads_body:
        may |= {"400", "413"}
    if _repeatable(endpoint):
        may |= {"400", "409", "422"}
    if endpoint.in_path:
        may.add("404")
    if endpoint.parameters:
        may.add("422")
    if endpoint.body is not None:
        may |= {"400", "413", "415"}
        may |= set() if endpoint.body.kind in (bytes, str, Element) else {"422"}
    return sorted(may)


def _problem(status: str) -> Document:
    return {"description": PROBLEMS[status], "content": {CONTENT_TYPE: {"schema": {"$ref": REFERENCE.format(name="Problem")}}}}


def _reply(endpoint: Endpoint, replied: Found) -> Document:
    if endpoint.returns is type(None):
        return {"204": {"description": "Done"}}
    if endpoint.returns in {None, Reply}:
        return {"2XX": {"description": "What the pipeline replies"}}
    return {"200": {"description": "What the pipeline replies", "content": _content(endpoint.returns, replied)}}


def _sent(body: Body, sent: Found) -> Document:
    schema = TEXT if body.kind is str else sent.get(id(body.kind))
    return {media: {"schema": schema} if schema else {} for media in body.media}


def _content(kind: object, replied: Found) -> Document:
    if kind is bytes:
        return {"application/octet-stream": {}}
    if kind is str:
        return {"text/plain": {"schema": TEXT}}
    return {"application/json": {"schema": replied.get(id(kind)) or {}}}
