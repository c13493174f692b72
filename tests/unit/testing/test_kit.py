"""The kit for plugin authors' tests does what the README says, and its errors say what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from penstock import Call, HttpTrigger, Pipeline, Schedule, hookimpl, step
from penstock.contracts.triggers import HttpTrigger as Trigger
from penstock.errors import UnknownName, UsageError
from penstock.testing import ChildRecord, RunRecord, Runtime, StartRuntime, a_call


@step()
def count() -> int:
    return 2


def a_pipeline(name: str, *triggers: Trigger | Schedule, version: str = "1.0.0") -> Pipeline:
    pipeline = Pipeline(name, version=version, trigger=triggers)

    @pipeline.post("/")
    def answer(call: Call) -> int:
        return count()

    @pipeline.post("/later", mode="durable")
    def later(call: Call) -> int:
        return count()

    return pipeline


def offering(*pipelines: Pipeline) -> SimpleNamespace:
    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return list(pipelines)

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


NIGHTLY = Schedule("0 6 * * *")


@pytest.fixture
def shop(penstock_runtime: StartRuntime) -> Runtime:
    api_key = HttpTrigger(api_key=True)
    pipelines = [
        a_pipeline("orders", api_key),
        a_pipeline("report", NIGHTLY),
        a_pipeline("twice", api_key, NIGHTLY),
    ]
    return penstock_runtime(
        offering(*pipelines, a_pipeline("twice", NIGHTLY, version="2.0.0")), policy="api-key"
    )


@pytest.mark.parametrize(
    ("name", "identifier"),
    [("report", "v1/report"), ("v1/report", "v1/report"), ("v2/twice", "v2/twice")],
)
def test_a_tick_starts_the_run_of_a_schedule_by_name_or_by_id(
    shop: Runtime, name: str, identifier: str
) -> None:
    run = shop.tick(name)

    assert shop.work() == 1
    (record,) = shop.runs(pipeline=name)
    assert (record["id"], record["pipeline"], record["status"], record["consumer"]) == (
        run,
        identifier,
        "succeeded",
        None,
    )
    assert [(item.name, item.attempts[0].error) for item in record["steps"]] == [("count", "")]


def test_a_tick_that_the_clock_would_skip_is_none(shop: Runtime) -> None:
    shop.operate("pipeline", "disable", "report", "--env", "test")

    assert (shop.tick("report"), shop.work()) == (None, 0)


def test_runs_are_found_by_pipeline_consumer_status_request_and_time(shop: Runtime) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    shop.client("acme", token=False).post("/v1/orders/", headers={"X-Request-Id": "request-77"})
    shop.client("other", pipelines="twice", token=False).post("/v1/twice/later")
    shop.work()

    def pipelines(**filters: Any) -> list[str]:
        return [run["pipeline"] for run in shop.runs(**filters)]

    assert pipelines() == ["v1/twice", "v1/orders"]
    assert (
        pipelines(pipeline="orders")
        == pipelines(pipeline="v1/orders")
        == pipelines(consumer="acme")
        == pipelines(request_id="request-77")
        == ["v1/orders"]
    )
    assert pipelines(status="succeeded", limit=1) == ["v1/twice"]
    assert (
        pipelines(since=began),
        pipelines(since=datetime.now(UTC) + timedelta(minutes=1)),
        pipelines(status="failed"),
    ) == (pipelines(), [], [])


def test_records_have_the_keys_that_their_type_names(shop: Runtime) -> None:
    client = shop.client(token=False)
    client.post("/v1/orders/")
    client.post("/v1/orders/later")
    shop.work()

    durable, inline = shop.runs()
    assert set(durable) == set(get_type_hints(RunRecord))
    assert set(inline) == RunRecord.__required_keys__
    assert all(set(child) == set(get_type_hints(ChildRecord)) for child in durable["children"])


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (
            lambda shop: shop.tick("reprot"),
            UnknownName,
            "no pipeline is named 'reprot'; did you mean 'report'?",
        ),
        (
            lambda shop: shop.tick("twice"),
            UsageError,
            "there are several pipelines named 'twice': write v1/twice or v2/twice",
        ),
        (
            lambda shop: shop.tick("orders"),
            UsageError,
            'v1/orders has no schedule: give it trigger=Schedule("0 6 * * *")',
        ),
        (
            lambda shop: shop.tick("report", datetime(2026, 1, 1)),  # noqa: DTZ001  the point
            UsageError,
            "a moment needs a time zone",
        ),
        (
            lambda shop: (shop.policy("jwt-api-key"), shop.tick("v1/twice")),
            UsageError,
            "set jwt=True on its HttpTrigger",
        ),
        (
            lambda shop: shop.runs(pipeline="nope"),
            UnknownName,
            "no pipeline is named 'nope'; give the runtime the plugin that offers it",
        ),
        (lambda shop: shop.runs(status="sucess"), UnknownName, "did you mean 'succeeded'?"),
        (lambda shop: shop.runs(consumer="unknown"), UnknownName, "no consumer is named 'unknown'"),
        (lambda shop: shop.policy("api_key"), UnknownName, "did you mean 'api-key'?"),
        (lambda shop: shop.client(pipelines=["ordres"]), UnknownName, "did you mean 'orders'?"),
        (lambda shop: shop.designate("logn"), UnknownName, "no pipeline is named 'logn'"),
        (lambda shop: a_call(parms={}), UnknownName, "did you mean 'params'?"),
        (
            lambda shop: Runtime(Path("/nowhere"), "shop"),
            TypeError,
            "'shop' is no plugin: import the module and give that",
        ),
        (
            lambda shop: Runtime(Path("/nowhere"), log_call="all"),
            UnknownName,
            "no setting is named 'log_call'; did you mean 'log_calls'?",
        ),
    ],
)
def test_a_wrong_argument_raises_an_error_that_names_the_fix(
    shop: Runtime, wrong: Callable[[Runtime], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as raised:
        wrong(shop)

    assert message in str(raised.value)


def test_an_unknown_pipeline_is_reported_with_the_problems_of_plugins(
    penstock_runtime: StartRuntime,
) -> None:
    def penstock_pipelines() -> list[Pipeline]:
        return []

    runtime = penstock_runtime(
        SimpleNamespace(__name__="broken", penstock_pipelines=penstock_pipelines), policy="any"
    )

    with pytest.raises(
        UnknownName, match="penstock_pipelines is not marked as a hook; put @hookimpl above it"
    ):
        runtime.tick("report")


def test_a_client_s_token_needs_an_issuer(penstock_runtime: StartRuntime) -> None:
    runtime = penstock_runtime(
        offering(a_pipeline("orders", HttpTrigger(api_key=True))),
        policy="api-key",
        plugins_deny=frozenset({"penstock_jwt"}),
    )

    with pytest.raises(UsageError, match=r"0 plugins issue tokens.*client\(token=False\)"):
        runtime.client()
    assert runtime.client(token=False).post("/v1/orders/").json == 2
