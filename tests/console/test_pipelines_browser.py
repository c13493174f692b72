"""Pipelines in a real browser: six environments and the longest names, on a desk and a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.console import ConsoleServer
from support.deployments import Process
from support.pipelines import PLUGIN, count_calls
from support.place import Place

from penstock.access import environments

LONG_NAME = "a" + "b" * 62  # the longest that is allowed
LONG_ENVIRONMENT = "e" * 31
NAMES = ("canary", "lab", "staging", LONG_ENVIRONMENT)
LONG = f"/pipelines/v2/{LONG_NAME}"
PATHS = (
    "/pipelines", "/pipelines?view=list", LONG, f"{LONG}/gate", f"{LONG}/consumers?env=test",
    f"{LONG}/history", "/pipelines/v1/orders/runs?env=test", "/pipelines/v1/orders/routes?env=test",
    "/pipelines/v1/jobs/schedule?env=test", "/pipelines/v1/jobs/settings",
    "/pipelines/exposure?show=all",
)  # fmt: skip
HIDDEN = """
() => [...document.querySelectorAll("main .table")]
  .filter((table) => table.scrollWidth > table.clientWidth + 1)
  .map((table) => table.getAttribute("aria-label"))
"""


def furnish(place: Place) -> None:
    """Give the place six environments, a pipeline with a long name, calls and a deployment."""
    for name in NAMES:
        environments.create_environment(place.engine, "ann", name, place.box)
    place.policy("any", "prod")
    Process.start(
        place, "prod", {"sold": PLUGIN.replace('simple("free")', f'simple("{LONG_NAME}")')}
    )
    place.consumer("c" * 64, f"v2/{LONG_NAME}", "v1/orders")
    for hours in (1, 4, 9):
        count_calls(place, "v1/orders", 400 * hours, hours_ago=hours)
    count_calls(place, "v1/orders", 40, "failed")
    count_calls(place, f"v2/{LONG_NAME}", 7, env=2)


def findings(page: Page, url: str) -> list[str]:
    """Return which tables of a page have hidden columns, and whether the page is too wide."""
    response = page.goto(url)
    assert response is not None
    assert response.status == 200, url
    hidden: list[str] = page.evaluate(HIDDEN)
    found = [f"{label} has hidden columns" for label in hidden]
    if not page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"):
        found.append("wider than the window")
    return found


@pytest.fixture
def console(console_server: Callable[..., ConsoleServer]) -> ConsoleServer:
    plugin = PLUGIN.replace('simple("free")', f'simple("{LONG_NAME}")')
    console = console_server(plugin=plugin)
    furnish(console.place)
    return console


def test_no_column_is_hidden_and_nothing_scrolls_sideways(console: ConsoleServer) -> None:
    faults = {}
    for width in (1280, 390):
        page = console.page("ann", width=width)
        for path in PATHS:
            faults[width, path] = findings(page, console.url + path)

    assert [f"{place} {found}" for place, found in faults.items() if found] == []
    _details_show_on_hover_and_focus(console)


def _details_show_on_hover_and_focus(console: ConsoleServer) -> None:
    page = console.page("ann")
    page.goto(f"{console.url}/pipelines")
    link = page.get_by_role("link", name="v1/orders in test: served")
    details = page.locator("td", has=link).get_by_role("tooltip", include_hidden=True)

    expect(details).not_to_be_visible()
    link.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")  # as by the keyboard
    expect(details).to_be_visible()
    expect(details).to_contain_text("40 failed")
    page.get_by_role("heading", name="Pipelines").click()
    expect(details).not_to_be_visible()
    link.hover()
    expect(details).to_be_visible()
