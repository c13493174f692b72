"""The page `/-/docs`, in a real browser: it shows what is served, lets a call be tried, and
talks to no other server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from support.place import Place, Server

Serve = Callable[..., Server]

PLUGIN = """
from dataclasses import dataclass
from penstock import Call, HttpTrigger, Pipeline, hookimpl

greeting = Pipeline("greeting", version="1.0.0", summary="Greets people", trigger=HttpTrigger(api_key=True, jwt=True))

@dataclass
class Person:
    name: str

@greeting.post("/")
def greet(call: Call, person: Person) -> dict[str, str]:
    "Greet somebody."
    return {"hello": person.name, "from": call.caller.consumer}

@hookimpl
def penstock_pipelines(): return [greeting]
"""  # noqa: E501  text as it is


@dataclass
class Seen:
    """Errors and requests of a page."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, browser: Browser, seen: Seen) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    page.on("request", lambda sent: seen.requests.append(sent.url))
    page.on(
        "console",
        lambda message: (
            seen.complaints.append(message.text) if message.type in {"error", "warning"} else None
        ),
    )
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    yield page
    context.close()


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    sqlite_place.plugin("greeting", PLUGIN)
    sqlite_place.consumer("acme", "greeting")
    return sqlite_place


def test_a_call_can_be_tried_and_the_key_stays_on_the_page(
    place: Place, serve: Serve, page: Page, seen: Seen
) -> None:
    server = serve(place, PENSTOCK_OPENAPI="true", PENSTOCK_DOCS="true")
    key, token = place.key("acme").key, place.token("acme")

    page.goto(f"{server.url}/-/docs")
    expect(page.get_by_role("heading", level=1)).to_have_text("Pipelines of test")
    expect(page).to_have_title("Pipelines of test")
    page.get_by_label("X-API-Key").fill(key)
    page.get_by_label("Token Authorization").fill(token)
    page.locator(".operation summary").first.click()
    page.get_by_role("textbox", name="Body").fill('{"name": "Ann"}')
    command = page.locator("code.line").first.inner_text()
    page.get_by_role("button", name="Send call: POST /v1/greeting").click()

    reply = page.locator(".reply").first
    expect(reply).to_contain_text("200 OK")
    expect(reply).to_contain_text('"from": "acme"')
    assert command == (
        f'curl -X POST {server.url}/v1/greeting -H "X-API-Key: $API_KEY"'
        """ -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json'"""
        """ --data-binary '{"name": "Ann"}'"""
    )
    assert [url for url in seen.requests if not url.startswith((server.url, "data:"))] == []
    assert seen.complaints == []
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert key not in kept
    assert token not in kept
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.reload()
    page.locator(".operation summary").first.click()
    page.get_by_role("button", name="Send call: POST /v1/greeting").click()
    expect(page.locator(".reply").first).to_contain_text("credentials-missing")


def test_an_environment_that_serves_nothing_has_a_page_too(
    place: Place, serve: Serve, page: Page, seen: Seen
) -> None:
    (place.folder / "plugins" / "greeting.py").unlink()
    server = serve(place, PENSTOCK_OPENAPI="true", PENSTOCK_DOCS="true")

    page.goto(f"{server.url}/-/docs")

    expect(page.get_by_text("No operations are served here.")).to_be_visible()
    assert seen.complaints == []


def test_a_link_to_an_operation_opens_it_and_all_is_there_without_scripts(
    place: Place, serve: Serve, browser: Browser
) -> None:
    server = serve(place, PENSTOCK_OPENAPI="true", PENSTOCK_DOCS="true")
    with browser.new_context(java_script_enabled=False) as plain, browser.new_context() as usual:
        page = usual.new_page()
        page.goto(f"{server.url}/-/docs")
        link = page.get_by_role("navigation", name="Operations").get_by_role("link").first
        target = link.get_attribute("href")
        page.goto(f"{server.url}/-/docs{target}")
        expect(page.locator("details.operation[open]")).to_have_count(1)
        page = plain.new_page()
        page.goto(f"{server.url}/-/docs")
        page.locator(".operation summary").first.click()
        expect(page.get_by_text("curl -X POST")).to_be_visible()
        expect(page.get_by_role("button", name="Send call")).to_have_count(0)


def test_the_page_is_guarded_cached_and_can_be_switched_off(place: Place, serve: Serve) -> None:
    server = serve(place, PENSTOCK_OPENAPI="true", PENSTOCK_DOCS="true")
    page = server.client.get("/-/docs")
    script = server.client.get("/-/docs/page.js")

    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    for answered in (page, script):
        policy = dict(
            part.strip().split(" ", 1)
            for part in answered.headers["Content-Security-Policy"].split(";")
        )
        assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == (
            "'none'",
            "'self'",
            "'none'",
        )
        assert (policy["connect-src"], policy["form-action"], policy["base-uri"]) == (
            "'self'",
            "'none'",
            "'none'",
        )
        assert (
            answered.headers["X-Content-Type-Options"],
            answered.headers["Referrer-Policy"],
        ) == ("nosniff", "no-referrer")
    again = server.client.get("/-/docs/page.js", headers={"If-None-Match": script.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert script.headers["Content-Encoding"] == "gzip"
    plain = httpx.get(f"{server.url}/-/docs/page.js", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.text == script.text
    assert [
        server.client.get(path).status_code
        for path in ("/-/docs/views.py", "/-/docs/../description.py", "/-/docs/page.html")
    ] == [404] * 3
    assert server.client.post("/-/docs").status_code == 405

    for switch, expected in (
        ("PENSTOCK_DOCS", [404, 404, 200]),
        ("PENSTOCK_OPENAPI", [404, 404, 404]),
    ):
        off = serve(place, **{"PENSTOCK_OPENAPI": "true", switch: "false"})
        assert [
            off.client.get(path).status_code
            for path in ("/-/docs", "/-/docs/page.js", "/-/openapi.json")
        ] == expected
