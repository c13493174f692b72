"""Runs in the console: filtered, followed while they run, shown with their steps, cancelled and
re-run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect
from support.console import EVIL, ConsoleClient, ConsoleServer, accessible, engine_of, words_of

from penstock import (
    Call,
    Durable,
    HttpTrigger,
    Pipeline,
    PipelineError,
    Retry,
    audit,
    hookimpl,
    step,
)
from penstock.access import api_keys
from penstock.access.api_keys import KeyQuery
from penstock.console.formatting import short_id
from penstock.db import runs as stored
from penstock.db.engine import Engine
from penstock.runs.ids import first_id
from penstock.testing import Runtime

Start = Callable[..., Runtime]
tried: list[str] = []


@step(retry=Retry(attempts=2, backoff=0.01))
def charge(amount: int) -> int:
    tried.append("charge")
    if len(tried) % 2:
        raise ConnectionError(f"no answer {EVIL}")
    return amount


@step()
def ship() -> str:
    return "sent"


def shop() -> SimpleNamespace:
    orders = Pipeline(
        "orders",
        version="1.2.0",
        trigger=HttpTrigger(api_key=True),
        record_bodies="all",
        sensitive=["card"],
    )
    jobs = Pipeline(
        "jobs",
        version="1.0.0",
        trigger=HttpTrigger(api_key=True),
        record_bodies="all",
        durable=Durable(),
    )

    @orders.post("/")
    def order(call: Call, body: dict[str, object]) -> object:
        if "refuse" in body:
            raise PipelineError(409, "No", f"Not {EVIL}")
        if "fail" in body:
            raise ValueError(f"made up {EVIL}")
        return {"charged": charge(12), "note": EVIL}

    @jobs.post("/", mode="durable")
    def job(call: Call, body: dict[str, object]) -> object:
        call.progress(1, of=4, note=EVIL)
        return [charge(1), ship()]

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [orders, jobs]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Start) -> Runtime:
    tried.clear()
    return console_runtime(shop(), policy="api-key")


def call(
    runtime: Runtime, path: str = "/v1/orders/", *, consumer: str = "acme", **more: object
) -> str:
    sent: dict[str, object] = {"json": {}} | more
    return str(
        runtime.client(consumer=consumer, token=False).post(path, **sent).headers["X-Run-Id"]
    )


def listed(page: str) -> list[str]:
    return re.findall(r'href="/-/console/e/test/runs/([0-9a-f-]{36})"', page)


def many(
    engine: Engine,
    number: int,
    *,
    pipeline: str = "v1/orders",
    status: str = "succeeded",
    ago: int = 0,
) -> list[str]:
    """Write runs that are over, the newest first."""
    moment = first_id(time.time() - ago)[:18]
    rest = (False, None, None, status, 200, 900, *[None] * 8)
    ids = [f"{moment}-8000-{index:012x}" for index in range(number)]
    stored.record(engine, [(run, 1, pipeline, "1.0.0", "GET /", *rest) for run in ids], [])
    return ids[::-1]


class TestTheList:
    def test_it_is_filtered_by_every_property_of_a_run(self, runtime: Runtime) -> None:
        plain = call(runtime, headers={"X-Request-Id": "order-77f3a1b2"})
        rejected = call(runtime, json={"refuse": 1})
        other = call(runtime, consumer="globex")
        job = call(runtime, "/v1/jobs/")
        old = many(engine_of(runtime), 1, ago=7200)[0]
        (key,) = api_keys.list_keys(engine_of(runtime), KeyQuery(consumer="globex"))
        vic = ConsoleClient.of(runtime, "vic")
        until = datetime.fromtimestamp(time.time() - 3600, UTC).strftime("%Y-%m-%dT%H:%M")

        def filtered(**query: object) -> list[str]:
            return listed(vic.get("/e/test/runs", **query).text)

        assert filtered() == [job, other, rejected, plain, old]
        assert (
            filtered(pipeline="orders")
            == filtered(pipeline="v1/orders")
            == [other, rejected, plain, old]
        )
        assert filtered(pipeline="ORD") == filtered(pipeline="1/ord") == filtered(pipeline="orders")
        assert filtered(consumer="globex") == [other]
        assert filtered(status="client_error") == [rejected]
        assert filtered(status="accepted") == [job]
        assert filtered(**{"from": "now-1h"}) == [job, other, rejected, plain]
        assert filtered(to=until) == [old]
        assert filtered(key=key.id) == [other]
        assert filtered(duration="60") == []
        assert filtered(error="PipelineError") == []
        assert filtered(id="order-77f3a1b2") == [plain]
        assert filtered(pipeline="orders", consumer="acme", status="succeeded") == [plain]
        assert listed(vic.get("/e/prod/runs").text) == []
        assert vic.get("/e/test/runs", id=plain).headers["Location"].endswith(f"/runs/{plain}")

    def test_runs_of_a_day_have_one_date_and_the_chart_the_chosen_time(
        self, runtime: Runtime
    ) -> None:
        begin = int(time.time()) - 30 * 86_400
        many(engine_of(runtime), 2)
        many(engine_of(runtime), 3, ago=86_400)
        page = ConsoleClient.of(runtime, "vic").text(
            "/e/test/runs", **{"from": str(begin), "to": str(begin + 31 * 86_400)}
        )
        moments = (datetime.fromtimestamp(time.time() - ago, UTC) for ago in (0, 86_400))
        days = [f"{moment:%A, %B %-d, %Y}" for moment in moments]
        chart = json.loads(unescape(re.findall(r'data-graph="([^"]+)"', page)[0]))

        assert [words_of(day) for day in re.findall(r'<tr class="day">(.*?)</tr>', page)] == days
        assert chart["span"] == [begin, begin + 31 * 86_400]
        assert len(chart["times"]) == 5

    def test_the_export_has_the_filters_of_the_page_and_the_form_of_the_command(
        self, runtime: Runtime
    ) -> None:
        many(engine_of(runtime), 3)
        many(engine_of(runtime), 2, ago=3000, pipeline="=cmd", status="failed")
        vic = ConsoleClient.of(runtime, "vic")

        def export(**query: str) -> str:
            response = vic.get("/e/test/runs/export", **query)
            assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
            return response.text

        link = re.search(r'href="([^"]*/runs/export[^"]*status=failed[^"]*)"', vic.text(
            "/e/test/runs", status="failed"
        ))  # fmt: skip

        assert link is not None
        assert len(export().splitlines()) == 6
        assert [line.split(",")[3] for line in export(status="failed").splitlines()] == [
            "pipeline",
            "'=cmd",
            "'=cmd",
        ]
        assert export(pipeline="ord").splitlines() == runtime.operate(
            "runs", "list", "--pipeline", "ord", "--format", "csv"
        ).splitlines()  # fmt: skip
        assert vic.get("/e/test/runs/export", consumer="nope").status_code == 303

    def test_unknown_values_have_their_fault_beside_the_field(self, runtime: Runtime) -> None:
        call(runtime)
        engine_of(runtime)
        vic = ConsoleClient.of(runtime, "vic")
        for field, value, message in (
            ("pipeline", "ordres", "did you mean “orders”"),
            ("consumer", "acmee", "did you mean “acme”"),
            ("status", "odd", "isn&#39;t a choice here; choose one of accepted"),
            ("duration", "odd", "isn&#39;t a choice here; choose one of 1"),
        ):
            response = vic.get("/e/test/runs", **{field: value})

            assert response.status_code == 422
            assert f'id="e-{field}"' in response.text
            assert message in response.text
        assert vic.get("/e/test/runs", pipeline="a\0b").status_code == 400

    def test_runs_are_paged_by_key(self, runtime: Runtime) -> None:
        ids = many(engine_of(runtime), 120)
        vic = ConsoleClient.of(runtime, "vic")
        seen, path, pages = list[str](), "/e/test/runs?pipeline=orders", 0
        while path:
            page = vic.get(path).text
            seen += listed(page)
            match = re.search(r'href="/-/console([^"]+)" rel="next"', page)
            path, pages = match[1].replace("&amp;", "&") if match else "", pages + 1
            many(engine_of(runtime), 1, ago=-pages)  # new runs move nothing

        assert (seen, pages) == (ids, 3)
        assert "pipeline=orders" in page

    def test_empty_lists_name_the_next_step(self, runtime: Runtime) -> None:
        vic = ConsoleClient.of(runtime, "vic")

        assert "create a key, and call the pipeline" in words_of(vic.get("/e/test/runs").text)
        assert "Show all runs" in words_of(vic.get("/e/test/runs", status="failed").text)

    def test_a_poll_returns_rows_only_if_they_changed(self, runtime: Runtime) -> None:
        call(runtime)
        engine_of(runtime)
        vic = ConsoleClient.of(runtime, "vic")

        def poll(seen: str) -> tuple[int, str, list[str]]:
            response = vic.get("/e/test/runs/rows", poll=1, seen=seen)
            sign = re.search(r'name="seen" value="(\w+)"', response.text)
            return response.status_code, sign[1] if sign else seen, listed(response.text)

        first = poll("")
        same = poll(first[1])
        new = call(runtime, json={"refuse": 1})
        engine_of(runtime)
        then = poll(first[1])

        assert (first[0], same[0], then[0]) == (200, 204, 200)
        assert then[2] == [new, *first[2]]


class TestOneRun:
    def test_its_timeline_shows_every_attempt_of_its_steps(self, runtime: Runtime) -> None:
        run = call(runtime)
        engine_of(runtime)
        page = ConsoleClient.of(runtime, "vic").get(f"/e/test/runs/{run}").text
        bars = [
            (kind, float(x), float(width))
            for kind, x, width in re.findall(
                r'<rect class="(good|bad)" x="([\d.]+)%" y="2" width="([\d.]+)%"', page
            )
        ]

        assert re.search(r"1 charge [^,]+, 2 attempts", words_of(page))
        assert "Attempt 1, after" in words_of(page)
        assert "ConnectionError: no answer" in words_of(page)
        assert [kind for kind, _, _ in bars] == ["bad", "good"]
        # The second attempt begins when the first is over.
        assert bars[0][1] + bars[0][2] <= bars[1][1]
        assert all(x >= 0 and x + width <= 100.01 for _, x, width in bars)

    def test_a_failed_run_shows_the_exception_and_its_place(self, runtime: Runtime) -> None:
        run = call(runtime, json={"fail": 1})
        engine_of(runtime)

        page = ConsoleClient.of(runtime, "vic").get(f"/e/test/runs/{run}").text

        assert "Raised ValueError : made up" in words_of(page)
        assert f"{__file__}:" in words_of(page)
        assert EVIL not in page

    def test_sensitive_fields_of_bodies_are_masked(self, runtime: Runtime) -> None:
        run = call(runtime, json={"card": "4111-1111", "item": "pump"})
        engine_of(runtime)
        vic = ConsoleClient.of(runtime, "vic")
        page, output = (
            words_of(vic.text(f"/e/test/runs/{run}", tab=tab)) for tab in ("input", "output")
        )

        assert '"card": "***"' in page
        assert '"item": "pump"' in page
        assert '"charged": 12' in output
        assert "4111" not in page

    def test_bodies_and_exceptions_never_become_markup(self, runtime: Runtime) -> None:
        runs = [
            call(runtime, json={EVIL: EVIL, "refuse": 1}),
            call(runtime, json={"fail": EVIL}),
            call(runtime, json={"a": EVIL}),
            call(runtime, "/v1/jobs/", json={"a": EVIL}),
        ]
        runtime.work()
        vic = ConsoleClient.of(runtime, "vic")
        pages = [
            vic.get(f"/e/test/runs/{run}", tab=tab).text
            for run, tab in zip(runs, ("timeline", "input", "output", "timeline"), strict=True)
        ] + [
            vic.get("/e/test/runs", **{name: EVIL}).text for name in ("pipeline", "id", "consumer")
        ]

        assert all("window.owned" in page for page in pages)
        assert not any("<script>window" in page or "<img" in page for page in pages)

    def test_an_unknown_run_is_not_found(self, runtime: Runtime) -> None:
        vic = ConsoleClient.of(runtime, "vic")

        assert [
            vic.get(f"/e/test/runs/{run}").status_code
            for run in ("x", "01a210d7-7a5e-758d-b7d4-dfbeccfec7ac")
        ] == [404, 404]


class TestOperations:
    def test_the_page_follows_a_durable_run_until_it_ends(self, runtime: Runtime) -> None:
        run = call(runtime, "/v1/jobs/")
        vic = ConsoleClient.of(runtime, "vic")
        waiting = vic.get(f"/e/test/runs/{run}").text
        going = vic.get(f"/e/test/runs/{run}/state", poll=1)
        runtime.work()
        over = vic.get(f"/e/test/runs/{run}/state", poll=1)

        assert f'hx-get="/-/console/e/test/runs/{run}/state?poll=1"' in waiting
        assert (going.status_code, "accepted" in words_of(going.text)) == (200, True)
        assert (over.status_code, over.headers["HX-Refresh"]) == (204, "true")
        page = vic.get(f"/e/test/runs/{run}").text
        assert "hx-get" not in page
        assert "Progress 1 of 4" in words_of(page)
        assert "2 ship" in words_of(page)

    def test_an_operator_cancels_a_run_and_a_viewer_does_not(self, runtime: Runtime) -> None:
        run = call(runtime, "/v1/jobs/")
        vic, oli = ConsoleClient.of(runtime, "vic"), ConsoleClient.of(runtime, "oli")

        assert vic.post(f"/e/test/runs/{run}/cancel").status_code == 403
        assert "cancel" not in words_of(vic.get(f"/e/test/runs/{run}").text).lower()
        assert runtime.runs(status="cancelled") == []
        assert "Run cancelled." in oli.follow(oli.post(f"/e/test/runs/{run}/cancel"))
        assert [item["id"] for item in runtime.runs(status="cancelled")] == [run]
        event = audit.events(engine_of(runtime), limit=1)[0]
        assert (event.actor, event.action, event.subject) == ("oli", "run:cancelled", run)
        again = oli.post(f"/e/test/runs/{run}/cancel")
        assert (again.status_code, "is over already: cancelled" in words_of(again.text)) == (
            422,
            True,
        )

    def test_a_durable_run_is_rerun_from_a_step(self, runtime: Runtime) -> None:
        run = call(runtime, "/v1/jobs/")
        oli = ConsoleClient.of(runtime, "oli")
        early = oli.post(f"/e/test/runs/{run}/redeliver", step="1")
        runtime.work()
        whole = oli.follow(oli.post(f"/e/test/runs/{run}/redeliver", step="1"))
        parted = oli.follow(oli.post(f"/e/test/runs/{run}/redeliver", step="2"))
        beyond = oli.post(f"/e/test/runs/{run}/redeliver", step="9")
        odd = oli.post(f"/e/test/runs/{run}/redeliver", step="-1")

        assert (early.status_code, "is not over" in words_of(early.text)) == (422, True)
        assert "New run: accepted; waiting for a worker." in whole
        assert f"Re-run of {run}" in whole
        assert f"Re-run of {run}" in parted
        assert (beyond.status_code, "has done 2 steps" in words_of(beyond.text)) == (422, True)
        assert (odd.status_code, "isn't a step number" in words_of(odd.text)) == (422, True)
        rerun = [
            (event.actor, event.detail["step"])
            for event in audit.events(engine_of(runtime), limit=9, action="run:redelivered")
        ]
        assert rerun == [("oli", 2), ("oli", 1)]

    def test_an_inline_run_is_rerun_in_this_process(self, runtime: Runtime) -> None:
        run = call(runtime, json={"item": "pump"})
        hidden = call(runtime, json={"card": "4111"})
        engine_of(runtime)
        oli = ConsoleClient.of(runtime, "oli")
        page = oli.follow(oli.post(f"/e/test/runs/{run}/redeliver"))
        rejected = oli.post(f"/e/test/runs/{hidden}/redeliver")

        assert "finished in this process: succeeded" in page
        assert f"Re-run of {run}" in page
        assert (
            rejected.status_code,
            "is sensitive, and was not recorded" in words_of(rejected.text),
        ) == (422, True)
        event = audit.events(engine_of(runtime), limit=1)[0]
        assert (event.actor, event.action, event.subject, event.detail["new"]) == (
            "oli",
            "run:redelivered",
            run,
            runtime.runs()[0]["id"],
        )
        assert (
            ConsoleClient.of(runtime, "vic").post(f"/e/test/runs/{run}/redeliver").status_code
            == 403
        )
        assert len(runtime.runs()) == 3


PLUGIN = """
import time
from penstock import Call, HttpTrigger, Pipeline, Retry, hookimpl, step

orders = Pipeline("orders", version="1.2.0", trigger=HttpTrigger(api_key=True), record_bodies="all")
tried = []

@step(retry=Retry(attempts=2, backoff=0.02))
def charge():
    tried.append(1)
    if len(tried) % 2: raise ConnectionError("the bank did not answer")

@orders.post("/")
def make(call: Call, body: dict[str, object]) -> object:
    charge()
    return body

@hookimpl
def penstock_pipelines(): return [orders]
"""


def test_new_runs_appear_live_and_lead_to_their_timeline(
    console_server: Callable[..., ConsoleServer],
) -> None:
    console = console_server(plugin=PLUGIN)
    console.place.policy("api-key")
    console.place.consumer("acme", "orders")
    key = console.place.key("acme").key
    page = console.page("oli")
    page.goto(f"{console.url}/e/test/runs")
    expect(page.get_by_text("No runs in test in this time.")).to_be_visible()

    for _ in range(50):
        run = console.server.call("POST", "/v1/orders/", key=key, json={"item": "pump"})
        if run.status_code == 200:
            break
        time.sleep(0.1)
    row = page.get_by_role("row", name=re.compile("orders POST"))
    expect(row).to_have_count(1, timeout=8000)
    expect(row.locator("time")).to_have_attribute("title", re.compile("UTC$"))
    assert accessible(page) == []
    page.get_by_role("link", name="Pause").click()
    expect(page.get_by_text("paused")).to_be_visible()
    assert page.locator("[hx-get]").count() == 0

    page.get_by_role("link", name=short_id(run.headers["X-Run-Id"])).press("Enter")
    expect(page.get_by_role("region", name="Timeline of steps")).to_contain_text(
        "ConnectionError: the bank did not answer"
    )
    assert accessible(page) == []
    bars = [bar.bounding_box() for bar in page.locator(".bars rect:not(.track)").all()]
    assert len(bars) == 2
    assert all(bar is not None and bar["width"] > 1 and bar["height"] > 5 for bar in bars)
    page.set_viewport_size({"width": 390, "height": 900})
    assert accessible(page) == []
    page.get_by_role("button", name="Re-run").click()
    page.get_by_role("dialog").get_by_role("button", name="Re-run").click()
    expect(page.get_by_role("status")).to_contain_text("finished in this process: succeeded")
