"""The documentation at /-/help: for the console's users, in its frame, with search and links."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from support.console import PLUGIN, ConsoleServer, accessible
from support.documents import DOCS, anchors

from penstock.console.help import EXPLAINED_BY, PROBLEM_NAMES
from penstock.console.menu import MENU
from penstock.console.pages import HEADERS
from penstock.manual.pages import Page, all_pages
from penstock.manual.render import to_html

Start = Callable[..., ConsoleServer]


@pytest.fixture
def started(console_server: Start) -> ConsoleServer:
    return console_server()


@pytest.fixture
def reader(started: ConsoleServer) -> httpx.Client:
    visitor = started.client("vic")
    visitor.http.headers["Accept"] = "text/html"
    return visitor.http


def links(reply: httpx.Response) -> set[str]:
    return {
        urljoin(str(reply.url), unescape(target))
        for target in re.findall(r'href="([^"]+)"', reply.text)
    }


def test_unauthenticated_client_is_sent_to_the_sign_in_and_back(started: ConsoleServer) -> None:
    visitor = started.client()
    visitor.http.headers["Accept"] = "text/html"

    first = visitor.http.get("/-/help/explanation/access")
    visitor.http.get(first.headers["Location"])
    after = visitor.sign_in("vic")

    assert first.status_code == 303
    assert "/-/console/sign-in?next=" in first.headers["Location"]
    assert after.headers["Location"] == "/-/help/explanation/access"


def test_every_page_is_served_with_the_headers_of_the_console_and_links_that_lead_somewhere(
    reader: httpx.Client,
) -> None:
    targets: set[str] = set()
    for name in all_pages():
        reply = reader.get(f"/-/help/{name}" if name != "README" else "/-/help")
        assert reply.status_code == 200, name
        assert {header: reply.headers[header] for header in HEADERS} == HEADERS
        targets |= {
            target for target in links(reply) if urlsplit(target).path.startswith("/-/help")
        }
    ids: dict[str, set[str]] = {}
    for target in targets:
        path, _, anchor = target.partition("#")
        if path not in ids:
            reply = reader.get(path)
            assert reply.status_code == 200, target
            ids[path] = set(re.findall(r'id="([^"]+)"', reply.text))
        assert not anchor or anchor in ids[path], target

    assert len(ids) > 50


def test_example_is_plain_text(reader: httpx.Client) -> None:
    reply = reader.get("/-/help/examples/penstock.service")

    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "ExecStart=" in reply.text


@pytest.mark.parametrize(
    "path",
    ["nothing", "../pyproject.toml", "images/console.png", "llms.txt"],
)
def test_unknown_page_is_a_404_in_the_frame(reader: httpx.Client, path: str) -> None:
    assert reader.get(f"/-/help/{path}").status_code == 404
    assert reader.get(f"/-/help/{path.replace('/', '%2F')}").status_code == 404


def test_a_slash_at_the_end_leads_to_the_list_of_pages(reader: httpx.Client) -> None:
    response = reader.get("/-/help/")

    assert (response.status_code, response.headers["Location"]) == (301, "/-/help")


def test_search_lists_sections_and_shows_the_query_as_text(reader: httpx.Client) -> None:
    hits = reader.get("/-/help", params={"q": "pgbouncer"})
    none = reader.get("/-/help", params={"q": "<script>alert(1)</script>"})

    assert "/-/help/how-to/use-postgresql#pgbouncer" in hits.text
    assert "No section has all these words." in none.text
    assert "<script>alert" not in none.text


def test_without_the_console_there_is_no_help(console_server: Start) -> None:
    started = console_server(PENSTOCK_CONSOLE="false")

    for method in ("GET", "POST"):
        assert httpx.request(method, f"{started.server.url}/-/help").status_code == 404


def test_help_below_a_path_prefix_links_with_the_prefix(console_server: Start) -> None:
    started = console_server(PENSTOCK_URL="https://api.example.com/orders")
    client = started.client().http

    reply = client.get("/-/help", headers={"Accept": "text/html"})

    assert reply.headers["Location"].startswith("/orders/-/console/sign-in")


def test_every_page_of_the_console_has_a_page_that_explains_it() -> None:
    entries = [entry.endpoint for _, entries in MENU for entry in entries]
    assert set(entries) - set(EXPLAINED_BY) == set()
    for target in EXPLAINED_BY.values():
        name, _, anchor = target.partition("#")
        assert not anchor or anchor in anchors(DOCS / f"{name}.md"), target


def test_every_problem_type_has_a_section_of_its_own() -> None:
    assert anchors(DOCS / "reference" / "problems.md") >= PROBLEM_NAMES


def test_raw_html_of_a_page_is_text_and_scripts_are_no_links() -> None:
    text = (
        "# T\n\n<script>a</script> <b onclick=x>b</b>\n\n[x](javascript:alert(1)) [y](../../etc)\n"
        "\n<img src=x onerror=y>\n"
    )
    html = to_html(Page("how-to/evil", "T", text), lambda name: f"/-/help/{name}")

    assert "<script" not in html
    assert "<b " not in html
    assert "<img" not in html
    assert 'href="javascript' not in html
    assert 'href="/-/help/etc"' not in html


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit_their_window(
    started: ConsoleServer, width: int, scheme: str
) -> None:
    page = started.page("vic", width=width, scheme=scheme)
    for path in (
        "",
        "/explanation/access",
        "/reference/problems",
        "/tutorial/first-plugin",
        "?q=restore",
    ):
        page.goto(f"{started.server.url}/-/help{path}")
        assert accessible(page) == [], path


def test_help_of_a_page_leads_to_the_page_that_explains_it(started: ConsoleServer) -> None:
    page = started.page("vic")
    page.goto(f"{started.url}/e/test/runs")
    page.get_by_role("link", name="Help").click()
    page.wait_for_url("**/-/help/how-to/inspect-runs")

    page.get_by_label("Search the help").fill("idempotency")
    page.keyboard.press("Enter")
    page.wait_for_url("**/-/help?q=idempotency")

    assert page.get_by_role("heading", name="idempotency-key-reused").count() == 1


def test_overview_links_faults_to_the_page_that_explains_them(
    console_server: Start,
) -> None:
    open_to_all = PLUGIN.replace("api_key=True, ", "")
    faulty = console_server(plugin=open_to_all).client("vic").http

    text = faulty.get("/-/console/").text

    assert 'href="/-/help/how-to/fix-blocked-pipelines"' in text
    assert text.count('href="/-/help/how-to/use-the-console"') == 1
