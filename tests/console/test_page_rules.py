"""The rules of pages find what breaks them: a page for each rule, broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page
from support.all_pages import RULES

CHART = '<figure><div data-graph="{}" aria-label="Calls"></div>'
LEGEND = '<table class="u-legend"><tr><td>Time</td></tr></table></figure>'
POST = '<form method="post" action="/x">'
GET = '<form method="get" action="/x">'
BROKEN = [
    (
        "columns",
        '<div class="table" style="width: 9px; overflow: auto"><p style="width: 99px">x</p></div>',
    ),
    ("names", f"{POST}<button>Remove</button></form>{POST}<input name=a><button>Remove</button>"),
    ("names", '<ul><li><a href="/1">Show</a> <a href="/2">Show</a></li></ul>'),
    ("names", '<a href="/1"><svg width=9 height=9></svg></a>'),
    ("links", '<a href="/x" role="button">New</a>'),
    ("links", '<a href="#">New</a>'),
    ("links", f"{GET}<button>Next page</button></form>"),
    ("headings", "<h2>Keys</h2><h4>Active</h4>"),
    ("headings", "<h1>Another</h1>"),
    ("ids", '<p id="a">x</p><p id="a">y</p>'),
    (
        "ids",
        '<table><tr><td><code title="1a">…a</code></td><td><code title="2a">…a</code></td></table>',
    ),
    ("charts", f"{CHART}{LEGEND}"),
    ("dangers", f"{POST}<button>Revoke key</button></form>"),
    ("dangers", f'{POST}<input name="a"><button class="danger">Apply</button></form>'),
    (
        "answers",
        '<form class="confirm" method="post"><button>Cancel</button><button>Cancel</button>',
    ),
    ("answers", '<form class="confirm" method="post"><button>Revoke key</button></form>'),
]
SOUND = f"""<h2>Keys</h2><ul><li><a href="/1">Show</a></li><li><a href="/2">Show</a></li></ul>
<form method="get" action="/x" data-ask><button class="danger">Revoke key</button></form>
{POST}<input name="a" aria-label="a"><button>Save</button></form>
{CHART}<table><tbody><tr><td>1</td></tr></tbody></table></figure>
<form class="confirm" method="post"><button>Revoke</button>
<a class="button" href="/">Keep</a></form>
"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context.new_page()


def broken_rules(page: Page, html: str) -> set[str]:
    page.set_content(f"<!doctype html><main><h1>Page</h1>{html}</main>")
    return set(page.evaluate(RULES))


@pytest.mark.parametrize(("rule", "html"), BROKEN)
def test_a_broken_page_is_found(page: Page, rule: str, html: str) -> None:
    assert rule in broken_rules(page, html)


def test_a_sound_page_breaks_no_rule(page: Page) -> None:
    assert broken_rules(page, SOUND) == set()
