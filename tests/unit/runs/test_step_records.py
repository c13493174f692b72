"""Labels of steps, their running attempts, and those that a takeover interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from penstock import Call, HttpTrigger, Pipeline, Retry, call_pipeline, gather, hookimpl, step
from penstock.contracts.masks import HIDDEN
from penstock.runs.interrupts import EngineUnavailable
from penstock.runs.step_records import MAX_LABEL_LENGTH, new_record, redact_step
from penstock.testing import Runtime

Start = Callable[..., Runtime]
KEY = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"


def label_of(made: Any, *args: object, clean: Callable[[str], str] = str, **more: object) -> str:
    record = new_record(made, args, more, 0.0)
    redact_step(record, clean)
    assert record.parameter == ""
    return record.label


@step()
def plain(number: object, other: object = None) -> None: ...


class TestLabels:
    @pytest.mark.parametrize(
        ("argument", "label"),
        [
            (17, "17"),
            (UUID(int=17), "00000000-0000-0000-0000-000000000011"),
            (Decimal("1.50"), "1.50"),
            ("INV-17", ""),
            (1.5, ""),
            (True, ""),
            ({"card": "4111"}, ""),
            (["a"], ""),
            (None, ""),
            (b"bytes", ""),
        ],
    )
    def test_the_first_argument_is_the_label_if_it_identifies_something(
        self, argument: object, label: str
    ) -> None:
        assert label_of(plain, argument) == label_of(plain, number=argument) == label
        assert label_of(plain, other=argument) == ""

    def test_a_text_names_arguments_and_a_function_gets_them(self) -> None:
        @step(label="order {number} of {other}")
        def named(number: int, other: str = "acme") -> None: ...

        @step(label=lambda number, other: f"{number + 1}/{other}")
        def computed(number: int, other: str) -> None: ...

        @step(label="")
        def silent(number: int) -> None: ...

        assert label_of(named, 3) == "order 3 of acme"
        assert label_of(computed, 3, "b") == "4/b"
        assert label_of(silent, 3) == ""

    def test_a_label_is_one_line_of_limited_length(self) -> None:
        @step(label="{text}")
        def named(text: str) -> None: ...

        assert label_of(named, "two\nlines \x1b[31m") == "two lines [31m"
        assert label_of(named, "x" * 5000) == "x" * (MAX_LABEL_LENGTH - 1) + "…"

    def test_secrets_and_values_of_sensitive_names_are_not_in_a_label(self) -> None:
        @step()
        def login(password: str) -> None: ...

        @step(label="{user} with {password}")
        def enter(user: str, password: str) -> None: ...

        def clean(text: str) -> str:
            return text.replace("hush-hush", "***").replace("card=x", "card=***")

        @step()
        def pay(card: int) -> None: ...

        @step(label="{text}")
        def named(text: str) -> None: ...

        assert label_of(named, KEY) == HIDDEN
        assert label_of(enter, "ann", "hunter2") == f"ann with {HIDDEN}"
        assert label_of(named, "a hush-hush b", clean=clean) == "a *** b"
        assert label_of(pay, 4111111111111111, clean=clean) == HIDDEN

        @step(label="{user} with {card[0]}")
        def charge(user: str, card: list[str]) -> None: ...

        assert label_of(charge, "ann", ["4111"], clean=clean) == HIDDEN

    def test_a_label_never_fails_its_step(self) -> None:
        class Odd(int):
            def __str__(self) -> str:
                raise RuntimeError

        @step(label="{nothing.there}")
        def named(number: int) -> None: ...

        @step(label=lambda number: 1 // 0)
        def computed(number: int) -> None: ...

        assert label_of(plain, Odd(1)) == ""
        assert label_of(named, 1) == label_of(computed, 1) == ""

    @pytest.mark.parametrize("label", [3, True, ["a"]])
    def test_a_label_that_is_neither_text_nor_function_is_rejected(self, label: Any) -> None:
        with pytest.raises(TypeError, match="give a text, or a function of the arguments"):
            step(label=label)


def offering(*handlers: Callable[..., Any], mode: str = "durable") -> SimpleNamespace:
    shop = Pipeline(
        "shop", version="1.0.0", trigger=HttpTrigger(api_key=True), sensitive=["card", "iban"]
    )
    for handler in handlers:
        shop.post(f"/{handler.__name__}", mode=mode)(handler)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [shop]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


def call(runtime: Runtime, name: str) -> str:
    return str(runtime.client(token=False).post(f"/v1/shop/{name}").headers["X-Run-Id"])


def shown(runtime: Runtime, run: str) -> dict[str, Any]:
    runtime.flush()
    document: dict[str, Any] = json.loads(runtime.operate("runs", "show", run, "--format", "json"))
    return document


@step(label="to {iban}")
def pay(iban: str) -> None: ...


@step(label="{sku}")
def pack(sku: str) -> str:
    return sku


@pytest.mark.parametrize("mode", ["inline", "durable"])
def test_labels_are_stored_redacted_and_shown(penstock_runtime: Start, mode: str) -> None:
    def handler(call: Call) -> None:
        pay("PT50 0002 0123")
        gather(partial(pack, "PEN-01"), partial(pack, sku=f"with {KEY}"))

    runtime = penstock_runtime(offering(handler, mode=mode), policy="api-key")
    run = call(runtime, "handler")
    runtime.work()

    document = shown(runtime, run)

    assert [item["label"] for item in document["steps"]] == ["***", "PEN-01", "with ***"]
    assert not {"parameter", "running", "copied"} & set(document["steps"][0])
    assert "pack PEN-01" in runtime.operate("runs", "show", run)
    assert "0002" not in json.dumps(document)


class TestRunningSteps:
    def test_a_step_is_shown_while_it_runs_with_its_failed_attempts(
        self, penstock_runtime: Start
    ) -> None:
        seen: list[dict[str, Any]] = []
        runtimes: list[Runtime] = []

        @step(retry=Retry(attempts=2, backoff=0.001), label="{name}")
        def download(name: str) -> None:
            seen.append(shown(runtimes[0], runs[0]))
            if len(seen) == 1:
                raise ConnectionError(f"away: {KEY}")

        def handler(call: Call) -> None:
            pack("A")
            download("catalogue")

        runtimes.append(penstock_runtime(offering(handler), policy="api-key"))
        runs = [call(runtimes[0], "handler")]
        runtimes[0].work()
        over = shown(runtimes[0], runs[0])

        running = seen[1]["steps"][1]
        assert [item["name"] for item in seen[0]["steps"]] == ["pack", "download"]
        assert (running["running"], running["label"], running["number"]) == (True, "catalogue", 2)
        assert [item.get("error", "") for item in running["attempts"]] == [
            "ConnectionError: away: ***",
            "",
        ]
        assert [item.get("running", False) for item in over["steps"]] == [False, False]
        assert len(over["steps"][1]["attempts"]) == 2

    def test_a_wait_for_another_pipeline_is_shown_while_it_lasts(
        self, penstock_runtime: Start
    ) -> None:
        names: list[list[str]] = []

        def child(call: Call) -> None: ...

        def handler(call: Call) -> None:
            call_pipeline("shop", path="/child", wait=False)

        runtime = penstock_runtime(offering(handler, child), policy="api-key")
        run = call(runtime, "handler")
        runtime.work()
        names.append([item["name"] for item in shown(runtime, run)["steps"]])

        assert names == [["call_pipeline v1/shop"]]

    def test_an_attempt_that_a_takeover_interrupted_is_kept(self, penstock_runtime: Start) -> None:
        tried: list[str] = []

        @step(retry=Retry(attempts=2, backoff=0.001), label="{name}")
        def download(name: str) -> str:
            tried.append(name)
            if len(tried) == 1:
                raise ConnectionError("away")
            if len(tried) == 2:
                raise EngineUnavailable("as if the worker ended")
            return name

        def handler(call: Call) -> str:
            pack("A")
            return download("catalogue")

        runtime = penstock_runtime(offering(handler), policy="api-key")
        run = call(runtime, "handler")
        with pytest.raises(EngineUnavailable):
            runtime.work()
        runtime._runs.requeue(run, "", "")  # noqa: SLF001  as another worker does
        between = shown(runtime, run)
        text = runtime.operate("runs", "show", run)
        runtime.work()
        over = shown(runtime, run)

        def outcomes(document: dict[str, Any]) -> list[str]:
            return [
                "interrupted" if item.get("interrupted") else item.get("error", "")
                for item in document["steps"][1]["attempts"]
            ]

        assert outcomes(between) == ["ConnectionError: away", "interrupted"]
        assert "running" not in between["steps"][1]
        assert "ConnectionError: away; interrupted" in " ".join(
            text.replace("catalogue", "").split()
        )
        assert outcomes(over) == ["ConnectionError: away", "interrupted", ""]
        assert (over["status"], tried) == ("succeeded", ["catalogue"] * 3)
        assert [item["label"] for item in over["steps"]] == ["A", "catalogue"]

    def test_a_run_that_ends_without_its_step_shows_it_as_interrupted(
        self, penstock_runtime: Start
    ) -> None:
        @step()
        def download(name: str) -> str:
            raise EngineUnavailable("as if the worker ended")

        def handler(call: Call) -> str:
            return download("catalogue")

        runtime = penstock_runtime(offering(handler), policy="api-key")
        run = call(runtime, "handler")
        with pytest.raises(EngineUnavailable):
            runtime.work()
        runtime.operate("runs", "cancel", run)

        document = shown(runtime, run)

        assert document["status"] == "cancelled"
        assert document["steps"][0]["attempts"][0]["interrupted"] is True
        assert "interrupted" in runtime.operate("runs", "show", run)
