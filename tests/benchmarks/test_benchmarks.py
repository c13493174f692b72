"""`make bench` measures what each feature costs a call: none is left out, and each row is of
calls that succeed."""

from __future__ import annotations

import inspect
import shutil

import pytest
from benchmarks import features

from penstock import HttpTrigger, Pipeline

NO_COST = {
    "login",
    "external",
    "internal",
    "max_body",
    "timeout",
    "name",
    "version",
    "trigger",
    "summary",
    "forward_token",
}
ELSEWHERE = {"durable"}  # benchmarks/durable.py
OF_OPERATORS = {"redis", "limits", "networks", "headers"}
OF_TOKENS = {"token", "token seen first", "outside token", "outside token seen first"}
OF_RUNS = {"record", "one step", "one step with a timeout"}
OF_BODIES = {
    "form",
    "xml",
    "pydantic",
    "typed parameters",
    "gzip in",
    "gzip out",
    "variables and secrets",
}


@pytest.mark.parametrize("kind", [HttpTrigger, Pipeline])
def test_every_option_that_costs_a_call_something_is_measured(kind: type) -> None:
    measured = {
        option for feature in features.FEATURES for option in (*feature.trigger, *feature.declared)
    }

    assert set(inspect.signature(kind).parameters) - NO_COST - ELSEWHERE <= measured


def test_so_is_what_operators_set_and_what_callers_send() -> None:
    assert {feature.place for feature in features.FEATURES} >= OF_OPERATORS
    assert {feature.name for feature in features.FEATURES} >= OF_TOKENS | OF_BODIES | OF_RUNS


def test_each_row_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(features, "ROUNDS", 1)
    monkeypatch.setattr(features, "CALLS", 2)

    features.main()

    rows = {line[:26].strip() for line in capsys.readouterr().out.splitlines()}
    measured = {
        feature.name
        for feature in features.FEATURES
        if feature.place != "redis" or shutil.which("redis-server")
    }
    assert measured <= rows
