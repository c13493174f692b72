"""The page Explain: what a gate requires, and whether it accepts a call that is described."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support.console import ConsoleClient, console_runtime, engine_of, words_of

from penstock import Call, HttpTrigger, Pipeline, Schedule, hookimpl
from penstock.access import api_keys
from penstock.testing import Runtime

__all__ = ["console_runtime"]

Make = Callable[..., Runtime]


def offering() -> SimpleNamespace:
    shop = Pipeline("shop", version="1.0.0", trigger=HttpTrigger(api_key=True, internal=True))
    nightly = Pipeline("nightly", version="1.0.0", trigger=Schedule("0 3 * * *"))

    @shop.get("/")
    def show(call: Call) -> None:
        """Do nothing."""

    nightly.post("/")(lambda call: None)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [shop, nightly]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Make) -> Runtime:
    runtime = console_runtime(offering(), policy="api-key")
    runtime.client(token=False, pipelines=())
    return runtime


def test_the_gate_of_each_listener_is_shown_with_its_sources(runtime: Runtime) -> None:
    text = words_of(ConsoleClient.of(runtime, "vic").text("/e/test/explain", pipeline="shop"))

    assert "Gate of v1/shop in test" in text
    assert "Gate of v1/shop in test, internal listener" in text
    assert "policy api-key, version 2 and api_key= on its HttpTrigger" in text


def test_a_rejected_call_names_the_command_and_the_page_of_the_smallest_change(
    runtime: Runtime,
) -> None:
    key = api_keys.list_keys(engine_of(runtime))[0]

    page = ConsoleClient.of(runtime, "vic").text(
        "/e/test/explain", pipeline="v1/shop", consumer="acme", key=key.id
    )

    assert "rejects this call: 403 not-associated" in words_of(page)
    assert "penstock consumer associate acme v1/shop --env test" in page
    assert 'href="/-/console/consumers/acme/pipelines">Open its access</a>' in page
    assert f'<option selected value="{key.id}">{key.shown_as} (usable)</option>' in page


def test_a_call_that_passes_needs_no_change_and_a_path_without_gate_is_a_404(
    runtime: Runtime,
) -> None:
    runtime.operate("consumer", "associate", "acme", "v1/shop", "--env", "test")
    key, vic = api_keys.list_keys(engine_of(runtime))[0], ConsoleClient.of(runtime, "vic")

    passes = vic.text("/e/test/explain", pipeline="shop", consumer="acme", key=key.id)
    nightly = vic.text("/e/test/explain", pipeline="nightly", consumer="acme", key=key.id)

    assert "v1/shop in test accepts this call" in words_of(passes)
    assert "Smallest change" not in passes
    assert "rejects this call: 404 not-found" in words_of(nightly)


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("pipeline", {"pipeline": "shpo"}),
        ("consumer", {"pipeline": "shop", "consumer": "acmee"}),
        ("consumer", {"pipeline": "shop", "token": "valid"}),
        ("key", {"pipeline": "shop", "consumer": "acme", "key": "abcd"}),
        ("address", {"pipeline": "shop", "address": "banana"}),
        ("scope", {"pipeline": "shop", "consumer": "acme", "scope": 'a"b'}),
        ("scope", {"pipeline": "shop", "scope": "a", "token": "none"}),
        ("listener", {"pipeline": "shop", "listener": "sideways"}),
    ],
)
def test_a_fault_is_shown_at_its_field(runtime: Runtime, field: str, query: dict[str, str]) -> None:
    answer = ConsoleClient.of(runtime, "vic").get("/e/test/explain", **query)

    assert (answer.status_code, f'id="e-{field}"' in answer.text) == (422, True)


def test_no_field_takes_a_key_itself(runtime: Runtime) -> None:
    page = ConsoleClient.of(runtime, "vic").text("/e/test/explain", consumer="acme")

    field = re.search(r"<(select|input)[^>]* name=\"key\"", page)
    assert field is not None
    assert field[1] == "select"
