"""Messages about rules: their events, and the rows that a process sends later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.alerts.rules import Rule
from penstock.alerts.states import AlertState, Announcement
from penstock.db import alerts as stored
from penstock.db.alert_tables import AlertMessageRow
from penstock.db.engine import Engine, reading, writing
from penstock.db.rows import AnyColumn
from penstock.runs.ids import new_run_id

TEST = "test"
MAX_MESSAGES = 20  # that a page or a command shows of a rule


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A message as operators see it. `state` is pending, sent or failed."""

    id: str
    event: str
    channel: str
    target: str
    state: str
    attempts: int
    created_at: datetime
    ended_at: datetime | None
    result: str


def event_of(
    rule: Rule, announcement: Announcement, since: datetime, now: datetime
) -> dict[str, Any]:
    """Return the event of a message, with the members that Standard Webhooks recommends."""
    return {
        "type": f"alert.{announcement.event}",
        "timestamp": _iso(now),
        "data": {
            "environment": rule.environment,
            "rule": rule.name,
            "kind": rule.kind.value,
            "condition": rule.words,
            "summary": announcement.summary,
            "subjects": list(announcement.subjects),
            "since": _iso(since),
        },
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def queued(
    rule: Rule, announcement: Announcement, state: AlertState, now: datetime
) -> list[dict[AnyColumn, object]]:
    """Return the rows of a message to each receiver of a rule."""
    payload = event_of(rule, announcement, state.fired_at or state.since, now)
    targets = [("webhook", rule.webhook)] if rule.webhook else []
    targets += [("email", address) for address in rule.settings.emails]
    return [
        {
            AlertMessageRow.id: f"msg_{new_run_id()}",
            AlertMessageRow.rule_id: rule.id,
            AlertMessageRow.event: announcement.event,
            AlertMessageRow.channel: channel,
            AlertMessageRow.target: target,
            AlertMessageRow.payload: payload,
            AlertMessageRow.state: stored.PENDING,
            AlertMessageRow.attempt: 0,
            AlertMessageRow.due_at: now,
            AlertMessageRow.claimed_until: None,
            AlertMessageRow.created_at: now,
            AlertMessageRow.ended_at: None,
            AlertMessageRow.result: "",
        }
        for channel, target in targets
    ]


def queue_test(engine: Engine, rule: Rule, now: datetime) -> list[str]:
    """Write a test message to each receiver of a stored rule, and return their ids."""
    announcement = Announcement(TEST, "test of an alert rule: nothing is wrong", ())
    rows = queued(rule, announcement, AlertState("ok", now), now)
    with writing(engine) as connection:
        stored.add_messages(connection, rows)
    return [str(row[AlertMessageRow.id]) for row in rows]


def messages_of(
    engine: Engine, rules: Iterable[Rule], ids: list[str] | None = None
) -> list[ListedMessage]:
    """Return the newest messages of rules, newest first; with `ids` those alone."""
    numbers = [rule.id for rule in rules if rule.id is not None]
    with reading(engine) as connection:
        rows = stored.messages(connection, numbers, ids=ids, limit=MAX_MESSAGES)
    return [
        ListedMessage(
            row.id,
            row.event,
            row.channel,
            row.target,
            row.state,
            row.attempt,
            row.created_at,
            row.ended_at,
            row.result,
        )
        for row in rows
    ]
