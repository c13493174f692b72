"""Declarations of pipelines: converted once, and every wrong option reported with its fix."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from penstock import Cors, Durable, HttpTrigger, Rate, Retry, Schedule
from penstock.contracts.pipeline import Route


def test_one_text_or_several_become_a_set_or_a_tuple() -> None:
    trigger = HttpTrigger(
        jwt=True,
        scopes="orders",
        rate=Rate("1/second"),
        allow="192.0.2.0/24",
        deny=iter(["192.0.2.7", "192.0.2.8"]),
    )

    assert (trigger.scopes, trigger.rate, trigger.allow, trigger.deny) == (
        frozenset({"orders"}),
        (Rate("1/second"),),
        ("192.0.2.0/24",),
        ("192.0.2.7", "192.0.2.8"),
    )
    assert list(trigger.problems()) == []


def test_a_declaration_is_frozen_compared_by_value_and_can_be_copied() -> None:
    trigger = HttpTrigger(jwt=True, scopes=["a"], cors=Cors("https://shop.example"))

    with pytest.raises(FrozenInstanceError):
        trigger.jwt = False  # type: ignore[misc]  # that is the point
    assert trigger == HttpTrigger(jwt=True, scopes={"a"}, cors=Cors(["https://shop.example"]))
    assert hash(trigger) == hash(copy.copy(trigger))
    assert replace(trigger, jwt=False).scopes == {"a"}
    assert replace(Cors(["x", "x"])).origins.items == ("x", "x")


def test_a_toggle_that_is_no_boolean_raises_at_once() -> None:
    with pytest.raises(TypeError, match=r"HttpTrigger\(api_key=…\) takes True or False, not 'no'"):
        HttpTrigger(api_key="no")  # type: ignore[arg-type]  # what a developer may write


@pytest.mark.parametrize(
    ("declaration", "problem", "fix"),
    [
        (HttpTrigger(max_body="1"), "max_body='1' is no size", "1 or more"),  # type: ignore[arg-type]
        (HttpTrigger(timeout=301), "timeout=301 is out of bounds", "at most 300"),
        (HttpTrigger(in_flight=-1), "in_flight=-1 is no number of calls", "0 for no limit"),
        (HttpTrigger(signature="Git Hub"), "signature='Git Hub'", '"stripe"'),
        (HttpTrigger(idempotent="yes"), "idempotent='yes' is not known", 'idempotent="key"'),  # type: ignore[arg-type]
        (HttpTrigger(cors=True), "cors=True is no CORS", "cors=Cors("),  # type: ignore[arg-type]
        (HttpTrigger(allow="here"), "'here' does not appear", '"192.0.2.0/24"'),
        (Cors("https://shop.example", max_age="1"), "CORS max_age='1'", "from 0 to 86400"),  # type: ignore[arg-type]
        (Cors("https://shop.example", credentials=1), "CORS credentials=1", "credentials=True"),  # type: ignore[arg-type]
        (Schedule("0 6 * * *", missed="all"), "missed='all' is not known", '"skip" or "once"'),  # type: ignore[arg-type]
        (Schedule("0 6 * * *", timezone=1), "timezone=1 is not known", "Europe/Lisbon"),  # type: ignore[arg-type]
        (Rate("1/second", by="country"), "by='country' is not known", "address, pipeline"),  # type: ignore[arg-type]
        (Durable(timeout=0), "timeout=0 is out of bounds", "above 0"),
        (Durable(recoveries=True), "recoveries=True is no number", "0 or more"),
        (Route("GET", "/", print, mode=["durable"]), "GET /: mode=['durable']", 'mode="durable"'),  # type: ignore[arg-type]
        (Route("POST", "/", print, priority=0), "POST /: priority=0 is no priority", "from 1"),
    ],
)
def test_a_wrong_option_is_reported_with_its_fix(declaration: Any, problem: str, fix: str) -> None:
    problems = list(declaration.problems())

    assert [text for text, _ in problems if problem in text], problems
    assert [text for _, text in problems if fix in text], problems


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Retry(attempts=0),
        lambda: Retry(backoff=-1),
        lambda: Retry(longest="1"),
        lambda: Retry(on=(ValueError, "KeyError")),
    ],
)
def test_a_wrong_retry_raises_at_once(declare: Callable[[], Retry]) -> None:
    with pytest.raises(ValueError, match=r"Retry\((attempts|backoff|longest|on)=.*give "):
        declare()
