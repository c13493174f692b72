"""Pages of errors: in words of a browser, with a way back, and the focus at the message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape

import pytest
from playwright.sync_api import expect
from support.console import ROOT, ConsoleApp, ConsoleServer, words_of
from support.furnished_console import count_calls

Start = Callable[..., ConsoleApp]
UNKNOWN = "01a21e04-a16c-7615-abf2-019a5941b5e4"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/runs/{UNKNOWN}", 404),
        (f"/e/test/rejected/{UNKNOWN}", 404),
        ("/consumers/unknown", 404),
        ("/users/unknown", 404),
        ("/nothing", 404),
        ("/e/unknown/runs", 404),
        ("/e/test/series?metric=x", 400),
    ],
)
def test_an_error_has_no_backticks_and_no_command_of_a_shell(
    console_app: Start, path: str, status: int
) -> None:
    answer = console_app().client("ann").get(path)

    assert answer.status_code == status
    assert "`" not in words_of(answer.text)
    assert "penstock " not in words_of(answer.text)
    assert 'role="alert"' in answer.text


def test_an_error_leads_back_to_the_page_before_and_to_no_other_site(console_app: Start) -> None:
    client = console_app().client("ann")

    def page(referrer: str) -> str:
        return client.http.get(f"{ROOT}/nothing", headers={"Referer": referrer}).text

    back = page(f"http://localhost{ROOT}/e/test/runs?status=failed")
    assert f'<a href="{ROOT}/e/test/runs?status=failed">Back to the page before</a>' in back
    for other in (f"https://evil.example{ROOT}/keys", f"http://localhost{ROOT}/nothing", ""):
        assert "Back to the page before" not in page(other)


def test_the_focus_is_at_the_fault(furnished_console: ConsoleServer) -> None:
    page = furnished_console.page("ann")
    page.goto(f"{furnished_console.url}/users/new")
    page.get_by_label("Name").fill("ann")
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_label("Name")).to_be_focused()

    page.goto(f"{furnished_console.url}/users/ann")
    page.get_by_role("button", name="Disable user").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable user").click()
    expect(page.get_by_role("alert")).to_contain_text("last admin")
    expect(page.get_by_role("alert")).to_be_focused()
    furnished_console.complaints.clear()  # the browser reports the status 422


def test_rejected_calls_are_drawn_by_the_hour_where_they_are_counted_so(
    console_app: Start,
) -> None:
    console = console_app()
    count_calls(console.place, invalid_api_key=40)
    steps = []
    for begin in ("now-24h", "now-1h"):
        html = console.client("vic").text("/e/test/rejected", **{"from": begin})
        match = re.search(r'data-graph="([^"]+)"', html)
        assert match is not None
        times = json.loads(unescape(match[1]))["times"]
        steps.append(times[1] - times[0])

    assert steps == [3600, 60]
