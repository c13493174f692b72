"""The rules that every page of the console follows, over all pages of the URL map.

One server, one browser and one set of data serve all these tests. A new page is found by itself.
"""

from __future__ import annotations

import pytest
from support.all_pages import Crawl, crawl, environment_of, menu_links, visit
from support.console import EVIL, ROOT, ConsoleServer
from support.furnished_console import LONGEST_ENVIRONMENT

from penstock import audit
from penstock.audit import Action

pytestmark = pytest.mark.timeout(900)  # one fixture shows more than a hundred pages
# Views that no link leads to: files, other addresses of pages, the identity provider's, the
# answers of forms, and parts that scripts load where there is much.
NO_LINKS = frozenset(
    f"console.{view}"
    for view in (
        "consumers_pipelines", "environment_home", "help_root", "home", "oidc_back", "oidc_start",
        "policies_callers", "runs_anywhere", "series", "sign_in",
    )
)  # fmt: skip
# Pages that do not follow a rule yet.
EXCEPTIONS: frozenset[tuple[str, str]] = frozenset()
PAGES_BESIDE = ("/-/docs", f"{ROOT}/nothing-here", f"{ROOT}/consumers/unknown-one")


READING = frozenset(
    {
        Action.POLICY_PREVIEWED,
        Action.AUDIT_EXPORTED,
        Action.USER_SIGN_IN_FAILED,
        Action.USER_SIGNED_IN,
    }
)
Broken = dict[tuple[str, str], dict[str, list[str]]]


@pytest.fixture(scope="module")
def crawled(furnished_console: ConsoleServer) -> Crawl:
    """All pages, as an administrator gets them without JavaScript."""
    return crawl(furnished_console.client("ann"))


@pytest.fixture(scope="module")
def broken(furnished_console: ConsoleServer, crawled: Crawl) -> Broken:
    """View and page → rule → places that break it, as a real browser shows the pages."""
    console, server = furnished_console, furnished_console.server.url
    anonymous = console.page()
    sign_in = "console.sign_in", f"{console.url}/sign-in"
    noted = {sign_in: visit(anonymous, sign_in[1])}
    page = console.page("ann")
    for view, address, thorough in crawled.shown_pages():
        noted[view, address] = visit(page, server + address, thorough=thorough)
        if console.complaints:
            noted[view, address]["console"] = [*console.complaints]
            console.complaints.clear()
    for address in PAGES_BESIDE:
        noted["beside", address] = visit(page, server + address)
    console.complaints.clear()  # the browser reports the 404
    return noted


def test_every_view_has_a_link_that_leads_to_it(crawled: Crawl) -> None:
    found = {rule.endpoint for rule in crawled.rules("GET") if "." in rule.endpoint}

    assert found - crawled.pages.keys() - NO_LINKS == set()


RULES = {
    "columns": "no table is cut at 1280 pixels",
    "width": "no page is wider than 390 pixels",
    "names": "names of links and buttons are unique on the page or in their row",
    "links": "links lead somewhere and buttons act",
    "headings": "headings lead in order",
    "ids": "ids are distinct",
    "charts": "each chart has its table",
    "dangers": "each destructive act has its confirming page",
    "answers": "no question has two buttons with the same words",
    "axe": "axe-core finds nothing moderate, serious or critical",
    "console": "the browser has no complaint",
    "markup": "values never become markup",
}


@pytest.mark.parametrize("rule", RULES)
def test_all_pages_follow_the_rule(broken: Broken, rule: str) -> None:
    places = {
        page: found[rule]
        for page, found in broken.items()
        if rule in found and (rule, page[0]) not in EXCEPTIONS
    }

    assert places == {}, RULES[rule]


def test_every_link_of_the_menu_keeps_the_environment(crawled: Crawl) -> None:
    wrong = []
    for address, html in crawled.all_pages():
        environment = environment_of(address)
        for link in menu_links(html):
            named = environment_of(link)
            if environment is not None and named != environment:
                wrong.append(f"{address} leads to {link}")

    assert wrong == []


def test_two_tabs_in_two_environments_never_mix(furnished_console: ConsoleServer) -> None:
    console = furnished_console
    first = console.page("ann")
    second = first.context.new_page()
    first.goto(f"{console.url}/e/test/settings")
    second.goto(f"{console.url}/e/{LONGEST_ENVIRONMENT}/settings")
    for name, path in (("Tokens", "tokens"), ("Runs", "runs"), ("Limits", "limits")):
        for page, environment in ((first, "test"), (second, LONGEST_ENVIRONMENT)):
            page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
            page.wait_for_url(f"{console.url}/e/{environment}/{path}")


def test_every_path_that_takes_a_form_leads_to_a_page(
    furnished_console: ConsoleServer, crawled: Crawl
) -> None:
    client, wrong = furnished_console.client("ann"), {}
    for rule in crawled.rules("POST"):
        path = crawled.posts.get(rule.endpoint) or crawled.fill(rule)
        response = client.http.get(path, follow_redirects=True) if path else None
        if response is None or response.status_code != 200:
            wrong[rule.rule] = response.status_code if response is not None else "no path known"

    assert wrong == {}


def test_opening_pages_changes_nothing(furnished_console: ConsoleServer) -> None:
    client = furnished_console.client("ann")
    before = changes(furnished_console)
    crawl(client)

    assert changes(furnished_console) == before


def changes(console: ConsoleServer) -> list[str]:
    """Return the newest events but those of reading and of signing in."""
    events = audit.events(console.place.engine, limit=60)
    return [f"{event.id} {event.action}" for event in events if event.action not in READING][:20]


def test_rejected_values_are_escaped(furnished_console: ConsoleServer) -> None:
    ann = furnished_console.client("ann")
    pages = [
        furnished_console.client().post("/sign-in", name=EVIL, password="x").text,
        ann.post("/users/new", name=EVIL, role=EVIL, how=EVIL).text,
        ann.get(f"/users/{EVIL}").text,
        ann.get("/", env=EVIL, span=EVIL).text,
    ]

    assert not any("<script>window" in text or "<img" in text for text in pages)
