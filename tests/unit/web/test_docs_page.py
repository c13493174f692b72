"""The page `/-/docs` as it is rendered: types, limits, forms, and texts of plugin code."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import Call, HttpTrigger, Pipeline, hookimpl
from penstock.testing import Runtime
from penstock.web.docs.operations import groups_of
from penstock.web.docs.schemas import fields_of, limits_of, type_of

EVIL = "<script>alert(1)</script>"
Start = Callable[..., Runtime]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "any"),
        ({"type": "string", "format": "date-time"}, "string (date-time)"),
        ({"type": ["number", "null"]}, "number or null"),
        ({"type": "array", "items": {"type": "integer"}}, "array of integer"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {}]}, "[string, any]"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "object of integer"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"enum": ["a", 1]}, '"a" | 1'),
        ({"const": True}, "true"),
        ({"$ref": "#/components/schemas/Order"}, "Order"),
    ],
)
def test_types_are_named_in_words(schema: dict[str, Any], words: str) -> None:
    assert "".join(text for text, _ in type_of(schema)) == words


def test_fields_of_a_named_schema_come_with_their_limits() -> None:
    schemas = {
        "Order": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string", "maxLength": 9, "description": "Its number"},
                "next": {"$ref": "#/components/schemas/Order"},
            },
        }
    }

    first, second = fields_of({"allOf": [{"$ref": "#/components/schemas/Order"}]}, schemas)

    assert (first.name, first.required, first.limits) == ("id", True, "max length 9")
    assert (first.text, second.required, second.type) == ("Its number", False, [("Order", "Order")])
    assert limits_of({"default": 3, "minimum": 1}) == "at least 1, default 3"
    loop = {"Loop": {"$ref": "#/components/schemas/Loop"}}
    assert fields_of(loop["Loop"], loop) == []


def test_references_lead_to_the_parts_of_the_document() -> None:
    document = {
        "paths": {
            "/x/{id}": {
                "get": {
                    "parameters": [{"$ref": "#/components/parameters/Id"}],
                    "responses": {"200": {"$ref": "#/components/responses/Found"}},
                }
            }
        },
        "components": {
            "parameters": {
                "Id": {"name": "id", "in": "path", "required": True, "schema": {"enum": ["a"]}}
            },
            "responses": {"Found": {"description": "Found it"}},
        },
    }

    (group,) = groups_of(document, "https://api.example")
    (operation,) = group.operations

    assert (operation.parameters[0].name, operation.parameters[0].choices) == ("id", ["a"])
    assert operation.responses[0].text == "Found it"
    assert operation.command == "curl 'https://api.example/x/{id}'"


def offering(change: Callable[[dict[str, Any]], None]) -> SimpleNamespace:
    """Return a plugin with a form and a hook that changes the document."""
    shop = Pipeline("shop", version="1.0.0", summary=EVIL, trigger=HttpTrigger())

    @shop.post("/")
    def send(call: Call, body: bytes) -> dict[str, str]:
        """Send **all** of it.

        See [this](javascript:alert(1)) and `that`. <b>bold</b> ![x](https://evil.example/x.png)
        """
        return {}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [shop]

    @hookimpl
    def penstock_openapi(document: dict[str, Any]) -> None:
        change(document)

    return SimpleNamespace(
        __name__="shop", penstock_pipelines=penstock_pipelines, penstock_openapi=penstock_openapi
    )


def page_of(penstock_runtime: Start, change: Callable[[dict[str, Any]], None]) -> str:
    answer = penstock_runtime(offering(change), policy="any").anonymous().get("/-/docs")
    assert answer.status_code == 200
    return answer.text


def test_texts_of_plugin_code_become_no_markup(penstock_runtime: Start) -> None:
    page = page_of(penstock_runtime, lambda document: document["info"].update(title=EVIL))

    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    for part in ("<code>that</code>", "&lt;b&gt;bold", 'type="file"'):
        assert part in page
    for part in ('href="javascript', "<img", "<b>"):
        assert part not in page


def test_a_document_that_a_hook_broke_is_still_offered(penstock_runtime: Start) -> None:
    page = page_of(penstock_runtime, lambda document: document.update(paths=["broken"]))

    assert "This document can't be shown as a page." in " ".join(page.split()).replace("&#39;", "'")
    assert 'href="/-/openapi.json"' in page
