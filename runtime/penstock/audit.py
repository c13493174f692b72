"""What operators did: one event for each change, in the same transaction; append-only."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import StrEnum
from io import StringIO
from typing import Any

from penstock.db import audit_events
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import AccessChange, RowReader, access_change
from penstock.errors import UnknownName, UsageError


class Action(StrEnum):
    """What the trail can say. Append only: old rows keep old words."""

    ENVIRONMENT_CREATED = "environment:created"
    ENVIRONMENT_CHANGED = "environment:changed"
    POLICY_SET = "environment:policy:set"
    PIPELINES_SEEN = "pipeline:seen"
    PIPELINE_ENABLED = "pipeline:enabled"
    PIPELINE_DISABLED = "pipeline:disabled"
    LOGIN_FLOW_DESIGNATED = "login-flow:designated"
    LOGIN_FLOW_WITHDRAWN = "login-flow:withdrawn"
    CONSUMER_CREATED = "consumer:created"
    CONSUMER_ENABLED = "consumer:enabled"
    CONSUMER_DISABLED = "consumer:disabled"
    CONSUMER_ASSOCIATED = "consumer:associated"
    CONSUMER_DISSOCIATED = "consumer:dissociated"
    KEY_CREATED = "key:created"
    KEY_ROTATED = "key:rotated"
    KEY_REVOKED = "key:revoked"
    KEY_ENABLED = "key:enabled"
    KEY_DISABLED = "key:disabled"
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
    USER_CREATED = "user:created"
    USER_ENABLED = "user:enabled"
    USER_DISABLED = "user:disabled"
    USER_ROLE_SET = "user:role:set"
    USER_PASSWORD_SET = "user:password:set"  # noqa: S105  a word, no password
    USER_SIGNED_IN = "user:signed-in"
    USER_SIGNED_OUT = "user:signed-out"
    USER_SESSIONS_ENDED = "user:sessions:ended"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the trail."""

    id: int
    at: datetime
    actor: str
    action: str
    environment: str | None
    subject: str
    detail: Mapping[str, Any]


@contextmanager
def change(
    engine: Engine, actor: str, action: Action, subject: str, *, environment: str | None = None
) -> Iterator[tuple[AccessChange, dict[str, Any]]]:
    """Open a change to access with its event.

    What is put into the yielded dict becomes the event's detail.
    """
    detail: dict[str, Any] = {}
    with access_change(engine) as rows:
        yield rows, detail
        note(rows, actor, action, subject, detail, environment=environment)


def note(
    rows: AccessChange,
    actor: str,
    action: Action,
    subject: str,
    detail: Mapping[str, Any],
    *,
    environment: str | None = None,
) -> None:
    """Write one event of a change that is open; a change that does several things has several."""
    rows.add(
        "audit_events",
        at=datetime.now(UTC),
        actor=actor[:255],
        action=action.value,
        environment=environment,
        subject=subject[:255],
        detail=dict(detail),
    )


def kinds() -> list[str]:
    """Return the kinds of things that actions are done to.

    Each stands before an action's first colon.
    """
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
) -> list[Event]:
    """Return events, newest first.

    `action` is a whole one or its kind, `before` the id that the page before ended with. Raises
    Mistaken.
    """
    if action in kinds():
        action = f"{action}:"
    elif action is not None and action not in set(Action):
        near = get_close_matches(action, [*Action, *kinds()], n=1)
        raise UsageError(
            f"there is no action {action!r}; "
            + (f"did you mean {near[0]}?" if near else f"its kind is one of {', '.join(kinds())}")
        )
    with reading(engine) as connection:
        found = audit_events.page(
            connection,
            actor=actor,
            action=action,
            environment=environment,
            subject=subject,
            since=since,
            before=before,
            limit=limit,
        )
        return [Event(**row) for row in found]


LARGEST = 1 << 63  # what a number can't be


def event(engine: Engine, number: int) -> Event:
    """Return an event by its number. Raises UnknownName."""
    with reading(engine) as connection:
        row = RowReader(connection).find("audit_events", id=number) if number < LARGEST else None
    if row is None:
        raise UnknownName("event", str(number))
    return Event(**row)


AT_ONCE = 1000  # events that are read together


def every_event(engine: Engine, **filters: Any) -> Iterator[Event]:  # noqa: ANN401  those of events
    """Yield all events that pass filters, newest first.

    Never more than a page of them is in memory.
    """
    before = None
    while found := events(engine, limit=AT_ONCE, before=before, **filters):
        yield from found
        before = found[-1].id


COLUMNS = tuple(Event.__slots__)
FORMULAS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "＝",  # noqa: RUF001  spreadsheets take what begins so for a formula
    "＋",  # noqa: RUF001  spreadsheets take what begins so for a formula
    "－",  # noqa: RUF001  spreadsheets take what begins so for a formula
    "＠",  # noqa: RUF001  spreadsheets take what begins so for a formula
)


def _plain(event: Event) -> dict[str, Any]:
    return {
        **{name: getattr(event, name) for name in COLUMNS},
        "at": event.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def as_json_lines(found: Iterable[Event]) -> Iterator[str]:
    """Yield events as JSON, one a line."""
    for item in found:
        yield json.dumps(_plain(item), ensure_ascii=False) + "\n"


def as_csv(found: Iterable[Event]) -> Iterator[str]:
    """Yield events as CSV (RFC 4180).

    What a spreadsheet would take for a formula has an apostrophe before it.
    """
    yield _csv_line(COLUMNS)
    for item in found:
        values = _plain(item) | {"detail": json.dumps(item.detail, ensure_ascii=False)}
        yield _csv_line("" if value is None else str(value) for value in values.values())


def _csv_line(values: Iterable[str]) -> str:
    line = StringIO()
    csv.writer(line).writerow(
        [f"'{value}" if value.startswith(FORMULAS) else value for value in values]
    )
    return line.getvalue()
