"""The everyday tasks of operators, in a real browser against one server, with their clicks counted.

A click is a click, a choice or a field that is filled. Each task takes no more of them than it took
in the trial that this console was designed from (see `TRIAL`); what could not be done there has no
limit but that of `Steps`. Each task is also done by command.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.commands import run
from support.console import ConsoleServer, start_console
from support.durable import until
from support.place import Place

from penstock import audit
from penstock.access import api_keys, consumers, policies
from penstock.execution.run_queries import RunQuery, list_runs

# The clicks of the trial; None: it could not be done, or in part only.
TRIAL = {
    "create a consumer": 5,
    "create a key": 4,
    "grant access": 8,
    "set a policy": 8,
    "who changed the policy": 2,
    "export the audit": 2,
    "rotate a key": 3,
    "disable a consumer": 6,
    "revoke tokens": 6,
    "look at a run": 3,
    "re-run from a step": 9,
    "cancel a run": 7,
    "what is open": 3,
}

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, Schedule, hookimpl, sleep, step

status = Pipeline("status", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))
orders = Pipeline("orders", version="1.2.0", trigger=HttpTrigger(api_key=True))
stock = Pipeline("stock", version="1.0.0", trigger=HttpTrigger(api_key=True))
private = Pipeline("private", version="1.0.0", trigger=HttpTrigger(api_key=True))
notes = Pipeline("notes", version="1.0.0", trigger=HttpTrigger())
jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True), record_bodies="all")
report = Pipeline("report", version="1.0.0", trigger=Schedule("0 5 * * *", timezone="UTC"))

@step()
def load(): return 3

@step()
def send(fail):
    if fail:
        raise ConnectionError("the mail server is away")

@status.get("/")
def up(call: Call): return {"up": True}

@orders.get("/")
def show(call: Call): return {"consumer": call.caller.consumer}

@stock.get("/")
def count(call: Call): raise RuntimeError("no such warehouse")

@private.get("/")
def secret(call: Call): return {}

@notes.get("/")
def note(call: Call): return {}

@jobs.post("/", mode="durable")
def job(call: Call, body: dict[str, bool]):
    load()
    if body.get("wait"):
        sleep(3600)
    send(body.get("fail", False))
    return "sent"

@report.post("/", mode="durable")
def write(call: Call): return "written"

@hookimpl
def penstock_pipelines(): return [status, orders, stock, private, notes, jobs, report]
"""


@dataclass
class Steps:
    """A page of an operator that counts what the operator does."""

    page: Page
    url: str
    clicks: int = 0

    def click(self, target: Locator) -> None:
        target.click()
        self.clicks += 1

    def link(self, name: str | re.Pattern[str]) -> None:
        self.click(self.page.get_by_role("link", name=name, exact=isinstance(name, str)).first)

    def menu(self, title: str) -> None:
        """Open an entry of the menu; a count may be beside its title."""
        entries = self.page.get_by_role("navigation", name="Pages")
        self.click(entries.get_by_role("link", name=re.compile(f"^{title}\\b")))

    def button(self, name: str | re.Pattern[str]) -> None:
        self.click(self.page.get_by_role("button", name=name, exact=isinstance(name, str)).first)

    def confirm(self, name: str) -> None:
        self.click(self.page.get_by_role("dialog").get_by_role("button", name=name))

    def fill(self, target: Locator, text: str) -> None:
        target.fill(text)
        self.clicks += 1

    def choose(self, target: Locator, value: str) -> None:
        target.select_option(value)
        self.clicks += 1

    def check(self, target: Locator) -> None:
        target.check()
        self.clicks += 1

    def done(self, task: str) -> None:
        """Assert that the task took no more clicks than in the trial."""
        assert self.clicks <= TRIAL[task], f"{task}: {self.clicks} clicks"


@dataclass
class Shop:
    """The server, its place, and the key of the consumer acme in test."""

    console: ConsoleServer
    key: str
    runs: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        return self.console.place

    def steps(self, path: str = "/", user: str = "oli") -> Steps:
        page = self.console.page(user)
        if path != "/":
            page.goto(self.console.url + path)
        return Steps(page, self.console.url)

    def command(self, *words: str) -> str:
        """Run a command, which must succeed, and return its output."""
        done = run(self.place, *words)
        assert (done.code, done.stderr) == (0, ""), done
        return done.stdout

    def job(self, **body: bool) -> str:
        """Start a durable run, and return its id."""
        reply = self.console.server.call("POST", "/v1/jobs/", key=self.key, json=body)
        assert reply.status_code == 202
        return reply.headers["X-Run-Id"]

    def status_of(self, run_id: str) -> str:
        return next(
            (
                row.status
                for row in list_runs(self.place.engine, RunQuery(), limit=50)
                if row.id == run_id
            ),
            "",
        )

    def consumer(self, name: str) -> None:
        """Create a consumer that a test changes."""
        consumers.create_consumer(self.place.engine, "ann", name)


@pytest.fixture(scope="module")
def shop(
    upgraded_file: Path, tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> Iterator[Shop]:
    """A server with calls of several kinds; tests change only what they create themselves."""
    folder = tmp_path_factory.mktemp("tasks")
    database = shutil.copyfile(upgraded_file, folder / "penstock.db")
    place = Place.make(f"sqlite:///{database}", folder)
    place.policy("any")
    place.policy("api-key", "prod")
    place.consumer("acme", "orders", "status", "stock", "jobs")
    key = place.key("acme").key
    with ExitStack() as stack:
        stack.callback(place.engine.dispose)
        console = start_console(place, stack, lambda: browser, plugin=PLUGIN, worker=1)
        shop = Shop(console, key)
        call = console.server.call
        assert call("GET", "/v1/orders/", key=shop.key).status_code == 200
        assert call("GET", "/v1/stock/", key=shop.key).status_code == 500
        assert call("GET", "/v1/status/", key=shop.key).status_code == 401
        rejected = call("GET", "/v1/private/", key=shop.key)
        assert rejected.status_code == 403
        shop.runs = {
            "rejected": rejected.json()["run"],
            "failed": shop.job(fail=True),
            "waits": shop.job(wait=True),
            "sent": shop.job(),
        }
        until(lambda: shop.status_of(shop.runs["failed"]) == "failed")
        until(lambda: shop.status_of(shop.runs["sent"]) == "succeeded")
        until(lambda: run(place, "rejected", "show", shop.runs["rejected"]).code == 0)
        yield shop
        assert console.complaints == []


def test_create_a_consumer(shop: Shop) -> None:
    steps = shop.steps()
    steps.menu("Consumers")
    steps.link("New consumer")
    steps.fill(steps.page.get_by_label("Name"), "globex")
    steps.button("Create consumer")
    expect(steps.page.get_by_role("status")).to_contain_text("globex created.")
    steps.done("create a consumer")

    shop.command("consumer", "create", "initech")
    assert "globex" in shop.command("consumer", "list")


def test_create_a_key(shop: Shop) -> None:
    shop.consumer("hooli")
    steps = shop.steps("/consumers/hooli")
    steps.link("New key")
    steps.choose(steps.page.get_by_label("Environment", exact=True), "test")
    steps.button("Create key")
    expect(steps.page.get_by_text("You won't see it again.")).to_be_visible()
    steps.button(re.compile("^Copy key"))
    steps.done("create a key")

    assert "pk_prod_" in shop.command("key", "create", "hooli", "--env", "prod")


def test_grant_access_to_three_pipelines_in_two_environments(shop: Shop) -> None:
    shop.consumer("umbrella")
    steps = shop.steps("/consumers/umbrella")
    steps.link(re.compile("^(Change access|Access)$"))
    for environment in ("test", "prod"):
        for pipeline in ("v1/orders", "v1/stock", "v1/jobs"):
            name = f"{pipeline} in {environment}"
            steps.check(steps.page.get_by_role("checkbox", name=name))
    steps.button("Save access")
    expect(steps.page.get_by_role("status")).to_contain_text("6 added")
    steps.done("grant access")

    held = consumers.show_consumer(shop.place.engine, "umbrella").associations
    shop.command("consumer", "associate", "umbrella", "v1/notes", "--env", "test")
    assert {len(names) for names in held.values()} == {3}


def test_set_a_policy_with_its_preview_a_reason_and_a_grace(shop: Shop) -> None:
    steps = shop.steps()
    page = steps.page
    steps.menu("Policies")
    card = page.get_by_role("region", name="prod", exact=True)
    steps.check(card.get_by_role("radio", name=re.compile("^jwt-api-key")).first)
    steps.click(card.get_by_role("button", name="Preview change").first)
    steps.fill(page.get_by_label("Reason"), "SEC-118")
    steps.fill(page.get_by_label(re.compile("^Grace")), "7 days")
    steps.button("Apply change")
    page.wait_for_url("**/e/prod/policy")
    steps.done("set a policy")

    shop.command("policy", "set", "prod", "api-key", "--reason", "undo", "--yes")
    assert "SEC-118" in shop.command("policy", "show", "prod")


def test_who_changed_the_policy_and_why(shop: Shop) -> None:
    policies.set_policy(
        shop.place.engine, "ann", "prod", "api-key", served={}, stopping=(), reason="SEC-99"
    )
    steps = shop.steps()
    steps.menu("Policies")
    steps.link(re.compile("policy history of prod$"))
    row = steps.page.get_by_role("row", name=re.compile("ann.*SEC-99"))
    expect(row.first).to_be_visible()
    steps.done("who changed the policy")

    assert "SEC-99" in shop.command("policy", "show", "prod")
    assert "ann" in shop.command("audit", "--env", "prod", "--action", "environment:policy:set")


def test_export_the_audit_log(shop: Shop) -> None:
    steps = shop.steps()
    steps.menu("Audit")
    with steps.page.expect_download() as download:
        steps.link("Export CSV")
    assert "environment:created" in Path(download.value.path()).read_text(encoding="utf-8")
    steps.done("export the audit")

    assert "environment:created" in shop.command("audit", "--export", "csv")


def test_rotate_a_key(shop: Shop) -> None:
    shop.consumer("tyrell")
    key = api_keys.create_key(shop.place.engine, "ann", "tyrell", "test")
    steps = shop.steps("/consumers/tyrell")
    steps.link("Keys and credentials")
    steps.link(re.compile("^Rotate key"))
    steps.button(re.compile("^Rotate key"))
    expect(steps.page.get_by_text("You won't see it again.")).to_be_visible()
    steps.done("rotate a key")

    listed = json.loads(
        shop.command("key", "list", "--consumer", "tyrell", "--env", "test", "--format", "json")
    )
    (newest,) = [row["id"] for row in listed if row["id"] != key.id]
    assert "pk_test_" in shop.command("key", "rotate", newest, "--grace", "1d")


def test_disable_a_consumer(shop: Shop) -> None:
    shop.consumer("soylent")
    shop.consumer("cyberdyne")
    steps = shop.steps()
    steps.menu("Consumers")
    steps.link("soylent")
    steps.button(re.compile("^Disable (consumer|soylent)$"))
    steps.confirm("Disable")
    expect(steps.page.get_by_role("heading", level=1)).to_contain_text("disabled")
    steps.done("disable a consumer")

    shop.command("consumer", "disable", "cyberdyne")
    assert not consumers.show_consumer(shop.place.engine, "cyberdyne").enabled


def test_revoke_the_tokens_of_a_consumer_in_two_environments(shop: Shop) -> None:
    shop.consumer("weyland")
    steps = shop.steps("/consumers/weyland")
    for environment in ("test", "prod"):
        steps.button(f"Revoke tokens in {environment}")
        steps.confirm("Revoke tokens")
        expect(steps.page.get_by_role("status")).to_contain_text("revoked")
    steps.done("revoke tokens")

    shop.command("token", "revoke", "--consumer", "weyland", "--env", "test")
    revoked = audit.events(shop.place.engine, subject="weyland", limit=20)
    assert [event.environment for event in revoked if "revoked" in event.action] == [
        "test",
        "prod",
        "test",
    ]


def test_look_at_the_steps_of_a_run(shop: Shop) -> None:
    steps = shop.steps()
    steps.menu("Runs")
    steps.click(steps.page.locator(f"a[href$='{shop.runs['failed']}']").first)
    expect(steps.page.get_by_role("main")).to_contain_text("ConnectionError")
    expect(steps.page.get_by_role("region", name=re.compile("^Timeline"))).to_contain_text("send")
    steps.done("look at a run")

    shown = shop.command("runs", "show", shop.runs["failed"])
    assert all(word in shown for word in ("load", "send", "the mail server is away"))


def test_re_run_a_failed_run_from_a_step(shop: Shop) -> None:
    failed = shop.runs["failed"]
    steps = shop.steps(f"/e/test/runs/{failed}")
    steps.button("Re-run from step 2")
    steps.confirm("Re-run")
    expect(steps.page.get_by_role("main")).to_contain_text("Re-run of")
    steps.done("re-run from a step")

    again = shop.command("runs", "redeliver", failed, "--from-step", "2")
    assert re.search("[0-9a-f]{8}-[0-9a-f-]{27}", again)


def test_cancel_a_run(shop: Shop) -> None:
    steps = shop.steps()
    steps.menu("Runs")
    steps.click(steps.page.locator(f"a[href$='{shop.runs['waits']}']").first)
    steps.button("Cancel run")
    steps.confirm("Cancel run")
    expect(steps.page.get_by_role("main")).to_contain_text("cancelled")
    steps.done("cancel a run")

    another = shop.job(wait=True)
    shop.command("runs", "cancel", another)
    assert shop.status_of(another) == "cancelled"


def test_rejected_calls_by_reason_over_time(shop: Shop) -> None:
    steps = shop.steps()
    page = steps.page
    steps.menu("Rejected")
    expect(page.get_by_role("figure", name="Rejected calls by reason")).to_be_visible()
    steps.link(re.compile("not associated"))
    rows = page.get_by_role("region", name="Table: Rejected calls").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("v1/private")

    listed = shop.command("rejected", "list", "--reason", "not-associated", "--format", "json")
    assert [row["pipeline"] for row in json.loads(listed)] == ["v1/private"]


def test_why_a_call_was_rejected(shop: Shop) -> None:
    call = shop.runs["rejected"]
    steps = shop.steps()
    steps.menu("Rejected")
    steps.fill(steps.page.get_by_label("Call or request ID"), call)
    steps.button("Filter")
    main = steps.page.get_by_role("main")
    expect(main).to_contain_text("not-associated")
    expect(main).to_contain_text("penstock consumer associate acme v1/private --env test")

    explained = shop.command("explain", call)
    assert "penstock consumer associate acme v1/private --env test" in explained


def test_what_is_open_to_anyone(shop: Shop) -> None:
    steps = shop.steps()
    steps.menu("Pipelines")
    steps.link("Who may call what")
    rows = steps.page.get_by_role("region", name="Exposure of pipelines").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(steps.page.get_by_role("row", name="v1/notes external closed anyone")).to_be_visible()
    steps.done("what is open")

    listed = json.loads(shop.command("exposure", "--format", "json"))

    reach = {row["pipeline"]: row["reach"] for row in listed}
    assert reach["v1/notes"] == {"test": "anyone", "prod": "closed"}


def test_which_keys_are_unused_or_expire_soon(shop: Shop) -> None:
    shop.consumer("stark")
    soon = shop.command("key", "create", "stark", "--env", "test", "--expires", "5d")
    steps = shop.steps()
    steps.menu("Keys")
    for chosen in ("expire within 14 days", "never used"):
        steps.link(re.compile(chosen))
        row = steps.page.get_by_role("row", name=re.compile("pk_test_.*stark test"))
        expect(row).to_have_count(1)

    words = ("keys", "--env", "test", "--consumer", "stark")

    assert "stark" in shop.command(*words, "--expiring", "14d")
    assert "stark" in shop.command(*words, "--never-used")
    assert "pk_test_" in soon


def test_the_schedules_and_their_next_ticks(shop: Shop) -> None:
    steps = shop.steps()
    steps.menu("Schedules")
    main = steps.page.get_by_role("main")
    expect(main).to_contain_text("report")
    expect(main).to_contain_text("0 5 * * *")
    assert steps.clicks == 1

    assert "v1/report" in shop.command("schedules", "--env", "test")


def test_who_called_with_which_key(shop: Shop) -> None:
    def used() -> list[dict[str, object]]:
        """Return the calls of v1/orders by key, once they are counted."""
        words = ("usage", "--by", "key", "--pipeline", "v1/orders", "--format", "json")
        rows: list[dict[str, object]] = json.loads(shop.command(*words))
        return rows

    (row,) = until(used)

    steps = shop.steps()
    steps.menu("Pipelines")
    steps.link("v1/orders")
    steps.link("Who called v1/orders")
    tabs = steps.page.get_by_role("navigation", name="Usage by")
    steps.click(tabs.get_by_role("link", name=re.compile("^(by )?key", re.IGNORECASE)))
    expect(
        steps.page.get_by_role("row", name=re.compile(f"{shop.key[-4:]} acme 1"))
    ).to_be_visible()
    assert (row["consumer"], row["calls"]) == ("acme", 1)
    assert str(row["key"]).endswith(shop.key[-4:])
