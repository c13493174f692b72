"""What operators did: one event for each change, in the same transaction; append-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from penstock.db.engine import Engine, reading
from penstock.db.rows import Change, Reader, changing


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
def change(engine: Engine, actor: str, action: Action, subject: str, *, environment: str | None = None) -> Iterator[tuple[Change, dict[str, Any]]]:
    """Open a change to access with its event; what is put into the yielded dict becomes the event's detail."""
    detail: dict[str, Any] = {}
    with changing(engine) as rows:
        yield rows, detail
        note(rows, actor, action, subject, detail, environment=environment)


def note(rows: Change, actor: str, action: Action, subject: str, detail: Mapping[str, Any], *, environment: str | None = None) -> None:
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


def events(engine: Engine, *, limit: int) -> list[Event]:
    """Return the newest events, newest first."""
    with reading(engine) as connection:
        return [Event(**row) for row in Reader(connection).latest("audit_events", limit)]
