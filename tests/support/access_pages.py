"""A runtime with two consumers, for the tests of tokens, limits and settings in the console."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from penstock import Call, HttpTrigger, Pipeline, Rate, audit, hookimpl
from penstock.access import (
    consumers,
)
from penstock.db.engine import Engine
from penstock.testing import Runtime
from support.console import ConsoleClient, engine_of


def shop() -> SimpleNamespace:
    orders = Pipeline(
        "orders",
        version="1.2.0",
        trigger=HttpTrigger(api_key=True, rate=[Rate("2/minute"), Rate("900/hour", by="pipeline")]),
    )
    login = Pipeline("login", version="1.0.0", trigger=HttpTrigger(api_key=True, login=True))

    @orders.get("/")
    def show(call: Call) -> dict[str, bool]:
        return {}

    @login.post("/")
    def give(call: Call) -> dict[str, bool]:
        return {}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [orders, login]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Callable[..., Runtime]) -> Runtime:
    runtime = console_runtime(shop())
    for name in ("acme", "globex"):
        consumers.create_consumer(engine_of(runtime), "tester", name)
    return runtime


@pytest.fixture
def engine(runtime: Runtime) -> Engine:
    return engine_of(runtime)


@pytest.fixture
def oli(runtime: Runtime) -> ConsoleClient:
    return ConsoleClient.of(runtime, "oli")


def last(engine: Engine) -> tuple[str, str, str | None, str]:
    event = audit.events(engine, limit=1)[0]
    return event.actor, event.action, event.environment, event.subject
