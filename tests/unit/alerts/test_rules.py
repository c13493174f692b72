"""Rules by command: what is accepted, what is shown, and that no URL or secret is."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from support.commands import run
from support.place import Place

from penstock import audit
from penstock.access.durations import read_duration
from penstock.alerts import changes, rules
from penstock.alerts.evaluation import store_shipped
from penstock.alerts.kinds import (
    KINDS,
    SHIPPED,
    Kind,
    Unit,
    read_threshold,
    written_duration,
    written_threshold,
)
from penstock.errors import Outdated, UsageError

HOOK = "https://hooks.example.com/services/T0KEN?key=pathsecret"


@pytest.mark.parametrize("kind", list(Kind))
def test_thresholds_are_written_as_they_are_read(kind: Kind) -> None:
    if KINDS[kind].unit is Unit.NONE:
        with pytest.raises(UsageError, match="has no threshold"):
            read_threshold(kind, "5")
    else:
        text = written_threshold(kind, KINDS[kind].threshold)
        assert read_threshold(kind, text) == KINDS[kind].threshold


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.ERROR_RATE, "0"), (Kind.ERROR_RATE, "101%"), (Kind.ERROR_RATE, "-5"),
        (Kind.ERROR_RATE, "nan"), (Kind.ERROR_RATE, ""), (Kind.LATENCY, "0ms"),
        (Kind.LATENCY, "2h"), (Kind.LATENCY, "inf"), (Kind.REJECTIONS, "1.5"),
        (Kind.REJECTIONS, "1e9"), (Kind.KEY_EXPIRY, "14"), (Kind.KEY_EXPIRY, "0d"),
        (Kind.QUEUE_AGE, "٣m"),
    ],
)  # fmt: skip
def test_what_is_no_threshold_is_rejected(kind: Kind, text: str) -> None:
    with pytest.raises(UsageError):
        read_threshold(kind, text)


def test_durations_are_written_as_they_are_read() -> None:
    for text in ("30s", "15m", "12h", "13d", "2w"):
        assert written_duration(read_duration(text) / timedelta(seconds=1)) == text


def test_rules_that_ship_are_listed_and_stay_removed(sqlite_place: Place) -> None:
    listed = run(sqlite_place, "alert", "list", "--env", "test", "--format", "json")
    names = [row["name"] for row in json.loads(listed.stdout)]
    removed = run(sqlite_place, "alert", "remove", "no-worker", "--env", "test")
    store_shipped(sqlite_place.engine)
    store_shipped(sqlite_place.engine)
    later = [rule.name for rule in rules.list_rules(sqlite_place.engine, "test")]

    assert names == sorted(SHIPPED)
    assert removed.code == 0
    assert later == sorted({*SHIPPED} - {"no-worker"})
    again = run(sqlite_place, "alert", "create", "no-worker", "no-worker", "--env", "test")
    assert again.code == 0
    assert len(rules.list_rules(sqlite_place.engine, "prod")) == len(SHIPPED)


def test_a_rule_is_created_changed_shown_muted_and_removed(sqlite_place: Place) -> None:
    def alert(*words: str) -> str:
        done = run(sqlite_place, "alert", *words, "--env", "prod")
        assert done.code == 0, done.stderr
        return done.stdout

    created = alert(
        "create", "errors", "error-rate", "--threshold", "2.5%", "--over", "10m", "--hold", "0",
        "--pipeline", "v1/orders", "--webhook", HOOK, "--email", "ops@example.com",
    )  # fmt: skip
    changed = alert("set", "errors", "--threshold", "7", "--email", "a@b.example")
    shown = json.loads(alert("show", "errors"))
    muted = alert("mute", "errors", "--for", "2h")
    state = json.loads(alert("show", "errors"))["state"]
    unmuted = alert("mute", "errors", "--off")
    alert("remove", "errors")

    assert "at least 2.5% of the calls of 10m are server errors, at v1/orders" in created
    assert created.count("whsec_") == 1
    assert "at least 7% of" in changed
    assert "whsec_" not in changed  # the webhook stays as it was
    assert shown["webhook"] == "https://hooks.example.com"
    assert shown["emails"] == ["a@b.example"]
    assert "muted until" in muted
    assert state == "ok (muted)"
    assert "sends messages again" in unmuted
    acts = [event.act for event in audit.events(sqlite_place.engine, limit=6)]
    assert acts[0] == "removed the alert rule errors in prod"
    assert acts[3] == "changed threshold, emails of the alert rule errors in prod"
    assert run(sqlite_place, "alert", "show", "errors", "--env", "prod").code != 0


def test_no_url_and_no_secret_is_shown_or_stored_in_the_clear(sqlite_place: Place) -> None:
    words = ("errors", "--env", "test", "--webhook", HOOK)
    created = run(sqlite_place, "alert", "create", words[0], "latency", *words[1:])
    secret = created.stdout.split("\n")[-2]
    outputs = [
        run(sqlite_place, "alert", "show", "errors", "--env", "test").stdout,
        run(sqlite_place, "alert", "list", "--format", "csv").stdout,
        run(sqlite_place, "audit", "list", "--format", "json").stdout,
        repr(rules.list_rules(sqlite_place.engine)),
        repr(changes.Webhook(HOOK)),
    ]
    with sqlite_place.engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f"SELECT * FROM {table}")).all()
            outputs.append(repr(rows))

    assert secret.startswith("whsec_")
    for output in outputs:
        for hidden in (secret.removeprefix("whsec_"), "T0KEN", "pathsecret"):
            assert hidden not in output


@pytest.mark.parametrize(
    "words",
    [
        ("create", "Errors", "latency"),
        ("create", "a" * 64, "latency"),
        ("create", "x", "no-such-kind"),
        ("create", "keys-expire", "latency"),
        ("create", "x", "latency", "--threshold", "soon"),
        ("create", "x", "latency", "--over", "90s"),
        ("create", "x", "latency", "--over", "2h"),
        ("create", "x", "latency", "--hold", "2d"),
        ("create", "x", "latency", "--reason", "invalid-api-key"),
        ("create", "x", "rejections", "--reason", "no-such-reason"),
        ("create", "x", "key-expiry", "--pipeline", "v1/orders"),
        ("create", "x", "latency", "--email", "not an address"),
        ("create", "x", "latency", "--email", "a@b.example\r\nBcc: c@d.example"),
        ("create", "x", "latency", "--webhook", "ftp://hooks.example.com/"),
        ("create", "x", "latency", "--webhook", "http://hooks.example.com/"),
        ("create", "x", "latency", "--webhook", "https://user:pw@hooks.example.com/"),
        ("create", "x", "latency", "--webhook", "https://[::1/"),
        ("create", "x", "latency", "--private"),
        ("set", "nothing", "--hold", "1m"),
        ("mute", "keys-expire", "--for", "2w", "--off"),
        ("mute", "keys-expire", "--for", "400d"),
        ("test", "keys-expire"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_changes_nothing(
    sqlite_place: Place, words: tuple[str, ...]
) -> None:
    before = audit.events(sqlite_place.engine, limit=1)
    done = run(sqlite_place, "alert", *words, "--env", "test")

    assert done.code != 0
    assert "Traceback" not in done.stderr
    assert "user:pw" not in done.stderr
    if words[0] != "test":  # a test is an act
        assert audit.events(sqlite_place.engine, limit=1) == before


def test_of_two_who_change_a_rule_the_second_sees_that(sqlite_place: Place) -> None:
    engine, box = sqlite_place.engine, sqlite_place.box
    settings = rules.RuleSettings.of(Kind.KEY_EXPIRY)
    other = rules.with_emails(settings, ["a@b.example"])
    changes.set_rule(engine, "ann", "test", "keys-expire", other, box, seen=settings.token)

    with pytest.raises(Outdated):
        changes.set_rule(engine, "oli", "test", "keys-expire", settings, box, seen=settings.token)

    assert rules.find_rule(engine, "test", "keys-expire").settings == other
