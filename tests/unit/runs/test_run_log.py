"""What plugin code logs within a run is kept with the run, bounded and without secrets."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from support.console import ConsoleClient, console_runtime, words_of

from penstock import Call, HttpTrigger, Pipeline, hookimpl, logs, step
from penstock.db import run_log_lines
from penstock.db.run_tables import RunLogLineRow
from penstock.db.runs import purge
from penstock.logs.lines import as_json
from penstock.runs.ids import first_id, new_run_id
from penstock.runs.run_log import MAX_LINES, MAX_TEXT, RunLog
from penstock.testing import Runtime

__all__ = ["console_runtime"]

Make = Callable[..., Runtime]
KEY = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"


@step()
def pack(number: int) -> None:
    logging.getLogger("warehouse.packing").info("packed %s", number)


def offering() -> SimpleNamespace:
    shop = Pipeline("shop", version="1.0.0", trigger=HttpTrigger(api_key=True), sensitive=["card"])

    @shop.get("/")
    def show(call: Call) -> None:
        call.log.info("order stored", order=17)
        structlog.get_logger("warehouse.stock").warning("stock is low", card="4111111111111111")
        logging.getLogger("warehouse").error("sent with %s", KEY)
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
        ("warning", "warehouse.stock"),
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


def test_a_run_keeps_a_limited_number_of_lines_and_the_number_of_the_others(
    runtime: Runtime,
) -> None:
    run = runtime.client(token=False).get("/v1/shop/loud").headers["X-Run-Id"]

    runtime.flush()
    document = json.loads(runtime.operate("runs", "show", run, "--format", "json"))
    page = words_of(ConsoleClient.of(runtime, "vic").text(f"/e/test/runs/{run}"))

    assert (len(document["log"]), document["lines_left_out"]) == (MAX_LINES, 50)
    assert "50 further lines were not kept" in page
    assert "50 further lines were not kept" in runtime.operate("runs", "show", run)


def test_the_number_of_lines_left_out_grows_with_later_writes() -> None:
    engine = sa.create_engine("sqlite://")
    RunLogLineRow.table.create(engine)
    log, run = RunLog(lambda _: str), new_run_id()
    left_out = []
    for number in (MAX_LINES + 1, 0, 7):
        for _ in range(number):
            log.keep({"run": run, "pipeline": "v1/shop", "event": "line"})
        log.write(engine)
        with engine.connect() as connection:
            rows = run_log_lines.of_run(connection, run)
        left_out.append([row.left_out for row in rows if row.left_out is not None])

    assert left_out == [[1], [1], [8]]


def test_lines_that_no_longer_fit_into_the_queue_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.runs.run_log.MAX_QUEUED", 2)
    monkeypatch.setattr("penstock.runs.run_log.BATCH_SIZE", 1)

    assert written("a", "b", "c") == ["a", "b", "further lines of this run are not kept"]


def written(*events: str, clean: Callable[[str], str] = str, run: str = "") -> list[str]:
    """Return what is stored of lines with these events."""
    engine = sa.create_engine("sqlite://")
    RunLogLineRow.table.create(engine)
    log, own = RunLog(lambda _: clean), new_run_id()
    for event in events:
        log.keep({"run": run or own, "pipeline": "v1/shop", "event": event, "logger": "shop"})
    log.keep({"run": own, "pipeline": "v1/shop", "event": "last", "logger": "shop"})
    log.write(engine)
    with engine.connect() as connection:
        return [line.text for line in run_log_lines.of_run(connection, own)]


def test_a_line_is_limited_in_length() -> None:
    assert written("x" * 10 * MAX_TEXT) == ["x" * MAX_TEXT, "last"]


def test_a_secret_at_the_end_of_a_line_is_not_kept_in_part() -> None:
    secret = "secret-of-the-environment"

    stored = written("x" * (MAX_TEXT - 9) + secret, clean=lambda text: text.replace(secret, "***"))

    assert "secret" not in stored[0]


def test_values_that_no_database_stores_are_replaced() -> None:
    assert written("a\0b", "a\ud800b") == ["ab", "a\N{REPLACEMENT CHARACTER}b", "last"]


def test_a_line_that_cannot_be_written_does_not_stop_the_others() -> None:
    assert written("no run has this name", run="nightly") == ["last"]


def test_lines_outside_of_calls_belong_to_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr(logs, "_keep", kept.append)
    shown = io.StringIO()
    handler = logs.Handler(logs._Output(shown), as_json)  # noqa: SLF001  pytest has its own handlers

    with structlog.contextvars.bound_contextvars(run="nightly"):
        handler.emit(logging.LogRecord("shop", logging.WARNING, "", 0, "night begins", (), None))

    assert "night begins" in shown.getvalue()
    assert kept == []


def test_lines_of_durable_runs_are_kept_too(runtime: Runtime) -> None:
    run = runtime.client(token=False).post("/v1/shop/job", json={}).headers["X-Run-Id"]
    runtime.work()

    assert [line["text"] for line in logged(runtime, run)] == ["job under way"]


def test_lines_are_deleted_with_their_run(runtime: Runtime) -> None:
    run = runtime.client(token=False).get("/v1/shop/").headers["X-Run-Id"]
    assert logged(runtime, run)

    engine = runtime._engine  # noqa: SLF001  the kit shows no tables
    purge(engine, 1, first_id(time.time() + 60))

    with engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM run_log_lines").scalar()
        kept = connection.exec_driver_sql("SELECT count(*) FROM runs").scalar()
    assert (left, kept) == (0, 0)
