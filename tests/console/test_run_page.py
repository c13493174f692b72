"""The page of a run: what runs now, what was copied, its tabs, and a re-run from a step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support.console import ConsoleClient, engine_of, words_of

from penstock import Call, Durable, HttpTrigger, Pipeline, call_pipeline, hookimpl, step
from penstock.console.formatting import short_id
from penstock.testing import Runtime

Start = Callable[..., Runtime]
during: list[Callable[[], None]] = []
failing: list[str] = []


@step(label="{sku}")
def pack(sku: str) -> str:
    return sku


@step(label="{name}")
def download(name: str) -> str:
    for look in during:
        look()
    if name in failing:
        raise ConnectionError(f"{name} is away")
    return name


@step()
def send() -> str:
    return "sent"


def shop() -> SimpleNamespace:
    jobs = Pipeline(
        "jobs",
        version="1.0.0",
        trigger=HttpTrigger(api_key=True),
        record_bodies="all",
        durable=Durable(),
    )

    @jobs.post("/", mode="durable")
    def job(call: Call, body: dict[str, object]) -> object:
        return [pack("PEN-01"), download("catalogue"), send()]

    @jobs.post("/parent", mode="durable")
    def parent(call: Call) -> object:
        return call_pipeline("jobs", {}, wait=False)

    @jobs.post("/inline")
    def at_once(call: Call) -> str:
        return "done"

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [jobs]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Start) -> Runtime:
    during.clear()
    failing.clear()
    return console_runtime(shop(), policy="api-key")


def call(runtime: Runtime, path: str = "/v1/jobs/") -> str:
    response = runtime.client(token=False).post(path, json={"item": "pump"})
    return str(response.headers["X-Run-Id"])


def rerun(oli: ConsoleClient, run: str, step: int) -> str:
    """Re-run a run from a step, and return the ID of the new run."""
    response = oli.post(f"/e/test/runs/{run}/redeliver", step=str(step))
    assert response.status_code == 303, words_of(response.text)
    return str(response.headers["Location"].rpartition("/")[2])


def test_a_running_step_is_striped_with_the_time_so_far(runtime: Runtime) -> None:
    run = call(runtime)
    vic = ConsoleClient.of(runtime, "vic")
    pages: list[str] = []

    def look() -> None:
        runtime.flush()
        pages.append(vic.text(f"/e/test/runs/{run}"))

    during.append(look)
    runtime.work()
    pages.append(vic.text(f"/e/test/runs/{run}"))
    running, over = pages

    assert re.search(r"2 download catalogue running for [\d.]+ m?s", words_of(running))
    assert '<rect class="running"' in running
    assert 'fill="url(#stripes)"' in running
    assert "Re-run from here" not in running
    assert '<rect class="running"' not in over
    assert re.search(r"2 download catalogue [\d.]+ m?s", words_of(over))


def test_the_steps_are_a_table_too(runtime: Runtime) -> None:
    failing.append("catalogue")
    run = call(runtime)
    runtime.work()

    page = ConsoleClient.of(runtime, "vic").text(f"/e/test/runs/{run}")
    table = page[page.index('aria-label="Table: steps"') :]
    table = words_of(table[: table.index("</table>")])

    assert re.search(r"queue 1 0 ms [\d.]+ m?s waiting \N{EN DASH}", table)
    assert re.search(r"1 pack PEN-01 1 [\d.]+ m?s [\d.]+ m?s succeeded \N{EN DASH}", table)
    assert re.search(r"2 download catalogue 1 .* failed ConnectionError: catalogue is away", table)


def test_a_rerun_is_preset_to_the_failed_step_and_copied_steps_are_grey(runtime: Runtime) -> None:
    failing.append("catalogue")
    run = call(runtime)
    runtime.work()
    oli = ConsoleClient.of(runtime, "oli")
    page = oli.text(f"/e/test/runs/{run}")
    asked = words_of(oli.text(f"/e/test/runs/{run}/redeliver", step="2"))
    failing.clear()
    new = rerun(oli, run, 2)
    runtime.work()
    after = oli.text(f"/e/test/runs/{new}")

    assert "Re-run from step 2" in words_of(page)
    assert "Re-run from step 2 with the same input? The results of earlier steps" in asked
    assert f"Re-run of {run} , from step 2" in words_of(after)
    assert after.count('<rect class="copied"') == 1
    assert re.search(rf"1 pack PEN-01 from run {short_id(run)} , took", words_of(after))
    assert [item.get("copied", False) for item in steps(runtime, new)] == [True, False, False]
    shown = " ".join(runtime.operate("runs", "show", new).split())
    assert "from step 2, with the results of that run's earlier steps" in shown


def steps(runtime: Runtime, run: str) -> list[dict[str, object]]:
    document = json.loads(runtime.operate("runs", "show", run, "--format", "json"))
    found: list[dict[str, object]] = document["steps"]
    return found


def test_a_rerun_after_the_failed_step_names_the_failure_that_is_reused(runtime: Runtime) -> None:
    failing.append("catalogue")
    run = call(runtime)
    runtime.work()

    oli = ConsoleClient.of(runtime, "oli")

    asked = words_of(oli.text(f"/e/test/runs/{run}/redeliver", step="3"))
    assert "Step 2 failed: its failure is reused too." in asked


def test_a_run_that_cannot_be_rerun_names_the_reason_beside_a_disabled_button(
    runtime: Runtime,
) -> None:
    run = call(runtime)
    runtime.work()
    runtime._runs.delete([run])  # noqa: SLF001  as the engine deletes it
    engine_of(runtime)

    oli = ConsoleClient.of(runtime, "oli")
    page = oli.text(f"/e/test/runs/{run}")
    response = oli.post(f"/e/test/runs/{run}/redeliver", step="1")

    assert '<button class="secondary" disabled aria-describedby="no-rerun">Re-run</button>' in page
    assert f"It can't be re-run here: the input of run {run} is no longer stored" in words_of(page)
    assert "Re-run from here" not in page
    assert response.status_code == 422


def test_tabs_are_links_that_need_no_script(runtime: Runtime) -> None:
    parent = call(runtime, "/v1/jobs/parent")
    runtime.work()
    oli = ConsoleClient.of(runtime, "oli")
    page = oli.text(f"/e/test/runs/{parent}")
    tabs = re.findall(rf'href="[^"]*/runs/{parent}(?:\?tab=(\w+))?"[^>]*>([^<]+)</a>', page)

    def shown(run: str, tab: str) -> str:
        return words_of(oli.text(f"/e/test/runs/{run}", tab=tab))

    (child,) = re.findall(r'href="[^"]*/runs/([0-9a-f-]{36})" title', oli.text(
        f"/e/test/runs/{parent}", tab="children"
    ))  # fmt: skip
    new = rerun(oli, child, 1)

    assert [text for _, text in tabs] == ["Timeline", "Input", "Output", "Children (1)", "Audit"]
    assert '"path": "/v1/jobs/"' in shown(child, "input")
    assert "v1/jobs" in shown(parent, "children")
    assert "No child runs." in shown(child, "children")
    assert "PEN-01" in shown(child, "output")
    assert "No audit events." in shown(parent, "audit")
    assert "oli re-ran" in shown(child, "audit")
    assert "oli re-ran" in shown(new, "audit")
    assert shown(parent, "odd") == shown(parent, "timeline")
