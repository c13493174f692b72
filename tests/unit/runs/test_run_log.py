"""What plugin code logs within a run is kept with the run, bounded and without secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from support.console import ConsoleClient, console_runtime, words_of

from penstock import Call, HttpTrigger, Pipeline, hookimpl, step
from penstock.runs.run_log import MAX_LINES, MAX_TEXT, RunLog
from penstock.testing import Runtime

__all__ = ["console_runtime"]

Make = Callable[..., Runtime]
KEY = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"


@step()
def pack(number: int) -> None:
    logging.getLogger("shop.packing").info("packed %s", number)


def offering() -> SimpleNamespace:
    shop = Pipeline("shop", version="1.0.0", trigger=HttpTrigger(api_key=True), sensitive=["card"])

    @shop.get("/")
    def show(call: Call) -> None:
        call.log.info("order stored", order=17)
        structlog.get_logger("shop.stock").warning("stock is low", card="4111111111111111")
        logging.getLogger("shop").error("sent with %s", KEY)
        pack(3)

    @shop.get("/loud")
    def loud(call: Call) -> None:
        for number in range(MAX_LINES + 50):
            call.log.info("line", number=number)

    @shop.post("/job", mode="durable")
    def job(call: Call) -> None:
        call.log.info("job under way")

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [shop]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Make) -> Runtime:
    return console_runtime(offering(), policy="api-key")


def logged(runtime: Runtime, run: str) -> list[dict[str, Any]]:
    runtime.flush()
    document = json.loads(runtime.operate("runs", "show", run, "--format", "json"))
    lines: list[dict[str, Any]] = document["log"]
    return lines


def test_lines_of_call_log_structlog_and_logging_are_kept_with_the_run(runtime: Runtime) -> None:
    client = runtime.client(token=False)
    run, other = (client.get("/v1/shop/").headers["X-Run-Id"] for _ in range(2))

    lines = logged(runtime, run)

    assert [(line["level"], line["logger"]) for line in lines[:2]] == [
        ("info", "pipeline.shop"),
        ("warning", "shop.stock"),
    ]
    assert lines[0]["text"] == "order stored order=17"
    assert len(lines) == len(logged(runtime, other))
    page = words_of(ConsoleClient.of(runtime, "vic").text(f"/e/test/runs/{run}"))
    assert "order stored order=17" in page
    assert "order stored order=17" in runtime.operate("runs", "show", run)


def test_secrets_and_sensitive_values_are_not_kept(runtime: Runtime) -> None:
    run = runtime.client(token=False).get("/v1/shop/").headers["X-Run-Id"]

    text = json.dumps(logged(runtime, run))

    assert "4111111111111111" not in text
    assert "AbCdEfGhIjKl" not in text


def test_a_run_keeps_a_limited_number_of_lines_and_says_so(runtime: Runtime) -> None:
    run = runtime.client(token=False).get("/v1/shop/loud").headers["X-Run-Id"]

    lines = logged(runtime, run)

    assert len(lines) == MAX_LINES + 1
    assert lines[-1]["text"] == "further lines of this run are not kept"


def test_a_line_is_limited_in_length() -> None:
    log = RunLog(lambda _: lambda text: text)

    log.keep({"run": "r", "pipeline": "v1/shop", "event": "x" * 10 * MAX_TEXT, "level": "info"})

    ((_, line),) = log._queued  # noqa: SLF001  what waits to be written
    assert len(line.text) == MAX_TEXT


def test_lines_of_durable_runs_are_kept_too(runtime: Runtime) -> None:
    run = runtime.client(token=False).post("/v1/shop/job", json={}).headers["X-Run-Id"]
    runtime.work()

    assert [line["text"] for line in logged(runtime, run)] == ["job under way"]


def test_lines_are_deleted_with_their_run(runtime: Runtime) -> None:
    run = runtime.client(token=False).get("/v1/shop/").headers["X-Run-Id"]
    assert logged(runtime, run)

    runtime.operate("runs", "purge", "--env", "test", "--older-than", "1s", "--yes")

    engine = runtime._engine  # noqa: SLF001  the kit shows no tables
    with engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM run_log_lines").scalar()
        kept = connection.exec_driver_sql("SELECT count(*) FROM runs").scalar()
    assert (left == 0) == (kept == 0)
