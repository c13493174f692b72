"""Pages of alerts: who sees and changes rules, what is shown once, and the count in the header."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.console import PASSWORD, ConsoleClient, console_runtime, words_of

from penstock import clock
from penstock.access import api_keys, consumers
from penstock.alerts import changes, rules
from penstock.alerts.evaluation import evaluate
from penstock.db.engine import Engine
from penstock.testing import Runtime

__all__ = ["console_runtime"]

HOOK = "https://hooks.example.com/services/T0KEN"
LIST = "/e/test/alerts"
RULE = f"{LIST}/rules/keys-expire"


@pytest.fixture
def runtime(console_runtime: object) -> Runtime:
    return console_runtime(policy="api-key")  # type: ignore[operator, no-any-return]  # a factory


def engine_of(runtime: Runtime) -> Engine:
    return runtime.application.host.services.engine  # type: ignore[attr-defined, union-attr]  # it was started


def test_a_viewer_sees_rules_and_changes_none(runtime: Runtime) -> None:
    client = ConsoleClient.of(runtime, "vic")
    page = client.text(LIST)

    assert "an API key expires within 2w" in words_of(page)
    assert "New rule" not in page
    assert client.get(f"{LIST}/new").status_code == 403
    for act in ("mute", "unmute", "test", "remove", "edit"):
        assert client.post(f"{RULE}/{act}").status_code == 403
    assert client.post(f"{LIST}/new", {"name": "x", "kind": "latency"}).status_code == 403


def test_a_role_in_one_environment_is_none_in_another(runtime: Runtime) -> None:
    words = ("user", "create", "pat", "--role", "operator", "--env", "prod")
    runtime.operate(*words, given=PASSWORD)
    client = ConsoleClient.of(runtime, "pat")

    assert client.get(LIST).status_code in {403, 404}
    assert client.post(f"{RULE}/mute").status_code in {403, 404}
    assert client.post("/e/prod/alerts/rules/keys-expire/mute").status_code == 303


def test_a_rule_is_created_with_a_secret_that_is_shown_once(runtime: Runtime) -> None:
    client = ConsoleClient.of(runtime, "oli")
    form = {"name": "slow", "kind": "latency", "threshold": "800ms", "webhook": HOOK}
    created = client.post(f"{LIST}/new", form | {"private": "no"})
    pages = [client.text(path) for path in (LIST, f"{LIST}/rules/slow", f"{LIST}/rules/slow/edit")]

    assert created.status_code == 200
    assert created.text.count("whsec_") == 1
    for page in pages:
        assert "whsec_" not in page
        assert "T0KEN" not in page
    assert "https://hooks.example.com" in pages[0]
    assert "p95 latency of the calls of 5m is at least 800ms" in words_of(pages[0])


def test_a_fault_stands_at_its_field_and_keeps_the_rest(runtime: Runtime) -> None:
    client = ConsoleClient.of(runtime, "oli")
    form = {"name": "slow", "kind": "latency", "threshold": "soon", "pipeline": "v1/orders"}
    response = client.post(f"{LIST}/new", form | {"private": "no"})

    assert response.status_code == 422
    assert "“soon” is no latency" in response.text
    assert 'value="v1/orders"' in response.text
    assert "slow" not in [rule.name for rule in rules.list_rules(engine_of(runtime), "test")]


def test_of_two_who_edit_a_rule_the_second_sees_the_first(runtime: Runtime) -> None:
    first, second = (ConsoleClient.of(runtime, name) for name in ("oli", "ann"))
    seen = rules.find_rule(engine_of(runtime), "test", "keys-expire").settings.token
    form = {"kind": "key-expiry", "hold": "0", "over": "5m", "private": "no", "seen": seen}
    saved = first.post(f"{RULE}/edit", form | {"threshold": "7d"})
    late = second.post(f"{RULE}/edit", form | {"threshold": "30d"})

    assert saved.status_code == 303
    assert late.status_code == 409
    assert "Other values are saved than this form was opened with" in late.text
    assert (
        rules.find_rule(engine_of(runtime), "test", "keys-expire").settings.threshold == 7 * 86400
    )


def test_a_rule_is_muted_unmuted_tested_and_removed(runtime: Runtime) -> None:
    client = ConsoleClient.of(runtime, "oli")
    without = client.post(f"{RULE}/test")
    form = {"kind": "key-expiry", "hold": "0", "over": "5m", "private": "no"}
    client.post(f"{RULE}/edit", form | {"threshold": "14d", "emails": "ops@example.com"})
    muted = client.follow(client.post(f"{RULE}/mute"))
    unmuted = client.follow(client.post(f"{RULE}/unmute"))
    tested = client.follow(client.post(f"{RULE}/test"))
    asked = words_of(client.text(f"{RULE}/remove"))
    removed = client.follow(client.post(f"{RULE}/remove"))

    assert without.status_code == 409
    assert "has no receiver" in without.text
    assert "sends no messages for an hour" in muted
    assert "muted" in words_of(muted)
    assert "sends messages again" in unmuted
    assert "Test message queued" in tested
    assert "ops@example.com" in tested
    assert "Remove the alert rule keys-expire from test?" in asked
    assert "Rule keys-expire removed" in removed
    assert client.get(RULE).status_code == 404


def test_the_header_counts_rules_that_fire(runtime: Runtime) -> None:
    engine = engine_of(runtime)
    before = ConsoleClient.of(runtime, "vic").text("/consumers")
    consumers.create_consumer(engine, "oli", "soon")
    api_keys.create_key(engine, "oli", "soon", "test", expires=timedelta(days=2))
    # The runtime has replaced jwt-api-key by api-key, which is weaker.
    changes.remove_rule(engine, "oli", "test", "policy-weaker")
    evaluate(engine, clock.utc_now())
    runtime.application.extensions["penstock-console"].menu_counts.clear()
    page = ConsoleClient.of(runtime, "vic").text("/consumers")

    assert 'class="bell"' not in before
    assert 'class="bell"' in page
    assert "1 alert rule fires" in page
