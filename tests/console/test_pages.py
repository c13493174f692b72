"""The pages in a real browser: what they show, that they can be used by everybody, and that
nothing that was typed becomes markup."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.console import ConsoleServer, accessible
from support.place import Place

from penstock import audit
from penstock.access import consumers, environments, users
from penstock.db import call_counts
from penstock.db.runs import register

Start = Callable[..., ConsoleServer]
PAGES = (
    "/", "/?span=week&env=prod", "/users", "/users/new", "/users/ann", "/account",
    "/pipelines", "/pipelines/v1/orders", "/pipelines/v1/status", "/consumers", "/new-consumer",
    "/consumers/acme", "/consumers/acme/pipelines",
    "/policies", "/policies/test", "/policies/test/change?policy=api-key",
)  # fmt: skip
EVIL = "<script>window.owned=1</script>\"'><img src=x onerror=window.owned=1>"


def count_calls(place: Place, **outcomes: int) -> None:
    minute = int(time.time()) // 60 * 60 - 120
    rows = [
        {
            "environment_id": 1, "span": 60, "since": minute, "pipeline": "v1/orders",
            "outcome": name.replace("_", "-"), "process": "p",
            "calls": number, "micros": number * 9000, "buckets": [0, 0, 0, number, *[0] * 11],
        }
        for name, number in outcomes.items()
    ]  # fmt: skip
    call_counts.write(place.engine, rows)


def furnish(place: Place) -> None:
    consumers.create_consumer(place.engine, "ann", "acme", EVIL)
    place.associate("acme", "orders")
    consumers.create_key(place.engine, "ann", "acme", "test", note=EVIL)
    consumers.revoke_key(place.engine, "ann", place.key("acme").id)
    environments.set_policy(
        place.engine, EVIL, "test", "jwt-api-key", served={}, stopping=[], reason=EVIL
    )


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_is_accessible(console_server: Start, width: int, scheme: str) -> None:
    console = console_server()
    furnish(console.place)
    count_calls(console.place, succeeded=1200, failed=3, invalid_api_key=40)
    page = console.page(width=width, scheme=scheme)
    page.goto(f"{console.url}/sign-in")
    found = {"/sign-in": accessible(page)}
    page = console.page("ann", width=width, scheme=scheme)
    for path in PAGES:
        page.goto(console.url + path)
        page.wait_for_load_state("networkidle")
        found[path] = accessible(page)

    assert {path: said for path, said in found.items() if said} == {}


def test_the_overview_says_how_an_environment_is_and_what_needs_a_hand(console_server: Start) -> None:
    console = console_server()
    count_calls(console.place, succeeded=1200, failed=3, invalid_api_key=40)
    register(console.place.engine, "x", kind="worker", environment_id=1, host="far", pid=77)
    page = console.page("vic", timezone_id="Asia/Tokyo", locale="en-GB")

    tiles = {
        item.locator("dt").inner_text(): item.locator("dd").inner_text()
        for item in page.locator(".tiles > div").all()
    }
    alarm = page.locator(".alarm")
    assert tiles["External access policy"] == "jwt-api-key"
    assert tiles["Pipelines served"] == "1"
    assert tiles["Calls"] == "1\N{NARROW NO-BREAK SPACE}243"
    assert (tiles["Failed here"], tiles["Turned away"]) == ("3", "40")
    assert tiles["Half within"] == "7.5 ms"
    expect(alarm).to_contain_text("v1/status")
    expect(alarm).to_contain_text("set jwt=True on its HttpTrigger")
    expect(page.get_by_role("row", name=re.compile("durable runs far 77"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("answers calls"))).to_have_count(1)
    expect(page.locator("[data-chart=calls] canvas")).to_be_visible()
    started = page.get_by_role("row", name=re.compile("answers calls")).locator("time")
    assert started.get_attribute("title", timeout=2000) != started.inner_text()
    assert (started.get_attribute("title") or "").endswith(" UTC")

    page.get_by_role("navigation", name="Environment").get_by_role("link", name="prod").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview of prod")
    expect(page.get_by_text("No calls in the last hour.")).to_be_visible()
    expect(page.get_by_text("Nobody serves prod at the moment.")).to_be_visible()
    page.get_by_role("link", name="last week").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview of prod")
    environments.set_policy(console.place.engine, "tester", "prod", "api-key", served={}, stopping=[])
    page.reload()
    expect(page.locator(".alarm")).to_have_count(0)


def test_without_pipelines_the_overview_says_what_to_do_next(console_server: Start) -> None:
    console = console_server(plugin="")

    expect(console.page("vic").get_by_text("No pipeline is loaded.")).to_be_visible()


def test_an_admin_makes_a_user_with_the_keyboard_alone_who_signs_in_and_is_kept_out(
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
    press_until(page, "Make the user")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("dora@example.org is made")
    press_until(page, "Copy")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    password = page.evaluate("navigator.clipboard.readText()")

    assert console.client().sign_in("dora@example.org", password).status_code == 303
    dora = console.client()
    dora.sign_in("dora@example.org", password)
    page.goto(f"{console.url}/users/dora@example.org")
    assert password not in page.content()
    assert page.locator("#f-role").input_value() == "operator"
    page.get_by_role("button", name="Keep out").click()
    expect(page.get_by_role("dialog")).to_contain_text("Keep dora@example.org out")
    page.keyboard.press("Enter")  # the first button, which cancels
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert dora.get("/").status_code == 200
    page.get_by_role("button", name="Keep out").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep out").click()
    expect(page.get_by_role("status")).to_contain_text("dora@example.org is kept out")
    assert dora.get("/").status_code == 303
    events = audit.events(console.place.engine, limit=20)
    made = {event.action: event.actor for event in events if event.subject == "dora@example.org"}
    assert (made["user:created"], made["user:disabled"]) == ("ann", "ann")


def test_what_is_refused_is_said_beside_its_field(console_server: Start) -> None:
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
    assert 'id="e-name" class="error" role="alert">User &#39;vic&#39; exists already.' in taken.text
    assert 'aria-invalid="true" aria-describedby="e-name h-name"' in odd.text
    assert "is no role" in role.text
    assert "Ann is the last admin; make another one first." in last.text
    assert ann.get("/users/nobody").status_code == 404
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
    assert [row["role"] for row in users.list_users(console.place.engine)] == [
        "admin",
        "operator",
        "viewer",
    ]


def test_what_strangers_send_never_becomes_markup(console_server: Start) -> None:
    console = console_server()
    stranger = console.client()
    stranger.http.headers["User-Agent"] = EVIL
    stranger.sign_in("ann")
    refused = [
        console.client().post("/sign-in", {"name": EVIL, "password": "x"}).text,
        console.client("ann").post("/users/new", {"name": EVIL, "role": EVIL, "how": EVIL}).text,
        console.client("ann").get(f"/users/{EVIL}").text,
        console.client("ann").get("/", params={"env": EVIL, "span": EVIL}).text,
    ]
    furnish(console.place)
    count_calls(console.place, **{EVIL: 3})
    page = console.page("ann")
    for path in PAGES:
        page.goto(console.url + path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.owned") is None, path
        assert page.locator("img").count() == 0

    assert all("<script>window" not in text and "<img" not in text for text in refused)


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
    console.complaints.clear()  # the browser says that it refused
