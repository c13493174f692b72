"""Levels of single plugins and loggers, on standard error and in the lines kept with a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import structlog

from penstock import Call, HttpTrigger, Pipeline, hookimpl, logs
from penstock.errors import BadSetting
from penstock.logs import levels
from penstock.settings import Settings
from penstock.testing import Runtime

Start = Callable[..., Runtime]


@pytest.fixture(autouse=True)
def usual_levels() -> Iterator[None]:
    yield
    levels.configure("info", ())


def plugin(name: str) -> SimpleNamespace:
    pipeline = Pipeline(f"{name}-calls", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @pipeline.get("/")
    def show(call: Call) -> None:
        call.log.debug("fine", of=name)
        call.log.info("plain", of=name)
        structlog.get_logger().debug("unnamed", of=name)
        structlog.get_logger("warehouse.stock").debug("stock", of=name)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__=name, penstock_pipelines=penstock_pipelines)


def test_a_plugin_and_a_logger_have_levels_of_their_own(
    penstock_runtime: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = penstock_runtime(
        plugin("shop"),
        plugin("bank"),
        policy="api-key",
        log_format="json",
        log_level="warning",
        log_levels=(("shop", "debug"), ("warehouse", "debug")),
    )
    client = runtime.client(token=False)
    runs = {name: client.get(f"/v1/{name}-calls/").headers["X-Run-Id"] for name in ("shop", "bank")}
    runtime.flush()

    def kept(name: str) -> list[str]:
        shown = runtime.operate("runs", "show", runs[name], "--format", "json")
        return [line["text"] for line in json.loads(shown)["log"]]

    written = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line[:1] == "{"]

    assert kept("shop") == ["fine of=shop", "plain of=shop", "unnamed of=shop", "stock of=shop"]
    assert kept("bank") == ["stock of=bank"]
    assert [line["event"] for line in written if line.get("of") == "bank"] == ["stock"]
    assert [line["event"] for line in written if line.get("of") == "shop"] == [
        "fine",
        "plain",
        "unnamed",
        "stock",
    ]


def test_a_plugin_can_be_quieter_than_the_others(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        plugin("shop"), policy="api-key", log_level="info", log_levels=(("shop", "error"),)
    )
    run = runtime.client(token=False).get("/v1/shop-calls/").headers["X-Run-Id"]
    runtime.flush()

    assert json.loads(runtime.operate("runs", "show", run, "--format", "json"))["log"] == []


def test_loggers_of_the_standard_library_have_these_levels_too() -> None:
    levels.configure("info", [("shop", "debug"), ("shop.loud", "error"), ("json", "debug")])
    levels.register_plugin_loggers({"shop": ["shop_module"]})

    def level(name: str) -> int:
        logger = logs.Logger(name)
        logger.parent = logging.getLogger()
        return logger.getEffectiveLevel()

    assert level("shop.stock") == level("shop_module.parts") == level("json.tool") == logging.DEBUG
    assert level("shop.loud.very") == logging.ERROR
    assert level("shopping") >= logging.INFO
    assert levels.lowest() == logging.DEBUG


@pytest.mark.parametrize("text", ["shop", "shop=loud", "=debug", "shop=debug,bank"])
def test_a_wrong_level_is_rejected_in_one_line(text: str) -> None:
    with pytest.raises(BadSetting, match="PENSTOCK_LOG_LEVELS must be like shop=debug,"):
        Settings.from_env({"PENSTOCK_LOG_LEVELS": text})


def test_levels_are_read_in_any_case() -> None:
    settings = Settings.from_env({"PENSTOCK_LOG_LEVELS": "shop=DEBUG, bank=warning"})

    assert settings.log_levels == (("shop", "debug"), ("bank", "warning"))
