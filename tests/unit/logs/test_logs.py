"""The log: its formats, its levels, and the limit of lines that unauthenticated clients cause."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from penstock import Call, HttpTrigger, Pipeline, PipelineError, hookimpl, logs
from penstock.db.engine import open_engine, writing
from penstock.logs.throttle import LINES_PER_WINDOW, MAX_KINDS, WINDOW_S, LogThrottle
from penstock.settings import Settings
from penstock.testing import Runtime


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


SECRET = "pk_hidden"


def fail(secret: str) -> None:
    text = secret[::-1]
    raise ValueError(f"{len(text)} characters")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], form: str) -> None:
    logs.configure(Settings(log_format=form))
    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("x").exception("failed")
        logging.getLogger("y").exception("failed too")

    written = capsys.readouterr().err

    assert written.count("9 characters") == 2
    assert SECRET not in written
    assert SECRET[::-1] not in written


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_api_key_in_an_exception_of_plugin_code_is_not_written(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    key = "pk_test_ABCDEFGHIJKLMNOPQRSTUVWXYZ0123"
    logs.configure(Settings(log_format=form))
    try:
        int(key)
    except ValueError:
        structlog.get_logger("x").exception("failed")
        logging.getLogger("y").exception("failed too")

    written = capsys.readouterr().err

    assert written.count("invalid literal for int() with base 10: '***'") == 2
    assert key not in written


def test_json_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    structlog.get_logger("x").info("one\ntwo", detail="three\nfour")
    logging.getLogger("y").warning("from %s", "a library")

    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert (first["event"], first["level"]) == ("one\ntwo", "info")
    assert (second["event"], second["level"]) == ("from a library", "warning")


@pytest.mark.parametrize(
    ("level", "seen"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)]
)
def test_the_level_decides_what_is_written(
    capsys: pytest.CaptureFixture[str], level: str, seen: int
) -> None:
    logs.configure(Settings(log_format="json", log_level=level))
    logger = structlog.get_logger("x")
    logger.debug("a")
    logger.info("b")
    logger.warning("c")

    assert len(capsys.readouterr().err.splitlines()) == seen


class FakeLog:
    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def warning(self, event: str, *, number: int, **kind: str) -> None:
        self.lines.append((number, kind["address"]))


class TestLogThrottle:
    def test_a_few_lines_of_a_kind_are_allowed_in_a_minute_and_then_the_rest_is_counted(
        self,
    ) -> None:
        log = FakeLog()
        throttle = LogThrottle(log)

        assert [throttle.allow(1.0 + number, address="a") for number in range(50)] == [
            True
        ] * LINES_PER_WINDOW + [False] * (50 - LINES_PER_WINDOW)
        assert throttle.allow(2.0, address="b")
        assert log.lines == []
        assert [
            throttle.allow(1.0 + WINDOW_S, address="a") for _ in range(LINES_PER_WINDOW + 1)
        ] == [True] * LINES_PER_WINDOW + [False]
        assert log.lines == [(50 - LINES_PER_WINDOW, "a")]

    def test_expired_minutes_are_reported_without_another_call(self) -> None:
        log = FakeLog()
        throttle = LogThrottle(log)
        for address, begins in (("a", 0.0), ("b", 30.0), ("c", 0.0)):
            for _ in range(7 if address != "c" else LINES_PER_WINDOW):
                throttle.allow(begins, address=address)

        throttle.report_expired(WINDOW_S)
        throttle.report_expired(WINDOW_S)
        assert log.lines == [(7 - LINES_PER_WINDOW, "a")]
        throttle.report_expired(float("inf"))
        assert log.lines == [(7 - LINES_PER_WINDOW, "a"), (7 - LINES_PER_WINDOW, "b")]

    def test_kinds_above_the_limit_count_as_one(self) -> None:
        log = FakeLog()
        throttle = LogThrottle(log)

        passed = sum(throttle.allow(0.0, address=str(number)) for number in range(3 * MAX_KINDS))
        throttle.report_expired(WINDOW_S)

        assert (passed, log.lines) == (
            MAX_KINDS + LINES_PER_WINDOW,
            [(2 * MAX_KINDS - LINES_PER_WINDOW, "others")],
        )


def offering() -> SimpleNamespace:
    open_to_all = Pipeline("open", version="1.0.0", trigger=HttpTrigger())
    guarded = Pipeline("guarded", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @open_to_all.post("/")
    def take(call: Call, body: dict[str, int]) -> None:
        if "fail" in body:
            raise RuntimeError("on purpose")

    @guarded.post("/")
    def refuse(call: Call) -> None:
        raise PipelineError(409, "No")

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [open_to_all, guarded]

    return SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")
    ]


class TestUnauthenticatedClients:
    def test_can_not_flood_the_log_with_rejections_of_any_kind(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Runtime(
            tmp_path, offering(), policy="any", log_format="json", log_level="info"
        ) as runtime:
            client = runtime.anonymous()
            for number in range(50):
                address = {"REMOTE_ADDR": f"2001:db8::{number}"}
                client.post("/v1/guarded/", environ_overrides=address)
                client.post(
                    "/v1/guarded/",
                    headers={"X-API-Key": f"guess {number}"},
                    environ_overrides=address,
                )
                client.delete("/v1/guarded/", environ_overrides=address)
                client.post("/v1/open/", data=b"{", environ_overrides=address)
            client.post("/v1/guarded/", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
        lines = logged(capsys)

        calls = [line["problem"] for line in lines if line["event"] == "call"]
        kinds = ("credentials-missing", "invalid-api-key", "method-not-allowed", "body-malformed")
        assert [calls.count(kind) for kind in kinds] == [
            LINES_PER_WINDOW + 1,
            LINES_PER_WINDOW,
            LINES_PER_WINDOW,
            LINES_PER_WINDOW,
        ]
        left_out = [
            (line["problem"], line["address"], line["number"])
            for line in lines
            if line["event"] == "calls left out of the log"
        ]
        assert left_out == [(kind, "2001:db8::/64", 50 - LINES_PER_WINDOW) for kind in kinds]

    def test_rejections_of_consumers_and_failures_are_all_logged(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Runtime(
            tmp_path, offering(), policy="any", log_format="json", log_level="info"
        ) as runtime:
            acme = runtime.client("acme", token=False)
            for _ in range(20):
                acme.post("/v1/guarded/")
                runtime.anonymous().post("/v1/open/", json={"fail": 1})
        statuses = [line["status"] for line in logged(capsys) if line["event"] == "call"]

        assert (statuses.count(409), statuses.count(500)) == (20, 20)

    def test_the_setting_all_logs_every_call(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Runtime(
            tmp_path, offering(), policy="any", log_format="json", log_level="info", log_calls="all"
        ) as runtime:
            for _ in range(20):
                runtime.anonymous().post("/v1/guarded/")

        assert len([line for line in logged(capsys) if line["event"] == "call"]) == 20

    def test_are_counted_in_the_log_without_another_call(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("penstock.host.housekeeping.HOUSEKEEPING_INTERVAL_S", 0.0)
        monkeypatch.setattr("penstock.logs.throttle.WINDOW_S", 0.1)
        monkeypatch.setattr("penstock.logs.throttle.LINES_PER_WINDOW", 0)
        with Runtime(
            tmp_path, offering(), policy="any", log_format="json", log_level="info"
        ) as runtime:
            runtime.anonymous().post("/v1/guarded/")
            for _ in range(300):
                if any(line["event"] == "calls left out of the log" for line in logged(capsys)):
                    break
                time.sleep(0.05)
            else:
                pytest.fail("the number of dropped lines was not logged")


def test_no_error_of_the_database_quotes_the_written_values(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with writing(engine) as connection:
        connection.execute(sa.text("CREATE TABLE kept (name TEXT NOT NULL, body TEXT)"))
    with pytest.raises(sa.exc.IntegrityError) as raised, writing(engine) as connection:
        connection.execute(sa.text("INSERT INTO kept VALUES (NULL, :body)"), {"body": "c4n4ry"})
    engine.dispose()

    assert "c4n4ry" not in str(raised.value)
