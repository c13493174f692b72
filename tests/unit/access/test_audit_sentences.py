"""The audit trail in sentences: every action has one, and it names what changed."""

from __future__ import annotations

import pytest

from penstock.audit import Action
from penstock.audit.sentences import SENTENCES, act, differences


def test_every_action_has_a_sentence_that_stands_without_detail() -> None:
    assert set(SENTENCES) == set(Action)
    for action in Action:
        text = act(action, "thing", "prod", {})
        assert text[0].islower(), action
        assert "None" not in text, action


@pytest.mark.parametrize(
    ("action", "subject", "environment", "detail", "sentence"),
    [
        (
            Action.POLICY_SET,
            "prod",
            "prod",
            {"before": "api-key", "policy": "jwt-api-key", "reason": "SEC-118"},
            "changed prod's policy from api-key to jwt-api-key: SEC-118",
        ),
        (
            Action.CONSUMER_ASSOCIATED,
            "acme",
            "prod",
            {"pipelines": ["v1/a", "v1/b", "v1/c", "v1/d"]},
            "gave acme access to v1/a, v1/b, v1/c and 1 more in prod",
        ),
        (
            Action.CONSUMER_ASSOCIATED,
            "acme",
            "prod",
            {"pipelines": [], "new_pipelines": True},
            "switched automatic access of acme to new pipelines on in prod",
        ),
        (
            Action.USER_ROLE_SET,
            "vic",
            "prod",
            {"before": "none", "role": "operator"},
            "changed the role of vic in prod from none to operator",
        ),
        (
            Action.ENVIRONMENT_CHANGED,
            "prod",
            "prod",
            {"run_retention": 60, "before": {"run_retention": 90}},
            "changed run retention from 90 to 60 of prod",
        ),
        (
            Action.USER_SIGN_IN_FAILED,
            "ann",
            None,
            {"address": "192.0.2.1", "unrecorded": 7},
            "failed to sign in as ann from 192.0.2.1; 7 more were not recorded before this one",
        ),
    ],
)
def test_a_sentence_names_what_changed(
    action: Action, subject: str, environment: str | None, detail: dict[str, object], sentence: str
) -> None:
    assert act(action, subject, environment, detail) == sentence


def test_an_action_of_a_newer_release_is_shown_by_its_name() -> None:
    assert act("moon:landed", "apollo", None, {}) == "did moon:landed to apollo"


def test_what_was_replaced_is_before_and_after() -> None:
    assert differences({"before": "1", "value": "2"}) == [("value", "1", "2")]
    assert differences({"a": 1, "before": {"a": 2}}) == [("a", 2, 1)]
    assert differences({"value": "2"}) == []
