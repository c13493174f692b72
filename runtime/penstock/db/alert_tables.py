"""Tables of alert rules, of their states and of the messages that they send.

A rule that was removed is inactive, so that a rule that ships does not come back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    false,
)

from penstock.db.columns import BigId, Blob, Flag, Moment
from penstock.db.rows import Col, Row, column


class AlertRuleRow(Row, table="alert_rules"):
    """A rule: what it watches, for how long it must hold, and where its messages go."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey("environments.id"))
    name: Col[str] = column(String(63))
    kind: Col[str] = column(String(32))
    threshold: Col[float] = column(Float)  # per cent, seconds or calls, as the kind says
    window: Col[int] = column(Integer)  # seconds over which calls are counted
    minimum: Col[int] = column(Integer)  # calls below which a rate counts for nothing
    hold: Col[int] = column(Integer)  # seconds that the condition must hold
    pipeline: Col[str] = column(String(80))  # its id; empty: all pipelines
    reason: Col[str] = column(String(64))  # problem type of rejected calls; empty: all
    emails: Col[Any] = column(JSON)
    webhook: Col[str] = column(String(255))  # scheme and host; the whole URL is encrypted
    private: Col[bool] = column(Flag, server_default=false())
    sealed: Col[bytes] = column(Blob)  # JSON of URL and signing secret, encrypted; empty: none
    shipped: Col[bool] = column(Flag, server_default=false())
    active: Col[bool] = column(Flag)
    muted_until: Col[datetime | None] = column(Moment, nullable=True)
    indexes = (UniqueConstraint("environment_id", "name"),)


class AlertStateRow(Row, table="alert_states"):
    """The state of a rule. `sequence` grows with each change: one process makes each change."""

    rule_id: Col[int] = column(ForeignKey(AlertRuleRow.id), primary_key=True)
    sequence: Col[int] = column(BigInteger)
    status: Col[str] = column(String(8))  # ok, pending or firing
    since: Col[datetime] = column(Moment)
    fired_at: Col[datetime | None] = column(Moment, nullable=True)
    resolved_at: Col[datetime | None] = column(Moment, nullable=True)
    summary: Col[str] = column(Text)
    subjects: Col[Any] = column(JSON)
    announced: Col[Any] = column(JSON(none_as_null=True), nullable=True)  # subjects of messages


class AlertMessageRow(Row, table="alert_messages"):
    """A message about a rule to one receiver: what it says, and how far its delivery is."""

    id: Col[str] = column(String(40), primary_key=True)
    rule_id: Col[int] = column(ForeignKey(AlertRuleRow.id))
    event: Col[str] = column(String(8))  # firing, resolved or test
    channel: Col[str] = column(String(8))  # webhook or email
    target: Col[str] = column(String(255))  # an address, or the host of a webhook
    payload: Col[Any] = column(JSON)
    state: Col[str] = column(String(8))  # pending, sent or failed
    attempt: Col[int] = column(SmallInteger)  # the number of attempts that began
    due_at: Col[datetime] = column(Moment)
    claimed_until: Col[datetime | None] = column(Moment, nullable=True)
    created_at: Col[datetime] = column(Moment)
    ended_at: Col[datetime | None] = column(Moment, nullable=True)
    result: Col[str] = column(String(255))
    indexes = (
        Index("ix_alert_messages_state", "state", "due_at"),
        Index("ix_alert_messages_rule", "rule_id", "id"),
    )


class LeaseRow(Row, table="leases"):
    """Work that one process at a time does, until a moment."""

    name: Col[str] = column(String(32), primary_key=True)
    holder: Col[str] = column(String(36))
    renewed_at: Col[datetime] = column(Moment)
    until: Col[datetime] = column(Moment)
