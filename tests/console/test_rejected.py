"""The page of rejected calls answers who was rejected and why, and what would let a call pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support.console import PASSWORD, ConsoleClient, console_runtime

from penstock import Call, HttpTrigger, Pipeline, hookimpl
from penstock.testing import Runtime

__all__ = ["console_runtime"]

Make = Callable[..., Runtime]


def offering() -> SimpleNamespace:
    shop = Pipeline("shop", version="1.0.0", trigger=HttpTrigger(api_key=True))
    private = Pipeline("private", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @shop.get("/")
    @private.get("/")
    def show(call: Call) -> None:
        """Do nothing."""

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [shop, private]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Make) -> Runtime:
    return console_runtime(offering(), policy="api-key")


def rejected(runtime: Runtime, consumer: str = "acme") -> str:
    """Return the id of a call that is rejected because its consumer has no access."""
    answer = runtime.client(consumer, token=False, pipelines="shop").get("/v1/private/")
    runtime.flush()
    assert answer.json is not None
    return str(answer.json["run"])


def test_the_id_of_a_reply_leads_to_the_reason_and_the_change_that_helps(runtime: Runtime) -> None:
    run, console = rejected(runtime), ConsoleClient.of(runtime, "vic")

    found = console.get("/e/test/runs", id=run)
    while found.status_code in {302, 303}:
        found = console.http.get(found.headers["Location"])

    assert found.status_code == 200
    for text in (
        "403 not-associated",
        ">acme</a>",
        ">Show acme</a>",
        "penstock consumer associate acme v1/private --env test",
        run,
    ):
        assert text in found.text


def test_the_menu_counts_calls_of_known_consumers(runtime: Runtime) -> None:
    for _ in range(2):
        rejected(runtime)
    runtime.anonymous().get("/v1/shop/")
    runtime.flush()

    page = ConsoleClient.of(runtime, "vic").text("/e/test/rejected")

    count = re.search(r"(\d+)\W[^>]*calls of known consumers rejected in the last hour", page)
    assert count is not None
    assert count[1] == "2"


def test_a_call_that_would_pass_by_now_needs_no_change(runtime: Runtime) -> None:
    run, console = rejected(runtime), ConsoleClient.of(runtime, "vic")
    runtime.operate("consumer", "associate", "acme", "v1/private", "--env", "test")

    page = console.text(f"/e/test/rejected/{run}")

    assert "The same call passes now" in page
    assert "penstock consumer associate" not in page


def test_the_list_is_filtered_by_its_facets_and_its_chart_counts_all(runtime: Runtime) -> None:
    first, second = rejected(runtime), rejected(runtime, "globex")
    runtime.anonymous().get("/v1/shop/")
    runtime.flush()
    console = ConsoleClient.of(runtime, "vic")

    page = console.text("/e/test/rejected")
    of_globex = console.text("/e/test/rejected", consumer="globex")

    assert first in page
    assert second in page
    assert "credentials missing" in page  # in the chart's table
    assert first not in of_globex
    assert second in of_globex
    assert "Remove filter" in of_globex


def test_a_consumer_that_does_not_exist_is_a_fault_of_its_field(runtime: Runtime) -> None:
    answer = ConsoleClient.of(runtime, "vic").get("/e/test/rejected", consumer="acmee")

    assert (answer.status_code, 'id="e-consumer"' in answer.text) == (422, True)


def test_a_call_of_another_environment_is_shown_to_none_who_has_no_role_there(
    runtime: Runtime,
) -> None:
    run = rejected(runtime)
    words = ("user", "create", "pat", "--role", "viewer", "--env", "prod")
    runtime.operate(*words, given=PASSWORD)
    console = ConsoleClient.of(runtime, "pat")

    assert console.get(f"/e/test/rejected/{run}").status_code in {403, 404}
    assert console.get(f"/e/prod/rejected/{run}").status_code in {403, 404}
    assert console.get(f"/runs/{run}").status_code in {403, 404}
    assert run not in console.text("/e/prod/rejected")
