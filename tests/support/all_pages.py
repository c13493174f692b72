"""Every page of the console, found by its URL map and by following links: a new page needs no edit.

`crawl` follows links and forms from the first page and visits at most two addresses of each view:
the first one found, and the longest, which has the longest names. `visit` opens a page in a real
browser and notes which rules of `page_rules.js` it breaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from flask import Flask
from playwright.sync_api import Page
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, Rule

import penstock.console.app  # noqa: F401  registers all pages
from penstock.console.pages import blueprint
from support.console import AXE, ROOT, ConsoleClient

RULES = (Path(__file__).parent / "page_rules.js").read_text(encoding="utf-8")
STANDARDS = (
    "{preload: false, resultTypes: ['violations'], rules: {'target-size': {enabled: false}},"
    " runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}"
)
ON_A_PHONE = (
    "{preload: false, resultTypes: ['violations'],"
    " runOnly: {type: 'rule', values: ['color-contrast', 'target-size']}}"
)
CLOSE_MENUS = "for (const menu of document.querySelectorAll('details.drop')) menu.open = false"
OK, REDIRECTS = 200, frozenset({301, 302, 303})
IMPACTS = frozenset({"moderate", "serious", "critical"})
PER_VIEW = 2
OF_SCRIPTS = ("hx-get", "data-poll")  # attributes with addresses
FIRST = (
    f"{ROOT}/e/test/runs?status=running",
    f"{ROOT}/e/test/runs?status=failed",
    f"{ROOT}/",
    f"{ROOT}/overview/attention",  # linked where there is much
    f"{ROOT}/?env=test&from=now-7d",
    *(f"{ROOT}/consumers/acme?tab={tab}" for tab in ("access", "keys", "limits", "runs", "audit")),
    f"{ROOT}/search?q=acm",
    f"{ROOT}/search?q=nothing-like-it",
    "/-/help?q=policy",
    "/-/help/how-to/manage-access",
)


def url_map() -> MapAdapter:
    """Return the URL map of the console."""
    app = Flask(__name__)
    app.register_blueprint(blueprint)
    return app.url_map.bind("localhost")


@dataclass
class Form:
    """A form of a page: where it leads, and the hidden values it has."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


class Links(HTMLParser):
    """Collects the links and forms of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.forms: list[Form] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "form":
            method = values.get("method", "get").lower()
            self.forms.append(Form(values.get("action", ""), method))
        elif self.forms and values.get("type") in {"hidden", "radio"} and "checked" not in values:
            self.forms[-1].fields.setdefault(values.get("name", ""), values.get("value", ""))
        self.links += [values[name] for name in OF_SCRIPTS if name in values]

    def addresses(self, path: str) -> Iterator[str]:
        """Yield the addresses of this application that the page leads to by GET."""
        forms = (f.action + "?" + urlencode(f.fields) for f in self.forms if f.method == "get")
        for link in (*self.links, *forms):
            parts = urlsplit(link)
            if not parts.netloc and (parts.path or path).startswith("/-/"):
                yield f"{parts.path or path}{'?' if parts.query else ''}{parts.query}"


@dataclass
class Crawl:
    """The addresses of all pages by view, and where their forms lead."""

    adapter: MapAdapter
    pages: dict[str, dict[str, str]] = field(default_factory=dict)  # view → address → HTML
    posts: dict[str, str] = field(default_factory=dict)  # view → path
    known: dict[str, dict[str, str]] = field(default_factory=dict)  # view → path → address

    def view_of(self, path: str, method: str = "GET") -> tuple[str, Mapping[str, object]] | None:
        """Return the view at a path, and its arguments."""
        try:
            return self.adapter.match(path, method=method)
        except HTTPException:
            return None

    def note(self, address: str) -> None:
        """Remember an address for its view."""
        path = urlsplit(address).path
        if match := self.view_of(path):
            self.known.setdefault(match[0], {}).setdefault(path, address)

    def next_address(self) -> str | None:
        """Return an address to open: the first one of a view, or at the end its longest other."""
        for view, addresses in self.known.items():
            if view not in self.pages:
                return next(iter(addresses.values()))
        for view, addresses in self.known.items():
            opened = {urlsplit(address).path for address in self.pages[view]}
            others = [path for path in addresses if path not in opened]
            if others and len(opened) < PER_VIEW:
                return addresses[max(others, key=len)]
        return None

    def open(self, client: ConsoleClient, address: str) -> None:
        """Request a page, and note where its links and forms lead."""
        path = urlsplit(address).path
        match = self.view_of(path)
        assert match is not None, address
        response = client.http.get(address)
        text = ""
        if response.status_code in REDIRECTS:
            self.note(response.headers["Location"])
        else:
            assert response.status_code == OK, (address, response.status_code)
            if response.text.startswith("<!doctype html>"):
                text = response.text
        self.pages.setdefault(match[0], {})[address] = text
        page = Links(text)
        for link in page.addresses(path):
            self.note(link)
        for form in page.forms:
            target = urlsplit(form.action).path or path
            if form.method == "post" and (posted := self.view_of(target, "POST")):
                self.posts.setdefault(posted[0], target)

    def all_pages(self) -> Iterator[tuple[str, str]]:
        """Yield address and HTML of every page."""
        for pages in self.pages.values():
            yield from ((address, html) for address, html in pages.items() if html)

    def shown_pages(self) -> Iterator[tuple[str, str, bool]]:
        """Yield view and address of every page, and whether axe-core has to look at it too.

        It looks at one page of each view, and at one question: questions are alike.
        """
        asked = False
        for view, pages in self.pages.items():
            for number, address in enumerate(address for address, html in pages.items() if html):
                question = view.endswith("_confirm")
                yield view, address, number == 0 and not (question and asked)
                asked = asked or question

    def rules(self, method: str) -> Iterator[Rule]:
        """Yield the rules of a method, without those of files and of unknown paths."""
        for rule in self.adapter.map.iter_rules():
            if method in (rule.methods or ()) and rule.endpoint not in {
                "console.static",
                "console.nothing",
            }:
                yield rule

    def fill(self, rule: Rule) -> str | None:
        """Return a path of a rule with values that paths of the same section have."""
        values: dict[str, object] = {}
        section = rule.rule.partition("<")[0]
        for path in (path for paths in self.known.values() for path in paths):
            found = self.view_of(path)
            if found and path.startswith(section):
                values |= found[1]
        if not rule.arguments <= values.keys():
            return None
        return self.adapter.build(rule.endpoint, {name: values[name] for name in rule.arguments})


def crawl(client: ConsoleClient) -> Crawl:
    """Follow the links of all pages as a user who may open them all."""
    found = Crawl(url_map())
    for address in FIRST:
        found.note(address)
        found.open(client, address)
    while (address := found.next_address()) is not None:
        found.open(client, address)
    return found


def menu_links(html: str) -> list[str]:
    """Return the links of the menu of a page."""
    menu = html.partition('aria-label="Pages"')[2].partition("</nav>")[0]
    return Links(menu).links


def environment_of(address: str) -> str | None:
    """Return the environment that an address names."""
    parts = urlsplit(address)
    match = re.match(rf"{ROOT}/e/([^/]+)", parts.path)
    return match[1] if match else parse_qs(parts.query).get("env", [None])[0]


def visit(page: Page, url: str, *, thorough: bool = True) -> dict[str, list[str]]:
    """Open a page at 1280 px, light; then look at it at 390 px, dark. Return what it breaks.

    A `thorough` visit asks axe-core, which takes four times as long.
    """
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")
    page.goto(url)
    broken: dict[str, list[str]] = page.evaluate(RULES)
    broken["axe"] = violations(page, STANDARDS) if thorough else []
    page.evaluate(CLOSE_MENUS)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 900})
    broken["axe"] += violations(page, ON_A_PHONE) if thorough else []
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > 390:
        broken["width"] = [f"{width} px"]
    if page.evaluate("window.owned") is not None or page.locator("img").count():
        broken["markup"] = ["a value became markup"]
    return {rule: places for rule, places in broken.items() if places}


def violations(page: Page, options: str) -> list[str]:
    """Return the findings of axe-core that hinder users, at most three places of each."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate(f"axe.run({options})")
    return [
        f"{item['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for item in result["violations"]
        if item["impact"] in IMPACTS
        for node in item["nodes"][:3]
    ]
