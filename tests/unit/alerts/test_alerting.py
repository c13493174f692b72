"""From a condition to a message: evaluated by one process, sent once, and again after a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.place import Place
from support.receivers import Mailbox, Webhooks, mailbox, webhooks

from penstock import clock
from penstock.access import api_keys, policies
from penstock.alerts import changes, rules
from penstock.alerts.conditions import CONDITIONS
from penstock.alerts.delivery import deliver_due, forget
from penstock.alerts.evaluation import evaluate
from penstock.alerts.kinds import Kind
from penstock.alerts.messages import messages_of
from penstock.alerts.rounds import LEASE, make_round
from penstock.contracts.run_status import Status
from penstock.db import call_counts, leases
from penstock.db.alert_tables import AlertMessageRow
from penstock.db.call_counts import CallCount
from penstock.db.engine import writing
from penstock.durable import callbacks
from penstock.errors import BadSetting
from penstock.metrics import LATENCY_BUCKETS_S
from penstock.settings import Settings

HOUR = timedelta(hours=1)
PASSWORD = "mail-passw0rd"


@pytest.fixture
def hooks() -> Iterator[Webhooks]:
    with webhooks() as found:
        yield found


@pytest.fixture
def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with mailbox(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(found.certificate))
        yield found


def mail_settings(place: Place, post: Mailbox, password: str = PASSWORD) -> Settings:
    return Settings(
        database_url=place.url,
        smtp_host="127.0.0.1",
        smtp_port=post.port,
        smtp_user="penstock",
        smtp_password=password,
        smtp_sender="penstock@example.com",
    )


def send_to(place: Place, url: str, *emails: str, name: str = "keys-expire") -> str | None:
    """Give a rule of environment test a webhook and addresses; return the webhook's secret."""
    rule = rules.find_rule(place.engine, "test", name)
    settings = rules.with_emails(rule.settings, emails)
    hook = changes.Webhook(url, private=True)
    return changes.set_rule(place.engine, "oli", "test", name, settings, place.box, hook)


def expiring_key(place: Place, name: str = "acme", days: int = 3) -> api_keys.NewKey:
    place.consumer(name)
    return api_keys.create_key(place.engine, "oli", name, "test", expires=timedelta(days=days))


def count(place: Place, outcome: str, calls: int, *, seconds: float = 0.001) -> None:
    """Write calls of this minute to v1/orders in environment test."""
    now, number = int(clock.now()) // 60 * 60, len(LATENCY_BUCKETS_S) + 1
    index = sum(seconds > bound for bound in LATENCY_BUCKETS_S)
    buckets = [calls if place == index else 0 for place in range(number)]
    environment = rules.list_rules(place.engine, "test")[0].environment_id
    micros = int(calls * seconds * 1e6)
    call_counts.write(
        place.engine,
        [CallCount(environment, 60, now, "v1/orders", outcome, "p", calls, micros, buckets)],
    )


def test_a_key_about_to_expire_fires_once_and_is_resolved_once(
    place: Place, hooks: Webhooks
) -> None:
    secret = send_to(place, hooks.url)
    key = expiring_key(place)
    settings, now = Settings(), clock.utc_now()
    for _ in range(3):
        evaluate(place.engine, now)
        deliver_due(place.engine, place.box, settings)
    api_keys.revoke_key(place.engine, "oli", key.id)
    for _ in range(3):
        evaluate(place.engine, now)
        deliver_due(place.engine, place.box, settings)

    assert secret is not None
    events = [json.loads(body) for body in hooks.verified(secret)]
    assert [event["type"] for event in events] == ["alert.firing", "alert.resolved"]
    assert events[0]["data"]["rule"] == "keys-expire"
    assert events[0]["data"]["subjects"][0].startswith(f"key …{key.key[-4:]} of acme (")
    assert len({headers["webhook-id"] for headers, _ in hooks.received}) == 2
    assert key.key not in str(hooks.received)


def test_two_processes_send_one_message(place: Place, hooks: Webhooks) -> None:
    send_to(place, hooks.url)
    expiring_key(place)
    script = """
import sys
from penstock.access.encryption import load_secret_box
from penstock.alerts.rounds import make_round
from penstock.alerts import delivery, evaluation
from penstock import clock
from penstock.db.engine import open_engine
from penstock.settings import Settings
import os
settings = Settings.from_env(os.environ)
engine, box = open_engine(settings.database_url), load_secret_box(settings)
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    # Also without the lease, which may change hands in the middle of a round.
    evaluation.evaluate(engine, clock.utc_now())
    delivery.deliver_due(engine, box, settings)
    make_round(engine, box, settings, sys.argv[1])
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=place.environ(),
        )
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    codes = [process.wait(60) for process in processes]
    for process in processes:
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()

    assert codes == [0, 0]
    assert len(hooks.received) == 1


def test_a_receiver_that_fails_gets_the_same_message_later(
    sqlite_place: Place, hooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "PAUSES_S", (60.0, 600.0))
    send_to(sqlite_place, hooks.url)
    key, settings = expiring_key(sqlite_place), Settings()
    now = clock.utc_now()
    engine, box = sqlite_place.engine, sqlite_place.box

    def at(seconds: float) -> int:
        monkeypatch.setattr(clock, "utc_now", lambda: now + timedelta(seconds=seconds))
        return deliver_due(engine, box, settings)

    hooks.status = 500
    evaluate(engine, now)
    first, too_soon = at(0), at(30)
    # What is resolved meanwhile waits for the message that it follows.
    api_keys.revoke_key(engine, "oli", key.id)
    evaluate(engine, now)
    waiting = at(31)
    hooks.status = 204
    second, third = at(61), at(62)

    assert (first, too_soon, waiting, second, third) == (1, 0, 0, 1, 1)
    identifiers = [headers["webhook-id"] for headers, _ in hooks.received]
    assert identifiers[0] == identifiers[1] != identifiers[2]
    types = [json.loads(body)["type"] for _, body in hooks.received]
    assert types == ["alert.firing", "alert.firing", "alert.resolved"]


def test_a_message_is_given_up_after_the_last_pause(
    sqlite_place: Place, hooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "PAUSES_S", (0.0,))
    send_to(sqlite_place, hooks.url)
    expiring_key(sqlite_place)
    hooks.status = 503
    evaluate(sqlite_place.engine, clock.utc_now())
    attempts = [deliver_due(sqlite_place.engine, sqlite_place.box, Settings()) for _ in range(3)]
    rule = rules.find_rule(sqlite_place.engine, "test", "keys-expire")
    (message,) = messages_of(sqlite_place.engine, [rule])

    assert attempts == [1, 1, 0]
    assert (message.state, message.attempts) == ("failed", 2)
    assert message.result == "given up at attempt 2: answered 503"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]"])
def test_a_webhook_reaches_no_private_address_unless_that_is_allowed(
    sqlite_place: Place, host: str
) -> None:
    settings = rules.RuleSettings.of(Kind.KEY_EXPIRY)
    hook = changes.Webhook(f"https://{host}/hook")
    changes.set_rule(
        sqlite_place.engine, "oli", "test", "keys-expire", settings, sqlite_place.box, hook
    )
    expiring_key(sqlite_place)
    evaluate(sqlite_place.engine, clock.utc_now())
    deliver_due(sqlite_place.engine, sqlite_place.box, Settings())
    rule = rules.find_rule(sqlite_place.engine, "test", "keys-expire")

    (message,) = messages_of(sqlite_place.engine, [rule])
    assert message.state == "failed"
    assert "private network" in message.result


def test_an_e_mail_is_sent_over_tls_after_sign_in(sqlite_place: Place, post: Mailbox) -> None:
    settings = mail_settings(sqlite_place, post)
    send_to(sqlite_place, "", "ops@example.com", "sec@example.com")
    expiring_key(sqlite_place)
    evaluate(sqlite_place.engine, clock.utc_now())
    without_mail = deliver_due(sqlite_place.engine, sqlite_place.box, Settings())
    for _ in range(2):
        deliver_due(sqlite_place.engine, sqlite_place.box, settings)

    assert without_mail == 0  # a process without a mail server leaves it to the others
    assert sorted(str(letter["To"]) for letter in post.letters) == [
        "ops@example.com",
        "sec@example.com",
    ]
    letter = post.letters[0]
    assert str(letter["Subject"]).startswith("[FIRING] test: keys-expire: ends within 2w: key …")
    assert "It fires when an API key expires within 2w." in letter.get_content()
    assert post.signed_in == ["penstock", "penstock"]
    assert all(words.upper().startswith(("EHLO", "STARTTLS")) for words in post.plain_commands)


def test_a_wrong_password_is_shown_nowhere_and_tried_again(
    sqlite_place: Place, post: Mailbox
) -> None:
    settings = mail_settings(sqlite_place, post, password="wr0ng-secret")
    send_to(sqlite_place, "", "ops@example.com")
    expiring_key(sqlite_place)
    evaluate(sqlite_place.engine, clock.utc_now())
    deliver_due(sqlite_place.engine, sqlite_place.box, settings)
    rule = rules.find_rule(sqlite_place.engine, "test", "keys-expire")
    (message,) = messages_of(sqlite_place.engine, [rule])

    assert message.state == "pending"
    assert message.result == "attempt 1: the mail server rejects the credentials (535)"
    assert "wr0ng-secret" not in repr(settings)
    assert post.letters == []


def test_an_unknown_certificate_gets_no_password(
    sqlite_place: Place, post: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    send_to(sqlite_place, "", "ops@example.com")
    expiring_key(sqlite_place)
    evaluate(sqlite_place.engine, clock.utc_now())
    deliver_due(sqlite_place.engine, sqlite_place.box, mail_settings(sqlite_place, post))
    rule = rules.find_rule(sqlite_place.engine, "test", "keys-expire")

    assert "SSLCertVerificationError" in messages_of(sqlite_place.engine, [rule])[0].result
    assert post.signed_in == []


@pytest.mark.parametrize(("reply", "state"), [("550 no", "failed"), ("450 later", "pending")])
def test_a_recipient_that_is_rejected_for_good_is_not_tried_again(
    sqlite_place: Place, post: Mailbox, reply: str, state: str
) -> None:
    post.rejects = reply
    send_to(sqlite_place, "", "ops@example.com")
    expiring_key(sqlite_place)
    evaluate(sqlite_place.engine, clock.utc_now())
    deliver_due(sqlite_place.engine, sqlite_place.box, mail_settings(sqlite_place, post))
    rule = rules.find_rule(sqlite_place.engine, "test", "keys-expire")

    assert messages_of(sqlite_place.engine, [rule])[0].state == state


@pytest.mark.parametrize(
    ("env", "fault"),
    [
        ({}, "PENSTOCK_SMTP_SENDER"),
        ({"PENSTOCK_SMTP_SENDER": "no address"}, "PENSTOCK_SMTP_SENDER"),
        ({"PENSTOCK_SMTP_SENDER": "a@b.example", "PENSTOCK_SMTP_USER": "a"}, "SMTP_PASSWORD"),
        ({"PENSTOCK_SMTP_SENDER": "a@b.example", "PENSTOCK_SMTP_TLS": "off"}, "SMTP_TLS"),
    ],
)
def test_settings_that_would_send_in_the_clear_are_rejected(
    env: dict[str, str], fault: str
) -> None:
    with pytest.raises(BadSetting, match=fault):
        Settings.from_env({"PENSTOCK_SMTP_HOST": "mail.example.com", **env})


def test_one_process_has_the_lease_until_it_gives_it_back(place: Place) -> None:
    engine = place.engine
    first = leases.acquire(engine, LEASE, "one", 60)
    second = leases.acquire(engine, LEASE, "two", 60)
    renewed = leases.acquire(engine, LEASE, "one", -1)  # it ends at once
    taken = leases.acquire(engine, LEASE, "two", 60)
    leases.release(engine, LEASE, "one")  # it has it no more
    refused = leases.acquire(engine, LEASE, "one", 60)
    leases.release(engine, LEASE, "two")

    assert (first, second, renewed, taken, refused) == (True, False, True, True, False)
    assert leases.acquire(engine, LEASE, "one", 60)


def test_rates_and_latency_fire_above_their_threshold_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)  # all counts are of one minute
    for name, kind in (
        ("errors", Kind.ERROR_RATE), ("slow", Kind.LATENCY), ("rejected", Kind.REJECTIONS),
    ):  # fmt: skip
        settings = rules.RuleSettings.of(kind)
        held = replace(settings, hold_s=0)
        changes.create_rule(place.engine, "oli", "test", name, held, place.box)

    def firing() -> dict[str, str]:
        evaluate(place.engine, clock.utc_now())
        found = rules.list_rules(place.engine, "test")
        return {rule.name: rule.summary for rule in found if rule.status == "firing"}

    count(place, Status.SUCCEEDED.value, 100)
    count(place, Status.FAILED.value, 5)
    count(place, "invalid-api-key", 50)
    below = firing()
    count(place, Status.FAILED.value, 20, seconds=5)
    count(place, "invalid-api-key", 150)
    above = firing()

    assert below == {}
    assert set(above) == {"errors", "slow", "rejected"}
    assert above["errors"] == "7.41 % of 270 calls are server errors, most at v1/orders"
    assert above["rejected"] == "150 calls were rejected, most by invalid-api-key"


def test_calls_on_both_sides_of_a_minute_are_in_one_window(place: Place) -> None:
    settings = rules.RuleSettings.of(Kind.REJECTIONS)
    held = replace(settings, hold_s=0, window_s=60, threshold=3)
    changes.create_rule(place.engine, "oli", "test", "rejected", held, place.box)
    count(place, "invalid-api-key", 4)
    minute = int(clock.now()) // 60 * 60

    def status(seconds: int) -> str | None:
        evaluate(place.engine, datetime.fromtimestamp(minute + seconds, UTC))
        (rule,) = [
            rule for rule in rules.list_rules(place.engine, "test") if rule.name == "rejected"
        ]
        return rule.status

    assert [status(seconds) for seconds in (62, 118, 121)] == ["firing", "firing", "ok"]


def test_a_weaker_policy_fires_until_it_is_taken_back(place: Place) -> None:
    def status() -> str:
        evaluate(place.engine, clock.utc_now())
        return rules.find_rule(place.engine, "test", "policy-weaker").status

    place.policy("jwt-api-key")
    first = status()
    place.policy("any")
    weak = status()
    summary = rules.find_rule(place.engine, "test", "policy-weaker").subjects[0]
    place.policy("jwt-api-key")

    assert (first, weak, status()) == ("ok", "firing", "ok")
    assert "external policy from jwt-api-key to any by tester" in summary


def test_a_grace_about_to_end_fires(place: Place) -> None:
    served = {"v1/orders": frozenset({"api-key"})}
    policies.set_policy(
        place.engine, "oli", "test", "jwt-api-key", served=served, stopping=["v1/orders"],
        grace=timedelta(days=2),
    )  # fmt: skip
    evaluate(place.engine, clock.utc_now())

    rule = rules.find_rule(place.engine, "test", "grace-ends")
    assert rule.status == "firing"
    assert rule.subjects[0].startswith("grace of v1/orders (")


def test_one_rule_that_fails_does_not_stop_the_others(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("damaged")

    expiring_key(sqlite_place)
    monkeypatch.setitem(CONDITIONS, Kind.GRACE_END, fail)  # type: ignore[arg-type]  # the tables are read-only for others
    evaluate(sqlite_place.engine, clock.utc_now())

    assert rules.find_rule(sqlite_place.engine, "test", "keys-expire").status == "firing"


def test_a_test_sends_a_message_and_says_whether_it_arrived(
    sqlite_place: Place, hooks: Webhooks
) -> None:
    send_to(sqlite_place, hooks.url)
    words = ("alert", "test", "keys-expire", "--env", "test")
    good = sqlite_place.run(*words)
    hooks.status = 500
    bad = sqlite_place.run(*words)

    assert good.returncode == 0
    assert "sent, attempt 1: delivered (204)" in good.stdout
    assert bad.returncode == 1
    assert "answered 500" in bad.stdout
    assert json.loads(hooks.received[0][1])["type"] == "alert.test"
    assert "T0KEN" not in good.stdout + bad.stdout


def test_messages_of_a_removed_rule_or_a_replaced_webhook_are_not_sent(
    sqlite_place: Place, hooks: Webhooks
) -> None:
    send_to(sqlite_place, hooks.url)
    expiring_key(sqlite_place)
    evaluate(sqlite_place.engine, clock.utc_now())
    changes.remove_rule(sqlite_place.engine, "oli", "test", "keys-expire")
    deliver_due(sqlite_place.engine, sqlite_place.box, Settings())

    assert hooks.received == []


def test_old_messages_are_deleted_and_those_never_sent_given_up(sqlite_place: Place) -> None:
    send_to(sqlite_place, "", "ops@example.com")
    expiring_key(sqlite_place)
    now = clock.utc_now()
    evaluate(sqlite_place.engine, now)
    rule = rules.find_rule(sqlite_place.engine, "test", "keys-expire")
    forget(sqlite_place.engine, now + HOUR)
    pending = messages_of(sqlite_place.engine, [rule])[0].state
    forget(sqlite_place.engine, now + 80 * HOUR)
    failed = messages_of(sqlite_place.engine, [rule])[0].state
    forget(sqlite_place.engine, now + 900 * HOUR)

    assert (pending, failed) == ("pending", "failed")
    assert messages_of(sqlite_place.engine, [rule]) == []


def test_a_claim_that_was_not_finished_is_taken_over(sqlite_place: Place, hooks: Webhooks) -> None:
    send_to(sqlite_place, hooks.url)
    expiring_key(sqlite_place)
    evaluate(sqlite_place.engine, clock.utc_now())
    claimed = {"claimed_until": datetime.now(UTC) + HOUR}
    with writing(sqlite_place.engine) as connection:
        connection.execute(sa.update(AlertMessageRow.table).values(claimed))
    while_claimed = deliver_due(sqlite_place.engine, sqlite_place.box, Settings())
    with writing(sqlite_place.engine) as connection:
        claimed = {"claimed_until": datetime.now(UTC) - HOUR}
        connection.execute(sa.update(AlertMessageRow.table).values(claimed))
    make_round(sqlite_place.engine, sqlite_place.box, Settings(), "one")

    assert while_claimed == 0
    assert len(hooks.received) == 1
