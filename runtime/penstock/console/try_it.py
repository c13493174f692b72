"""The routes of a pipeline with their schemas, and a call of one as a curl command to try."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from flask import request

from penstock.console.context import EnvironmentView, console_context
from penstock.console.examples import SCHEMAS, example_of
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.route_problems import PARAMETER
from penstock.gate.compliance import Evaluation
from penstock.gate.descriptions import curl_line
from penstock.host.compilation import LoadedPipeline

Json = Any  # any value of an OpenAPI document


def document_of(
    identifier: str, view: EnvironmentView, evaluated: Evaluation | None
) -> dict[str, Any]:
    """Return the OpenAPI document of a pipeline; empty where it is not served."""
    context = console_context()
    pipelines = {identifier: evaluated} if evaluated is not None else {}
    return context.describe(context.host.catalog, view.name, pipelines)


def _operation(
    document: Mapping[str, Json], identifier: str, endpoint: Endpoint
) -> Mapping[str, Json]:
    path = f"/{identifier}{endpoint.route.path}".rstrip("/")
    operation: Mapping[str, Json] = (
        document["paths"].get(path, {}).get(endpoint.route.method.lower(), {})
    )
    return operation


def routes_of(
    identifier: str, item: LoadedPipeline, document: Mapping[str, Json]
) -> list[dict[str, Any]]:
    """Return each route with its parameters, body and responses, as far as it is served."""
    schemas = document["components"]["schemas"]
    routes = []
    for endpoint in item.endpoints:
        operation = _operation(document, identifier, endpoint)
        content = operation.get("requestBody", {}).get("content", {})
        routes.append(
            {
                "method": endpoint.route.method,
                "path": f"/{identifier}{endpoint.route.path}",
                "durable": endpoint.route.durable,
                "summary": operation.get("summary", ""),
                "parameters": [
                    (
                        parameter["name"],
                        parameter["in"],
                        parameter["required"],
                        parameter["schema"].get("type", ""),
                    )
                    for parameter in operation.get("parameters", ())
                ],
                "bodies": [
                    (media, _schema_text(value, schemas)) for media, value in content.items()
                ],
                "responses": list(_responses(operation, schemas)),
            }
        )
    return routes


def _responses(
    operation: Mapping[str, Json], schemas: Mapping[str, Json]
) -> Iterator[tuple[str, str, str, str]]:
    for status, response in operation.get("responses", {}).items():
        if status.startswith("2"):
            for media, value in (response.get("content") or {"": {}}).items():
                yield status, response["description"], media, _schema_text(value, schemas)


def _schema_text(value: Mapping[str, Json], schemas: Mapping[str, Json]) -> str:
    """Return the schema of a media type as text, with the schemas that it refers to."""
    schema = value.get("schema")
    if not schema:
        return ""
    referred: dict[str, Json] = {}
    queue = [schema]
    while queue:
        for name in re.findall(rf'"{SCHEMAS}([^"]+)"', json.dumps(queue.pop())):
            if name not in referred and name in schemas:
                referred[name] = schemas[name]
                queue.append(schemas[name])
    whole = {**schema, "components": {"schemas": referred}} if referred else schema
    return json.dumps(whole, indent=2, ensure_ascii=False)


def trial(
    identifier: str,
    item: LoadedPipeline,
    document: Mapping[str, Json],
    view: EnvironmentView,
    evaluated: Evaluation,
    *,
    internal: bool,
) -> dict[str, Any]:
    """Return the curl command of a call, built from the values in the query."""
    query = request.args
    endpoints = {str(endpoint.route): endpoint for endpoint in item.endpoints}
    endpoint = endpoints.get(query.get("route", "")) or next(iter(endpoints.values()))
    route = endpoint.route
    values = {name: query.get(f"in-{name}", "") for name in endpoint.in_path}
    path = PARAMETER.sub(lambda match: quote(values[match[1]], safe="") or match[0], route.path)
    operation = _operation(document, identifier, endpoint)
    content = operation.get("requestBody", {}).get("content", {})
    media = next((each for each in content if each.endswith("json")), next(iter(content), None))
    body = query.get("body") if query.get("route") == str(route) else None
    if body is None:
        schema = (content.get(media) or {}).get("schema") or {}
        body = _example_body(media, schema, document["components"]["schemas"])
    base = query.get("base", "").strip() or _base_url(view, internal=internal)
    authenticators = console_context().host.catalog.plugins.authenticators
    return {
        "routes": list(endpoints),
        "route": str(route),
        "base": base,
        "foreign_host": _foreign_host(base),
        "values": values,
        "media": media,
        "body": body,
        "command": curl_line(
            route.method,
            f"{base.rstrip('/')}/{identifier}{path}",
            evaluated,
            {each.name: each.security_scheme() for each in authenticators},
            media=media,
            body=body,
        ),
    }


def _example_body(
    media: str | None, schema: Mapping[str, Json], schemas: Mapping[str, Json]
) -> str:
    if media is None or not media.endswith("json"):
        return ""
    return json.dumps(example_of(schema, schemas) or {}, ensure_ascii=False)


def _foreign_host(base: str) -> str:
    """Return the host of a URL, or "" where it is this application's own.

    A link may have set the URL, so that an operator could send credentials elsewhere.
    """
    try:
        host = urlsplit(base).netloc or base
    except ValueError:
        host = base
    settings = console_context().settings
    own = {request.host, settings.internal_bind, urlsplit(settings.url).netloc}
    return "" if host in own else host


def _base_url(view: EnvironmentView, *, internal: bool) -> str:
    """Return the URL of an environment: its own if this process serves it, else an example."""
    settings = console_context().settings
    if settings.url and not internal and view.name == settings.environment:
        return settings.url
    if not settings.pipelines or view.name != settings.environment:
        return f"https://{'internal.' if internal else ''}{view.name}.example"
    return f"http://{settings.internal_bind or 'INTERNAL'}" if internal else request.url_root
