"""Pages in a real browser: the overview, the management of users, and framing by other sites."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.console import ConsoleServer
from support.furnished_console import count_calls

from penstock import audit
from penstock.access import policies, users
from penstock.db.processes import register

Start = Callable[..., ConsoleServer]


def test_the_overview_shows_figures_and_faults_of_an_environment(
    console_server: Start,
) -> None:
    console = console_server()
    count_calls(console.place, succeeded=1200, failed=3, invalid_api_key=40)
    register(console.place.engine, "x", kind="worker", environment_id=1, host="far", pid=77)
    page = console.page("vic", timezone_id="Asia/Tokyo", locale="en-GB")

    card = page.get_by_role("region", name="test", exact=True)
    figures = {
        item.locator("dt").inner_text(): item.locator("dd").inner_text()
        for item in card.locator(".stats > div").all()
    }
    alarm = page.locator(".alarm")
    expect(card).to_contain_text("jwt-api-key external")
    assert figures["Pipelines served"] == "1"
    assert figures["Calls"] == "1\N{NARROW NO-BREAK SPACE}243"
    assert (figures["Server errors"], figures["Rejected"]) == ("3", "40 3.2 %")
    assert figures["p95"] == "9.8 ms"
    expect(alarm).to_contain_text("v1/status")
    expect(alarm).to_contain_text("set jwt=True on its HttpTrigger")
    expect(card.get_by_role("link", name="1 web, 1 worker processes in test")).to_be_visible()
    expect(page.locator("#calls canvas")).to_be_visible()
    expect(page.locator("#latency canvas")).to_be_visible()
    page.get_by_text("Calls by outcome in test as a table").click()
    expect(page.get_by_role("columnheader", name="client error")).to_be_visible()

    page.get_by_text("Environment: test").click()
    page.get_by_role("navigation", name="Environments").get_by_role("link", name="prod").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview of prod")
    expect(page.get_by_text("No calls in prod in this time.")).to_be_visible()
    expect(page.get_by_text("No process is serving prod.")).to_be_visible()
    expect(page.locator("#calls")).to_have_count(0)  # an empty chart draws no line
    policies.set_policy(console.place.engine, "tester", "prod", "api-key", served={}, stopping=[])
    page.reload()
    expect(page.locator(".alarm")).to_have_count(0)


def test_without_pipelines_the_overview_names_the_next_step(console_server: Start) -> None:
    console = console_server(plugin="")

    expect(console.page("vic").get_by_text("No pipelines loaded.")).to_be_visible()


def test_an_admin_creates_a_user_by_keyboard_and_disables_the_user(
    console_server: Start,
) -> None:
    console = console_server()
    page = console.page("ann")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])

    def press_until(page: Page, name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if (
                page.evaluate(
                    "document.activeElement.innerText || document.activeElement.name || ''"
                ).strip()
                == name
            ):
                return
        pytest.fail(f"{name} can't be reached by keyboard")

    page.goto(f"{console.url}/users")
    press_until(page, "New user")
    page.keyboard.press("Enter")
    page.wait_for_url("**/users/new")
    press_until(page, "name")
    page.keyboard.type("dora@example.org")
    press_until(page, "role")
    page.keyboard.press("ArrowDown")
    press_until(page, "Create user")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("dora@example.org created")
    press_until(page, "Copy password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    password = page.evaluate("navigator.clipboard.readText()")

    assert console.client().sign_in("dora@example.org", password).status_code == 303
    dora = console.client()
    dora.sign_in("dora@example.org", password)
    page.goto(f"{console.url}/users/dora@example.org")
    assert password not in page.content()
    assert page.locator("#f-role").input_value() == "operator"
    page.get_by_role("button", name="Disable user").click()
    expect(page.get_by_role("dialog")).to_contain_text("Disable dora@example.org?")
    page.keyboard.press("Enter")  # the first button, which cancels
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert dora.get("/").status_code == 200
    page.get_by_role("button", name="Disable user").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable user").click()
    expect(page.get_by_role("status")).to_contain_text("dora@example.org disabled.")
    assert dora.get("/").status_code == 303
    events = audit.events(console.place.engine, limit=20)
    actors = {event.action: event.actor for event in events if event.subject == "dora@example.org"}
    assert (actors["user:created"], actors["user:disabled"]) == ("ann", "ann")


def test_faults_are_beside_their_field(console_server: Start) -> None:
    console = console_server()
    ann = console.client("ann")

    taken = ann.post("/users/new", {"name": "vic", "role": "viewer", "how": "generated"})
    odd = ann.post("/users/new", {"name": "vic 2", "role": "viewer", "how": "generated"})
    role = ann.post("/users/vic/role", {"role": "god"})
    last = ann.post("/users/ann/disable")

    assert (taken.status_code, odd.status_code, role.status_code, last.status_code) == (
        422,
        422,
        422,
        422,
    )
    assert 'id="e-name" class="error" role="alert">User “vic” exists already.' in taken.text
    assert 'aria-describedby="e-name h-name" aria-invalid="true"' in odd.text
    assert "isn&#39;t a choice here; choose one of viewer, operator, admin, none." in role.text
    assert "Ann is the last admin; create another one first." in last.text
    assert ann.get("/users/unknown").status_code == 404
    assert "did you mean" in ann.get("/users/vik").text


def test_a_viewer_sees_no_buttons_and_can_change_nothing(console_server: Start) -> None:
    console = console_server()
    page = console.page("vic")
    vic = console.client("vic")

    assert page.get_by_role("link", name="Users").count() == 0
    assert (
        vic.post("/users/new", {"name": "evil", "role": "admin", "how": "generated"}).status_code
        == 403
    )
    assert vic.post("/users/vic/role", {"role": "admin"}).status_code == 403
    assert [row.role for row in users.list_users(console.place.engine)] == [
        "admin",
        "operator",
        "viewer",
    ]


def test_no_other_site_can_frame_a_page(console_server: Start) -> None:
    console = console_server()
    page = console.page("ann")
    page.route(
        "https://evil.example/",
        lambda route: route.fulfill(
            body=f'<iframe src="{console.url}/users"></iframe>', content_type="text/html"
        ),
    )
    page.goto("https://evil.example/")
    page.wait_for_load_state("networkidle")

    assert page.frames[-1].url.startswith("chrome-error:")
    console.complaints.clear()  # the browser reports the blocked frame
