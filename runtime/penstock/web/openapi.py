"""Describe what an environment serves, as OpenAPI 3.1: routes, schemas, problems, and what a call must present here."""

from __future__ import annotations

from collections import Counter
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
from penstock.web import openapi_parts as parts
from penstock.web.problems import CONTENT_TYPE
from penstock.web.schemas import REFERENCE, Document, Schemas

Found = Mapping[int, Document | None]  # schemas by the identity of their types
SERVED = {State.SERVED, State.NON_CONFORMANT}


def describe(host: Host, environment: str, judged: Mapping[str, Judged]) -> Document:
    """Return the document of an environment; what it does not serve is not in it."""
    served = {name: item for name, item in judged.items() if item.state in SERVED}
    endpoints = [(name, endpoint) for name in served for endpoint in host.loaded[name].endpoints]
    durable = any(endpoint.route.durable for _, endpoint in endpoints)
    named = Schemas({"Problem": parts.PROBLEM, **({"Run": parts.RUN} if durable else {})})
    sent = {id(kind): named.of(kind) for _, endpoint in endpoints for kind in _kinds(endpoint)}
    replied = {id(endpoint.returns): named.of(endpoint.returns, reply=True) for _, endpoint in endpoints}
    schemes = {item.name: item.security_scheme() for item in host.plugins.authenticators}
    paths: dict[str, Document] = {}
    for name, endpoint in endpoints:
        path = f"/{name}{endpoint.route.path}"
        paths.setdefault(path, {})[endpoint.route.method.lower()] = _operation(name, endpoint, served[name], sent, replied)
    _tell_apart(operation for path in paths.values() for operation in path.values())
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
        except BaseException:  # noqa: BLE001  a stranger's hook may raise anything; the document goes out without it
            structlog.get_logger("penstock").exception("penstock_openapi failed", plugin=implementation.plugin_name)
    return document


def _kinds(endpoint: Endpoint) -> Iterable[object]:
    """Return the types of what is sent."""
    return endpoint.body.kind if endpoint.body else None, *endpoint.kinds.values(), *(parameter.kind for parameter in endpoint.parameters)


def _tell_apart(operations: Iterable[Document]) -> None:
    """Give operations of one id a number each: a handler may be on several routes."""
    seen: Counter[str] = Counter()
    for operation in operations:
        identifier = operation["operationId"]
        seen[identifier] += 1
        if seen[identifier] > 1:
            operation["operationId"] = f"{identifier}.{seen[identifier]}"  # no handler's name has a dot


def _operation(name: str, endpoint: Endpoint, judged: Judged, sent: Found, replied: Found) -> Document:
    handler = endpoint.route.handler
    trigger = judged.pipeline.trigger
    called = "runs." if endpoint.of_runtime else ""
    operation: Document = {
        "operationId": f"{name.replace('/', '-')}-{called}{getattr(handler, '__name__', 'handler')}-{endpoint.route.method.lower()}",
        "tags": [name],
        "parameters": list(_parameters(endpoint, sent)),
        "responses": {**_reply(endpoint, replied), **{status: _problem(status) for status in _statuses(endpoint, judged)}},
    }
    summary, _, more = (part.strip() for part in (getattr(handler, "__doc__", None) or "").strip().partition("\n"))
    notice, headers = parts.notices(judged.pipeline)
    if summary:
        operation["summary"] = summary
    if more or notice:
        operation["description"] = "\n\n".join(text for text in (notice, more) if text)
    if judged.pipeline.deprecated:
        operation["deprecated"] = True
    for response in operation["responses"].values() if headers else ():
        response["headers"] = {**response.get("headers", {}), **headers}
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _sent(endpoint.body, sent)}
    if endpoint.route.durable:
        operation["callbacks"] = parts.told_at(_run_schema(endpoint, replied))
    if judged.requires:
        operation["security"] = [{scheme: sorted(trigger.scopes) if scheme == "jwt" else [] for scheme in sorted(judged.requires)}]
    return operation


def _parameters(endpoint: Endpoint, sent: Found) -> Iterable[Document]:
    for name in endpoint.in_path:
        yield {"name": name, "in": "path", "required": True, "schema": sent.get(id(endpoint.kinds.get(name))) or parts.TEXT}
    for item in endpoint.parameters:
        yield {"name": item.sent_as, "in": item.place, "required": item.required, "schema": sent.get(id(item.kind)) or parts.TEXT}
    if _repeatable(endpoint):
        yield parts.IDEMPOTENCY_KEY
    if endpoint.route.durable:
        yield parts.CALLBACK_URL
    if endpoint.route.durable or (endpoint.of_runtime and endpoint.route.method == "GET"):
        yield parts.PREFER


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
    if endpoint.parameters or endpoint.route.durable:
        may.add("422")
    if endpoint.body is not None:
        may |= {"400", "413", "415"}
        may |= set() if endpoint.body.kind in (bytes, str, Element) else {"422"}
    return sorted(may)


def _problem(status: str) -> Document:
    return {"description": parts.PROBLEMS[status], "content": {CONTENT_TYPE: {"schema": {"$ref": REFERENCE.format(name="Problem")}}}}


def _run_schema(endpoint: Endpoint, replied: Found) -> Document:
    """Return the schema of a durable run, with what its handler returns in it."""
    run = {"$ref": REFERENCE.format(name="Run")}
    result = parts.TEXT if endpoint.returns in {bytes, str} else replied.get(id(endpoint.returns))
    return {"allOf": [run, {"type": "object", "properties": {"result": result}}]} if result else run


def _reply(endpoint: Endpoint, replied: Found) -> Document:
    if endpoint.of_runtime or endpoint.route.durable:
        content = {"application/json": {"schema": _run_schema(endpoint, replied)}}
        found = {"200": {"description": "The run" if endpoint.of_runtime else "The run, which ended while its caller waited", "content": content}}
        accepted = {"description": "The run is accepted", "headers": parts.LOCATION | parts.AGAIN, "content": content}
        return found | ({"202": accepted} if endpoint.route.durable else {})
    if endpoint.returns is type(None):
        return {"204": {"description": "Done"}}
    if endpoint.returns in {None, Reply}:
        return {"2XX": {"description": "What the pipeline replies"}}
    return {"200": {"description": "What the pipeline replies", "content": _content(endpoint.returns, replied)}}


def _sent(body: Body, sent: Found) -> Document:
    schema = parts.TEXT if body.kind is str else sent.get(id(body.kind))
    return {media: {"schema": schema} if schema else {} for media in body.media}


def _content(kind: object, replied: Found) -> Document:
    if kind is bytes:
        return {"application/octet-stream": {}}
    if kind is str:
        return {"text/plain": {"schema": parts.TEXT}}
    return {"application/json": {"schema": replied.get(id(kind)) or {}}}
