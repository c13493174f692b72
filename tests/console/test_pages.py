"""The pages in a real browser: what they show, that they can be used by everybody, and that
nothing that was typed becomes markup."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.console import Console, accessible
from support.place import Place

from penstock import audit
from penstock.access import api_keys, consumers, policies, users
from penstock.db import call_counts
from penstock.db.processes import register

Start = Callable[..., Console]
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
    call_counts.write(place.engine, [call_counts.CallCount(**row) for row in rows])


def furnish(place: Place) -> None:
    consumers.create_consumer(place.engine, "ann", "acme", EVIL)
    place.associate("acme", "orders")
    api_keys.create_key(place.engine, "ann", "acme", "test", note=EVIL)
    api_keys.revoke_key(place.engine, "ann", place.key("acme").id)
    policies.set_policy(
        place.engine, EVIL, "test", "jwt-api-key", served={}, stopping=[], reason=EVIL
    )


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_is_accessible(console: Start, width: int, scheme: str) -> None:
    here = console()
    furnish(here.place)
    count_calls(here.place, succeeded=1200, failed=3, invalid_api_key=40)
    page = here.page(width=width, scheme=scheme)
    page.goto(f"{here.url}/sign-in")
    found = {"/sign-in": accessible(page)}
    page = here.page("ann", width=width, scheme=scheme)
    for path in PAGES:
        page.goto(here.url + path)
        page.wait_for_load_state("networkidle")
        found[path] = accessible(page)

    assert {path: said for path, said in found.items() if said} == {}


def test_the_overview_says_how_an_environment_is_and_what_needs_a_hand(console: Start) -> None:
    here = console()
    count_calls(here.place, succeeded=1200, failed=3, invalid_api_key=40)
    register(here.place.engine, "x", kind="worker", environment_id=1, host="far", pid=77)
    page = here.page("vic", timezone_id="Asia/Tokyo", locale="en-GB")

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
    policies.set_policy(here.place.engine, "tester", "prod", "api-key", served={}, stopping=[])
    page.reload()
    expect(page.locator(".alarm")).to_have_count(0)


def test_without_pipelines_the_overview_says_what_to_do_next(console: Start) -> None:
    here = console(plugin="")

    expect(here.page("vic").get_by_text("No pipeline is loaded.")).to_be_visible()


def test_an_admin_makes_a_user_with_the_keyboard_alone_who_signs_in_and_is_kept_out(
    console: Start,
) -> None:
    here = console()
    page = here.page("ann")
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

    page.goto(f"{here.url}/users")
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

    assert here.visitor().sign_in("dora@example.org", password).status_code == 303
    dora = here.visitor()
    dora.sign_in("dora@example.org", password)
    page.goto(f"{here.url}/users/dora@example.org")
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
    events = audit.events(here.place.engine, limit=20)
    made = {event.action: event.actor for event in events if event.subject == "dora@example.org"}
    assert (made["user:created"], made["user:disabled"]) == ("ann", "ann")


def test_what_is_refused_is_said_beside_its_field(console: Start) -> None:
    here = console()
    ann = here.visitor("ann")

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
    assert "Ann is the last admin; create another one first." in last.text
    assert ann.get("/users/nobody").status_code == 404
    assert "did you mean" in ann.get("/users/vik").text


def test_a_viewer_sees_no_buttons_and_can_change_nothing(console: Start) -> None:
    here = console()
    page = here.page("vic")
    vic = here.visitor("vic")

    assert page.get_by_role("link", name="Users").count() == 0
    assert (
        vic.post("/users/new", {"name": "evil", "role": "admin", "how": "generated"}).status_code
        == 403
    )
    assert vic.post("/users/vic/role", {"role": "admin"}).status_code == 403
    assert [row["role"] for row in users.list_users(here.place.engine)] == [
        "admin",
        "operator",
        "viewer",
    ]


def test_what_strangers_send_never_becomes_markup(console: Start) -> None:
    here = console()
    stranger = here.visitor()
    stranger.client.headers["User-Agent"] = EVIL
    stranger.sign_in("ann")
    refused = [
        here.visitor().post("/sign-in", {"name": EVIL, "password": "x"}).text,
        here.visitor("ann").post("/users/new", {"name": EVIL, "role": EVIL, "how": EVIL}).text,
        here.visitor("ann").get(f"/users/{EVIL}").text,
        here.visitor("ann").get("/", params={"env": EVIL, "span": EVIL}).text,
    ]
    furnish(here.place)
    count_calls(here.place, **{EVIL: 3})
    page = here.page("ann")
    for path in PAGES:
        page.goto(here.url + path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.owned") is None, path
        assert page.locator("img").count() == 0

    assert all("<script>window" not in text and "<img" not in text for text in refused)


def test_no_other_site_can_frame_a_page(console: Start) -> None:
    here = console()
    page = here.page("ann")
    page.route(
        "https://evil.example/",
        lambda route: route.fulfill(
            body=f'<iframe src="{here.url}/users"></iframe>', content_type="text/html"
        ),
    )
    page.goto("https://evil.example/")
    page.wait_for_load_state("networkidle")

    assert page.frames[-1].url.startswith("chrome-error:")
    here.complaints.clear()  # the browser says that it refused
