"""When a rule fires and is resolved, and which messages follow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penstock.alerts.conditions import Finding, weaker
from penstock.alerts.states import AlertState, Manner, following

START = datetime(2026, 11, 27, 12, tzinfo=UTC)
EACH, HELD, PLAIN = Manner(0, each=True), Manner(60), Manner(0)


def played(manner: Manner, *findings: tuple[str, ...] | None, muted: range = range(0)) -> list[str]:
    """Return the messages of findings 30 seconds apart: number, event and subjects."""
    state, messages = AlertState("ok", START), []
    for number, subjects in enumerate(findings):
        finding = None if subjects is None else Finding("high", subjects)
        now = START + timedelta(seconds=30 * number)
        manner_now = Manner(manner.hold_s, number in muted, manner.each)
        state, message = following(state, finding, now, manner_now)
        if message is not None:
            messages.append(f"{number} {message.event} {''.join(message.subjects)}")
    return messages


def test_a_rule_fires_once_and_is_resolved_once() -> None:
    assert played(PLAIN, None, ("a",), ("a",), ("b",), None, None) == [
        "1 firing a",
        "4 resolved b",
    ]


def test_a_condition_must_hold_for_the_hold_time() -> None:
    assert played(HELD, ("a",), ("a",), None, ("a",), ("a",), ("a",), None) == [
        "5 firing a",
        "6 resolved a",
    ]


def test_each_subject_is_announced_once_and_again_when_it_comes_back() -> None:
    assert played(EACH, ("a",), ("a", "b"), ("b",), ("a", "b"), None) == [
        "0 firing a",
        "1 firing b",
        "3 firing a",
        "4 resolved ab",
    ]


def test_a_muted_rule_sends_nothing_and_fires_at_the_end_of_the_mute() -> None:
    assert played(PLAIN, ("a",), ("a",), ("a",), None, muted=range(2)) == [
        "2 firing a",
        "3 resolved a",
    ]
    assert played(PLAIN, ("a",), None, muted=range(1)) == []
    # Receivers that know of it learn of its end.
    assert played(PLAIN, ("a",), ("a",), None, muted=range(1, 3)) == ["0 firing a", "2 resolved a"]


@pytest.mark.parametrize(
    ("before", "after", "result"),
    [
        ("jwt-api-key", "api-key", True),
        ("api-key", "any", True),
        ("any", "jwt-api-key", False),
        ("any", "any", False),
        (None, "any", False),
        ("api-key", "of-a-plugin", True),
        ("of-a-plugin", "jwt-api-key", True),
    ],
)
def test_a_weaker_policy_is_recognised_and_an_unknown_one_counts(
    before: str | None, after: str, result: bool
) -> None:
    assert weaker(before, after) is result
