"""Acts besides changes in the audit log: failed sign-ins, exports and previews."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.console import ConsoleApp, ConsoleClient, words_of
from support.place import Place

from penstock import audit
from penstock.console.failed_sign_ins import MAX_EVENTS, PERIOD_S, UNKNOWN, FailedSignIns
from penstock.db.engine import Engine

Make = Callable[..., ConsoleApp]


def failed(engine: Engine) -> list[audit.Event]:
    return audit.events(engine, limit=100, action=audit.Action.USER_SIGN_IN_FAILED)


def test_a_failed_sign_in_is_recorded_without_what_may_be_a_password(console_app: Make) -> None:
    console = console_app()
    client = console.client()
    client.sign_in("VIC", "wrong password 1")
    client.sign_in("hunter2-typed-as-name", "wrong password 2")
    events = failed(console.place.engine)

    assert [event.subject for event in events] == [UNKNOWN, "vic"]
    assert "hunter2" not in str(events)
    assert "wrong password" not in str(events)
    assert "failed to sign in as vic" in words_of(console.client("ann").text("/audit"))


def test_an_attack_fills_nothing(sqlite_place: Place) -> None:
    now = [0.0]
    engine, sample = sqlite_place.engine, FailedSignIns(clock=lambda: now[0])
    for number in range(200):
        sample.note(engine, f"name-{number}", "192.0.2.1", "password")
    assert len(failed(engine)) == MAX_EVENTS

    now[0] = PERIOD_S + 1
    sample.note(engine, "name", "192.0.2.1", "password")
    newest = failed(engine)[0]
    assert newest.detail["unrecorded"] == 200 - MAX_EVENTS


def test_exports_and_previews_are_recorded(console_app: Make) -> None:
    console = console_app()
    vic, oli = console.client("vic"), console.client("oli")
    vic.text("/audit/export", format="csv")
    oli.text("/e/test/policy/change", policy="any", exposure="external")
    assert console.events()[:2] == [
        ("oli", "environment:policy:previewed", "test", "test"),
        ("vic", "audit:exported", None, "csv"),
    ]


def found(client: ConsoleClient, **query: str) -> int:
    return len(re.findall(r'href="/-/console/audit/\d+"', client.text("/audit", **query)))


def test_the_search_finds_a_part_of_any_fact(console_app: Make) -> None:
    console = console_app()
    engine = console.place.engine
    audit.record(engine, "oli", audit.Action.POLICY_SET, "prod", {"reason": "SEC-118 100%_done"})
    vic = console.client("vic")

    assert found(vic, q="sec-118") == 1
    assert found(vic, q="100%_") == 1
    assert found(vic, q="100_%") == 0
    assert found(vic, q="nvironment:policy:se") == 1
