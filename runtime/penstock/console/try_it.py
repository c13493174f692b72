"""What a pipeline's routes take and give, and a call of one as a line of curl to try."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from flask import request

from penstock.console.context import View, console_context
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.route_problems import PARAMETER
from penstock.gate.compliance import Evaluation
from penstock.gate.descriptions import curl_line
from penstock.host.compilation import LoadedPipeline

NAMED = "#/components/schemas/"
DEEPEST = 6  # levels of an example
LEAVES = {"integer": 1, "number": 1.5, "boolean": True, "string": "text"}

Json = Any  # what a document holds


def document_of(identifier: str, view: View, evaluated: Evaluation | None) -> dict[str, Any]:
    """Return the OpenAPI document of a pipeline, empty where it is not served."""
    here = console_context()
    return here.describe(
        here.host.catalog, view.name, {identifier: evaluated} if evaluated is not None else {}
    )


def _operation(
    document: Mapping[str, Json], identifier: str, endpoint: Endpoint
) -> Mapping[str, Json]:
    path = f"/{identifier}{endpoint.route.path}".rstrip("/")
    found: Mapping[str, Json] = (
        document["paths"].get(path, {}).get(endpoint.route.method.lower(), {})
    )
    return found


def routes_of(
    identifier: str, item: LoadedPipeline, document: Mapping[str, Json]
) -> list[dict[str, Any]]:
    """Return each route with what goes in and out, as far as it is served."""
    parts = document["components"]["schemas"]
    found = []
    for endpoint in item.endpoints:
        operation = _operation(document, identifier, endpoint)
        found.append(
            {
                "method": endpoint.route.method,
                "path": f"/{identifier}{endpoint.route.path}",
                "durable": endpoint.route.durable,
                "summary": operation.get("summary", ""),
                "parameters": [
                    (one["name"], one["in"], one["required"], one["schema"].get("type", ""))
                    for one in operation.get("parameters", ())
                ],
                "sent": [
                    (media, _pretty(said, parts))
                    for media, said in operation.get("requestBody", {}).get("content", {}).items()
                ],
                "replied": list(_replied(operation, parts)),
            }
        )
    return found


def _replied(
    operation: Mapping[str, Json], parts: Mapping[str, Json]
) -> Iterator[tuple[str, str, str, str]]:
    for status, reply in operation.get("responses", {}).items():
        if status.startswith("2"):
            for media, said in (reply.get("content") or {"": {}}).items():
                yield status, reply["description"], media, _pretty(said, parts)


def _pretty(said: Mapping[str, Json], parts: Mapping[str, Json]) -> str:
    """Return a schema as text, with the named ones that it refers to."""
    schema = said.get("schema")
    if not schema:
        return ""
    named: dict[str, Json] = {}
    waiting = [schema]
    while waiting:
        for name in re.findall(rf'"{NAMED}([^"]+)"', json.dumps(waiting.pop())):
            if name not in named and name in parts:
                named[name] = parts[name]
                waiting.append(parts[name])
    return json.dumps(
        {**schema, "components": {"schemas": named}} if named else schema,
        indent=2,
        ensure_ascii=False,
    )


def _example(schema: Mapping[str, Json], parts: Mapping[str, Json], depth: int = 0) -> Json:
    """Return a value that looks like what a schema asks for, to be filled in."""
    if depth > DEEPEST:
        return None
    ready = [schema[word] for word in ("default", "const") if word in schema] + list(
        schema.get("enum", ())
    )
    if ready:
        return ready[0]
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if "$ref" in schema or choices:
        return _example(
            choices[0] if choices else parts.get(schema["$ref"].removeprefix(NAMED), {}),
            parts,
            depth + 1,
        )
    if schema.get("type") == "object":
        fields: Mapping[str, Json] = schema.get("properties", {})
        return {
            name: _example(fields[name], parts, depth + 1)
            for name in schema.get("required", fields)
            if name in fields
        }
    if schema.get("type") == "array":
        return (
            [_example(schema["items"], parts, depth + 1)]
            if isinstance(schema.get("items"), Mapping)
            else []
        )
    return LEAVES.get(str(schema.get("type")))


def trial(
    identifier: str,
    item: LoadedPipeline,
    document: Mapping[str, Json],
    view: View,
    evaluated: Evaluation,
    *,
    internal: bool,
) -> dict[str, Any]:
    """Build the line of curl of a call, with what was filled in so far."""
    here, given = console_context(), request.args
    endpoints = {str(endpoint.route): endpoint for endpoint in item.endpoints}
    chosen = given.get("route", "")
    endpoint = endpoints.get(chosen) or next(iter(endpoints.values()))
    route = endpoint.route
    values = {name: given.get(f"in-{name}", "") for name in endpoint.in_path}
    path = PARAMETER.sub(lambda match: quote(values[match[1]], safe="") or match[0], route.path)
    content = _operation(document, identifier, endpoint).get("requestBody", {}).get("content", {})
    media = next((one for one in content if one.endswith("json")), next(iter(content), None))
    body = given.get("body") if chosen == str(route) else None
    if body is None:
        example = _example(
            (content.get(media) or {}).get("schema") or {}, document["components"]["schemas"]
        )
        body = (
            json.dumps(example or {}, ensure_ascii=False)
            if media is not None and media.endswith("json")
            else ""
        )
    base = given.get("base", "").strip() or _base(view, internal=internal)
    schemes = {one.name: one.security_scheme() for one in here.host.catalog.plugins.authenticators}
    return {
        "routes": list(endpoints),
        "route": str(route),
        "base": base,
        "foreign": _foreign(base),
        "values": values,
        "media": media,
        "body": body,
        "line": curl_line(
            route.method,
            f"{base.rstrip('/')}/{identifier}{path}",
            evaluated,
            schemes,
            media=media,
            body=body,
        ),
    }


def _foreign(base: str) -> str:
    """Return the host that an address leads to, empty where it is ours.

    A link could have brought that of somebody else.
    """
    try:
        host = urlsplit(base).netloc or base
    except ValueError:
        host = base
    settings = console_context().settings
    return (
        ""
        if host in {request.host, settings.internal_bind, urlsplit(settings.url).netloc}
        else host
    )


def _base(view: View, *, internal: bool) -> str:
    """Return where the environment is called: here, if this process serves it.

    Else nobody told us.
    """
    settings = console_context().settings
    if settings.url and not internal and view.name == settings.environment:
        return settings.url
    if not settings.pipelines or view.name != settings.environment:
        return f"https://{'internal.' if internal else ''}{view.name}.example"
    return f"http://{settings.internal_bind or 'INTERNAL'}" if internal else request.url_root
