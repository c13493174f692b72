"""The audit trail: one event for each change, in the same transaction; append-only."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from penstock.audit import sentences
from penstock.audit.approvals import ApprovalRequired, ChangePending, propose
from penstock.contracts.csv_lines import csv_line
from penstock.db import audit_events
from penstock.db.engine import Engine, reading, writing
from penstock.db.rows import AnyColumn
from penstock.db.tables import AuditEventRow
from penstock.db.unit_of_work import AccessChange, access_change
from penstock.errors import UnknownName, UsageError, quoted


class Action(StrEnum):
    """The actions in the trail. Only add new ones: stored events have the old ones."""

    ENVIRONMENT_CREATED = "environment:created"
    ENVIRONMENT_CHANGED = "environment:changed"
    POLICY_SET = "environment:policy:set"
    POLICY_PREVIEWED = "environment:policy:previewed"
    PIPELINES_SEEN = "pipeline:seen"
    PIPELINE_ENABLED = "pipeline:enabled"
    PIPELINE_DISABLED = "pipeline:disabled"
    LOGIN_FLOW_DESIGNATED = "login-flow:designated"
    LOGIN_FLOW_WITHDRAWN = "login-flow:withdrawn"
    CONSUMER_CREATED = "consumer:created"
    CONSUMER_DESCRIBED = "consumer:described"
    CONSUMER_ENABLED = "consumer:enabled"
    CONSUMER_DISABLED = "consumer:disabled"
    CONSUMER_ASSOCIATED = "consumer:associated"
    CONSUMER_DISSOCIATED = "consumer:dissociated"
    KEY_CREATED = "key:created"
    KEY_ROTATED = "key:rotated"
    KEY_REVOKED = "key:revoked"
    KEY_ENABLED = "key:enabled"
    KEY_DISABLED = "key:disabled"
    KEY_EXPIRY_SET = "key:expiry:set"
    CREDENTIAL_ADDED = "credential:added"
    CREDENTIAL_REVOKED = "credential:revoked"
    SECRET_KEY_ROTATED = "secret-key:rotated"  # noqa: S105  a word, no secret
    SIGNING_KEY_ROTATED = "signing-key:rotated"
    SIGNING_KEY_DROPPED = "signing-key:dropped"
    ISSUER_TRUSTED = "issuer:trusted"
    ISSUER_DISTRUSTED = "issuer:distrusted"
    TOKENS_REVOKED = "token:revoked"
    VARIABLE_SET = "variable:set"
    VARIABLE_UNSET = "variable:unset"
    SECRET_SET = "secret:set"  # noqa: S105  a word, no secret
    SECRET_UNSET = "secret:unset"  # noqa: S105  a word, no secret
    LIMIT_SET = "limit:set"
    LIMIT_REMOVED = "limit:removed"
    ADDRESSES_ALLOWED = "address:allowed"
    ADDRESSES_DENIED = "address:denied"
    ADDRESSES_REMOVED = "address:removed"
    SENSITIVE_ADDED = "sensitive-field:added"
    SENSITIVE_REMOVED = "sensitive-field:removed"
    DATABASE_RESTORED = "database:restored"
    CALLBACK_ALLOWED = "callback:allowed"
    CALLBACK_REMOVED = "callback:removed"
    RUN_CANCELLED = "run:cancelled"
    RUN_REDELIVERED = "run:redelivered"
    RUNS_PURGED = "run:purged"
    SCHEDULE_PAUSED = "schedule:paused"
    SCHEDULE_RESUMED = "schedule:resumed"
    SCHEDULE_RUN = "schedule:run"
    USER_CREATED = "user:created"
    USER_ENABLED = "user:enabled"
    USER_DISABLED = "user:disabled"
    USER_ROLE_SET = "user:role:set"
    USER_PASSWORD_SET = "user:password:set"  # noqa: S105  a word, no password
    USER_SIGNED_IN = "user:signed-in"
    USER_SIGN_IN_FAILED = "user:sign-in-failed"
    USER_SIGNED_OUT = "user:signed-out"
    USER_SESSIONS_ENDED = "user:sessions:ended"
    CHANGE_PROPOSED = "change:proposed"
    CHANGE_APPROVED = "change:approved"
    CHANGE_REJECTED = "change:rejected"
    AUDIT_EXPORTED = "audit:exported"
    ALERT_CREATED = "alert:created"
    ALERT_CHANGED = "alert:changed"
    ALERT_REMOVED = "alert:removed"
    ALERT_MUTED = "alert:muted"
    ALERT_UNMUTED = "alert:unmuted"
    ALERT_TESTED = "alert:tested"


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the audit trail."""

    id: int
    at: datetime
    actor: str
    action: str
    environment: str | None
    subject: str
    detail: Mapping[str, Any]

    @property
    def act(self) -> str:
        """What the actor did, in words."""
        return sentences.act(self.action, self.subject, self.environment, self.detail)

    @property
    def differences(self) -> list[tuple[str, Any, Any]]:
        """What was replaced: name, value before, value after."""
        return sentences.differences(self.detail)


@contextmanager
def change(
    engine: Engine, actor: str, action: Action, subject: str, *, environment: str | None = None
) -> Iterator[tuple[AccessChange, dict[str, Any]]]:
    """Open a change of access data, and write its event at the end.

    It yields the change, and a dict that becomes the event's detail. Raises DatabaseUnavailable,
    and ChangePending where the change waits for a second approval.
    """
    detail: dict[str, Any] = {}
    try:
        with access_change(engine) as rows:
            yield rows, detail
            note(rows, actor, action, subject, detail, environment=environment)
    except ApprovalRequired as required:
        number = propose_change(engine, actor, required, subject, environment)
        raise ChangePending(number) from required


def propose_change(
    engine: Engine, actor: str, required: ApprovalRequired, subject: str, environment: str | None
) -> int:
    """Write a change as pending with its event, and return its number."""
    number = propose(engine, actor, required.proposal)
    facts = {"change": number, "kind": required.proposal.kind.value}
    record(engine, actor, Action.CHANGE_PROPOSED, subject, facts, environment=environment)
    return number


def note(
    rows: AccessChange,
    actor: str,
    action: Action,
    subject: str,
    detail: Mapping[str, Any],
    *,
    environment: str | None = None,
) -> None:
    """Write an event of an open change; a change with several effects has several events."""
    rows.add(AuditEventRow, _values(actor, action, subject, detail, environment))


def record(
    engine: Engine,
    actor: str,
    action: Action,
    subject: str,
    detail: Mapping[str, Any],
    *,
    environment: str | None = None,
) -> None:
    """Write an event of an act that changes no access data. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        audit_events.add(connection, _values(actor, action, subject, detail, environment))


def _values(
    actor: str, action: Action, subject: str, detail: Mapping[str, Any], environment: str | None
) -> dict[AnyColumn, object]:
    return {
        AuditEventRow.at: datetime.now(UTC),
        AuditEventRow.actor: actor[:255],
        AuditEventRow.action: action.value,
        AuditEventRow.environment: environment,
        AuditEventRow.subject: subject[:255],
        AuditEventRow.detail: dict(detail),
    }


def kinds() -> list[str]:
    """Return the kinds of objects that actions change: the texts before the first colon."""
    return sorted({action.partition(":")[0] for action in Action})


def events(  # noqa: PLR0913  one argument a filter
    engine: Engine,
    *,
    limit: int,
    actor: str | None = None,
    action: str | None = None,
    environment: str | None = None,
    subject: str | None = None,
    since: datetime | None = None,
    before: int | None = None,
    environments: Collection[str] | None = None,
    text: str | None = None,
    subjects: Collection[str] | None = None,
    first: int | None = None,
) -> list[Event]:
    """Return events, newest first.

    `action` is an action or a kind; the next page is before the last id of a page. `environments`
    restricts the events to those of some environments, `subjects` to those of some subjects.
    `text` is a part of the actor, action, subject or detail, in any case. With `first`, no event
    with a lower id is read. Raises UsageError.
    """
    if action in kinds():
        action = f"{action}:"
    elif action is not None and action not in set(Action):
        near = get_close_matches(action, [*Action, *kinds()], n=1)
        raise UsageError(
            f"there is no action {quoted(action)}; "
            + (f"did you mean {near[0]}?" if near else f"its kind is one of {', '.join(kinds())}")
        )
    with reading(engine) as connection:
        rows = audit_events.page(
            connection,
            actor=actor,
            action=action,
            environment=environment,
            subject=subject,
            since=since,
            before=before,
            limit=limit,
            environments=environments,
            text=text,
            subjects=subjects,
            first=first,
        )
    return [_event(row) for row in rows]


def events_about(
    engine: Engine, pipeline: str, *, environments: Collection[str] | None, limit: int
) -> list[Event]:
    """Return the newest events about a pipeline, by its id, newest first.

    They are searched among the newest 20,000 events. `environments` restricts them as in `events`.
    """
    with reading(engine) as connection:
        rows = audit_events.about(connection, pipeline, environments=environments, limit=limit)
    return [_event(row) for row in rows]


def _event(row: AuditEventRow) -> Event:
    return Event(row.id, row.at, row.actor, row.action, row.environment, row.subject, row.detail)


MAX_EVENT_ID = (1 << 63) - 1


def event(engine: Engine, number: int) -> Event:
    """Return an event by its id. Raises UnknownName."""
    with reading(engine) as connection:
        row = audit_events.find(connection, number) if number <= MAX_EVENT_ID else None
    if row is None:
        raise UnknownName("event", str(number))
    return _event(row)


MAX_SEARCHED = 100_000  # events that the search for a text reads for a page


def page_of_events(
    engine: Engine,
    *,
    limit: int,
    before: int | None = None,
    **filters: Any,  # noqa: ANN401  those of events
) -> tuple[list[Event], int | None]:
    """Return a page of events, newest first, and the id before which the next page begins.

    The id is None at the end. A text has no index: each page searches `MAX_SEARCHED` events at
    most, and may have fewer events than `limit` although there are more. Raises UsageError.
    """
    first = None
    if filters.get("text"):
        with reading(engine) as connection:
            newest = before - 1 if before is not None else audit_events.last_id(connection)
        first = newest - MAX_SEARCHED + 1
    listed = events(engine, limit=limit + 1, before=before, first=first, **filters)
    if len(listed) > limit:
        return listed[:limit], listed[limit - 1].id
    return listed, first if first is not None and first > 1 else None


EVENTS_PER_READ = 1000


def every_event(engine: Engine, **filters: Any) -> Iterator[Event]:  # noqa: ANN401  those of events
    """Yield all events that match filters, newest first; only one page of them is in memory."""
    before = None
    while page := events(engine, limit=EVENTS_PER_READ, before=before, **filters):
        yield from page
        before = page[-1].id


COLUMNS = tuple(Event.__slots__)


def _to_plain(event: Event) -> dict[str, Any]:
    return {
        **{name: getattr(event, name) for name in COLUMNS},
        "at": event.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def as_json_lines(events: Iterable[Event]) -> Iterator[str]:
    """Yield events as JSON, one a line."""
    for item in events:
        yield json.dumps(_to_plain(item), ensure_ascii=False) + "\n"


def as_csv(events: Iterable[Event]) -> Iterator[str]:
    """Yield events as CSV (RFC 4180), with an apostrophe before the formulas of spreadsheets."""
    yield csv_line(COLUMNS)
    for item in events:
        values = _to_plain(item) | {"detail": json.dumps(item.detail, ensure_ascii=False)}
        yield csv_line("" if value is None else str(value) for value in values.values())
