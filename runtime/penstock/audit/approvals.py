"""Second approval: changes that widen access wait for another person, where an environment asks.

The functions that change access call `gate` inside their transaction, before they write. Without an
approval it raises ApprovalRequired, which rolls the transaction back; `audit.change` then writes
the change as pending. An approval runs the same function again: `gate` compares the change and the
state that it is based on, and marks the approval as used in the same transaction. So a path that
forgets the approval changes nothing, and nothing is applied twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

from penstock.db import pending_changes as stored
from penstock.db.engine import Engine, reading, writing
from penstock.db.pending_changes import NamedPendingChangeRow
from penstock.db.tables import EnvironmentRow, PendingChangeRow
from penstock.db.unit_of_work import AccessChange
from penstock.errors import Outdated, PenstockError, UnknownName, UsageError

LIFETIME = timedelta(days=7)  # of a pending change


class Kind(StrEnum):
    """The changes that may need a second approval."""

    POLICY = "policy"
    ENVIRONMENT = "environment"
    ACCESS = "access"
    ENABLE_PIPELINE = "enable-pipeline"
    LOGIN_FLOW = "login-flow"
    ENABLE_CONSUMER = "enable-consumer"
    LIMIT = "limit"
    REMOVE_LIMIT = "remove-limit"
    ALLOW_NETWORKS = "allow-networks"
    DENY_NETWORKS = "deny-networks"
    REMOVE_NETWORKS = "remove-networks"
    ISSUER = "issuer"


class State(StrEnum):
    """The state of a change that needed an approval."""

    PENDING = "pending"
    APPLIED = "applied"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change before its approval: `basis` is the digest of the state that it is based on."""

    environment_id: int
    kind: Kind
    subject: str
    request: Mapping[str, Any]
    basis: str


class ApprovalRequired(PenstockError):
    """The environment asks for a second approval of this change."""

    def __init__(self, proposal: Proposal) -> None:
        super().__init__("this change needs a second approval")
        self.proposal = proposal


class ChangePending(PenstockError):
    """The change waits for a second approval; nothing of it is applied yet."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"change {number} waits for the approval of another operator; nothing is applied yet"
            f" (`penstock changes show {number}`)"
        )
        self.number = number


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval that is being applied."""

    number: int
    proposal: Proposal
    approver: str


_approval: ContextVar[Approval | None] = ContextVar("approval", default=None)


@contextmanager
def applying(approval: Approval) -> Iterator[None]:
    """Apply an approved change: `gate` accepts exactly this one."""
    token = _approval.set(approval)
    try:
        yield
    finally:
        _approval.reset(token)


def is_applying() -> bool:
    """Return whether an approved change is being applied: it always passes its gate."""
    return _approval.get() is not None


def gate(
    rows: AccessChange,
    detail: dict[str, Any],
    row: EnvironmentRow,
    kind: Kind,
    subject: str,
    *,
    request: Mapping[str, Any],
    state: object,
) -> None:
    """Raise ApprovalRequired where the environment asks for it and there is no approval.

    `request` and `state` are JSON: what changes, and what the change is based on. Raises Outdated
    where the approved change is another one, is based on another state, or was applied already.
    """
    approval = _approval.get()
    if approval is None and not row.second_approval:
        return
    proposal = Proposal(row.id, kind, subject[:255], json.loads(json.dumps(request)), _basis(state))
    if approval is None:
        raise ApprovalRequired(proposal)
    if approval.proposal != proposal:
        raise Outdated(
            f"what change {approval.number} is based on has changed; reject it, and make the change"
            " again"
        )
    _use(rows, approval)
    detail["approved_by"] = approval.approver


def _basis(state: object) -> str:
    return sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _use(rows: AccessChange, approval: Approval) -> None:
    used = rows.set(
        PendingChangeRow,
        {
            PendingChangeRow.id: approval.number,
            PendingChangeRow.state: State.PENDING.value,
        },
        {
            PendingChangeRow.state: State.APPLIED.value,
            PendingChangeRow.decided_by: approval.approver,
            PendingChangeRow.decided_at: datetime.now(UTC),
        },
    )
    if used != 1:
        raise Outdated(f"change {approval.number} was decided meanwhile")


def propose(engine: Engine, actor: str, proposal: Proposal) -> int:
    """Write a change as pending and return its number. Raises DatabaseUnavailable."""
    now = datetime.now(UTC)
    with writing(engine) as connection:
        return stored.add(
            connection,
            {
                PendingChangeRow.environment_id: proposal.environment_id,
                PendingChangeRow.kind: proposal.kind.value,
                PendingChangeRow.subject: proposal.subject,
                PendingChangeRow.request: dict(proposal.request),
                PendingChangeRow.basis: proposal.basis,
                PendingChangeRow.author: actor[:255],
                PendingChangeRow.created_at: now,
                PendingChangeRow.expires_at: now + LIFETIME,
                PendingChangeRow.state: State.PENDING.value,
            },
        )


@dataclass(frozen=True, slots=True)
class ListedChange:
    """A change that needed an approval, as operators see it."""

    id: int
    environment: str
    kind: str
    subject: str
    request: Mapping[str, Any]
    author: str
    created_at: datetime
    expires_at: datetime
    state: str
    decided_by: str | None
    decided_at: datetime | None


def _listed(row: NamedPendingChangeRow) -> ListedChange:
    expired = row.state == State.PENDING and row.expires_at <= datetime.now(UTC)
    return ListedChange(
        **{name: getattr(row, name) for name in ListedChange.__slots__ if name != "state"},
        state=State.EXPIRED.value if expired else row.state,
    )


def list_changes(
    engine: Engine, *, environment: str | None = None, pending: bool = False, limit: int = 100
) -> list[ListedChange]:
    """Return changes, newest first; `pending` leaves those out that are decided or expired."""
    with reading(engine) as connection:
        rows = stored.page(
            connection,
            environment=environment,
            pending_at=datetime.now(UTC) if pending else None,
            limit=limit,
        )
    return [_listed(row) for row in rows]


def show_change(engine: Engine, number: int) -> ListedChange:
    """Return a change. Raises UnknownName."""
    return _listed(_row(engine, number))


def _row(engine: Engine, number: int) -> NamedPendingChangeRow:
    with reading(engine) as connection:
        row = stored.find(connection, number)
    if row is None:
        raise UnknownName("change", str(number), fix="`penstock changes list` shows them")
    return row


def approval_of(engine: Engine, number: int, approver: str) -> tuple[ListedChange, Approval]:
    """Return a pending change and its approval by another person.

    Raises UnknownName, and UsageError where it is decided, expired, or the approver's own.
    """
    row = _row(engine, number)
    change = _listed(row)
    if change.state != State.PENDING:
        raise UsageError(f"change {number} is {change.state}")
    if change.author.casefold() == approver.casefold():
        raise UsageError(f"change {number} is by {change.author}; another operator approves it")
    proposal = Proposal(row.environment_id, Kind(row.kind), row.subject, row.request, row.basis)
    return change, Approval(number, proposal, approver)


def reject(rows: AccessChange, number: int, actor: str) -> None:
    """Reject a pending change. Raises UsageError where it is decided already."""
    rejected = rows.set(
        PendingChangeRow,
        {PendingChangeRow.id: number, PendingChangeRow.state: State.PENDING.value},
        {
            PendingChangeRow.state: State.REJECTED.value,
            PendingChangeRow.decided_by: actor,
            PendingChangeRow.decided_at: datetime.now(UTC),
        },
    )
    if rejected != 1:
        raise UsageError(f"change {number} is decided already")
