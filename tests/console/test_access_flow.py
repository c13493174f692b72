"""An operator in a real browser, against real processes: from a new consumer to an accepted call,
and to a rejected one."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable

from playwright.sync_api import Page, expect
from support.console import ConsoleServer
from support.durable import until

from penstock import audit
from penstock.access import consumers
from penstock.runs.recent_callers import recent_callers

Start = Callable[..., ConsoleServer]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

orders = Pipeline("orders", version="1.2.0", summary="Orders", trigger=HttpTrigger(api_key=True, jwt=True))
status = Pipeline("status", version="1.0.0", trigger=HttpTrigger(api_key=True))
stock = Pipeline("stock", version="1.0.0", trigger=HttpTrigger(api_key=True))

@orders.get("/")
def show(call: Call): return {"consumer": call.caller.consumer}

@status.get("/")
def tell(call: Call): return {"consumer": call.caller.consumer}

@stock.get("/")
def count(call: Call): return {}

@hookimpl
def penstock_pipelines(): return [orders, status, stock]
"""  # noqa: E501  text as it is


def curl(line: str, **variables: str) -> tuple[int, str]:
    """Run a line of curl in a shell; return the status and the body."""
    done = subprocess.run(
        ["sh", "-c", f"{line} -s -w '\\n%{{http_code}}'"],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def make_consumer_with_key(page: Page, console: ConsoleServer) -> str:
    page.get_by_role("link", name="Consumers", exact=True).click()
    page.get_by_role("link", name="New consumer").first.click()
    page.get_by_label("Name").fill("acme")
    page.get_by_label("Description").fill("The shop of Acme")
    page.get_by_role("button", name="Create consumer").click()
    expect(page.get_by_role("status")).to_contain_text("acme created.")
    page.get_by_role("link", name="Keys and credentials").click()
    expect(page.get_by_text("No active keys.")).to_be_visible()
    page.get_by_role("link", name="New key").click()
    page.get_by_label("Environment", exact=True).select_option("test")
    page.get_by_role("button", name="Create key").click()
    page.get_by_role("button", name="Copy key").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    key = str(page.evaluate("navigator.clipboard.readText()"))
    page.get_by_role("link", name="Done").click()
    expect(page.get_by_role("row", name=re.compile(f"pk_test_…{key[-4:]}"))).to_be_visible()
    assert key not in page.content()
    return key


def associate_in_both(page: Page) -> None:
    page.get_by_role("link", name="Access", exact=True).click()
    page.get_by_placeholder("Part of a name").fill("stat")
    expect(page.get_by_role("checkbox", name="v1/orders in test")).to_be_hidden()
    page.get_by_role("button", name="Select all shown in test").click()
    page.get_by_role("checkbox", name="v1/status in prod").check()
    page.get_by_placeholder("Part of a name").fill("")
    page.get_by_role("checkbox", name="v1/orders in test").check()
    expect(page.get_by_role("checkbox", name="v1/stock in test")).not_to_be_checked()
    page.get_by_role("button", name="Save access").click()
    expect(page.get_by_role("status")).to_contain_text("Access of acme saved: 3 added.")


def test_a_new_consumer_calls_until_a_policy_rejects_the_call(console_server: Start) -> None:
    console = console_server(plugin=PLUGIN)
    console.place.policy("api-key")
    page = console.page("oli")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])

    key = make_consumer_with_key(page, console)
    associate_in_both(page)
    held = consumers.show_consumer(console.place.engine, "acme").associations
    assert held == {"prod": ["v1/status"], "test": ["v1/orders", "v1/status"]}

    page.goto(f"{console.url}/pipelines/v1/status?env=test")
    expect(page.locator(".card").nth(1)).to_contain_text(
        "A call needs an API key of an associated consumer."
    )
    page.goto(f"{console.url}/pipelines/v1/status/routes?env=test")
    line = page.locator("#curl").inner_text()
    assert key not in page.content()
    reply = curl(line, API_KEY=key)
    assert (reply[0], '"acme"' in reply[1]) == (200, True)
    assert curl(line, API_KEY="pk_test_nothing")[0] == 401

    # Calls are counted in batches.
    until(lambda: recent_callers(console.place.engine, 1, ["v1/status"], time.time(), most=1))
    page.get_by_role("link", name="Policies", exact=True).click()
    card = page.get_by_role("region", name="test", exact=True)
    card.get_by_role("radio", name=re.compile("^jwt-api-key")).first.check()
    card.get_by_role("button", name="Preview change").first.click()
    stops = page.get_by_role("region", name="2 pipelines will stop being served")
    expect(stops.get_by_role("row", name="v1/status")).to_contain_text("acme")
    expect(stops.get_by_role("row", name="v1/stock")).to_contain_text("none")
    expect(stops.get_by_text("v1/orders")).to_have_count(0)
    assert curl(line, API_KEY=key)[0] == 200  # nothing is changed yet
    page.get_by_label("Reason").fill("callers have tokens now")
    expect(page.get_by_role("main")).to_contain_text(
        "Apply jwt-api-key to test? 2 pipelines will stop being served"
    )
    page.get_by_role("button", name="Apply change").click()
    page.wait_for_url("**/e/test/policy")
    until(
        lambda: (
            [
                console.server.call("GET", f"/v1/{name}/", key=key).status_code
                for name in ("orders", "status")
            ]
            == [401, 503]
        )
    )
    assert curl(line.replace("v1/status", "v1/orders"), API_KEY=key)[0] == 401
    assert (
        console.server.call(
            "GET", "/v1/orders/", key=key, token=console.place.token("acme")
        ).status_code
        == 200
    )
    expect(
        page.get_by_role(
            "row", name=re.compile("^3 .*oli external .*jwt-api-key.* callers have tokens now")
        )
    ).to_be_visible()
    actions = {
        event.action
        for event in audit.events(console.place.engine, limit=20)
        if event.actor == "oli"
    }
    assert {
        "consumer:created",
        "key:created",
        "consumer:associated",
        "environment:policy:set",
    } <= actions


def test_a_revoked_key_is_rejected_within_a_second(console_server: Start) -> None:
    console = console_server(plugin=PLUGIN)
    console.place.policy("api-key")
    console.place.consumer("acme", "status")
    key = console.place.key("acme").key
    page = console.page("oli")

    def status() -> int:
        return console.server.call("GET", "/v1/status/", key=key).status_code

    assert status() == 200
    page.goto(f"{console.url}/consumers/acme?tab=keys")
    page.get_by_role("link", name=re.compile("^pk_test_")).click()
    page.get_by_role("button", name="Revoke key").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep key").click()
    assert status() == 200
    page.get_by_role("button", name="Revoke key").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke key").click()
    expect(page.get_by_role("status")).to_contain_text(" revoked.")
    until(lambda: status() == 401)
    page.goto(f"{console.url}/consumers/acme?tab=keys")
    expect(page.get_by_text("Expired and revoked keys (1)")).to_be_visible()
