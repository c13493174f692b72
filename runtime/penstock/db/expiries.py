"""What ends within some time: keys, secrets, credentials, signing keys and graces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.db.tables import (
    ApiKeyRow,
    ConsumerRow,
    CredentialRow,
    GraceRow,
    PipelineSecretRow,
    PolicyVersionRow,
    SigningKeyRow,
)


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that ends, by its name for operators."""

    name: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Horizon:
    """The time in which ends are looked for, in one environment; the first `limit` are found."""

    environment_id: int
    now: datetime
    until: datetime
    limit: int

    def of(
        self, moment: sa.Column[datetime] | sa.Column[datetime | None]
    ) -> tuple[sa.ColumnElement[bool], ...]:
        """Return the conditions that a moment is in this time."""
        return moment > self.now, moment <= self.until


def _endings(
    connection: sa.Connection, query: sa.Executable, name: Callable[[Sequence[Any]], str]
) -> list[Ending]:
    """Return the rows of a query, whose last column is the end."""
    return [Ending(name(row), row[-1]) for row in connection.execute(query)]


def keys(connection: sa.Connection, horizon: Horizon) -> list[Ending]:
    """Return usable API keys of enabled consumers that expire, the first one first."""
    query = (
        sa.select(ApiKeyRow.last_four, ConsumerRow.name, ApiKeyRow.expires_at)
        .join(ConsumerRow.table, ConsumerRow.id == ApiKeyRow.consumer_id)
        .where(
            ApiKeyRow.environment_id == horizon.environment_id,
            *horizon.of(ApiKeyRow.expires_at),
            ApiKeyRow.revoked_at.is_(None),
            ApiKeyRow.enabled,
            ConsumerRow.enabled,
        )
        .order_by(ApiKeyRow.expires_at)
        .limit(horizon.limit)
    )
    return _endings(connection, query, lambda row: f"key …{row[0]} of {row[1]}")


def secrets(connection: sa.Connection, horizon: Horizon) -> list[Ending]:
    """Return secrets of pipelines and credentials of consumers that expire, the first one first."""
    secret = (
        sa.select(PipelineSecretRow.name, PipelineSecretRow.expires_at)
        .where(
            PipelineSecretRow.environment_id == horizon.environment_id,
            PipelineSecretRow.active,
            *horizon.of(PipelineSecretRow.expires_at),
        )
        .order_by(PipelineSecretRow.expires_at)
        .limit(horizon.limit)
    )
    credential = (
        sa.select(CredentialRow.kind, ConsumerRow.name, CredentialRow.expires_at)
        .join(ConsumerRow.table, ConsumerRow.id == CredentialRow.consumer_id)
        .where(
            CredentialRow.environment_id == horizon.environment_id,
            CredentialRow.revoked_at.is_(None),
            *horizon.of(CredentialRow.expires_at),
        )
        .order_by(CredentialRow.expires_at)
        .limit(horizon.limit)
    )
    endings = _endings(connection, secret, lambda row: f"secret {row[0]}")
    endings += _endings(connection, credential, lambda row: f"credential {row[0]} of {row[1]}")
    return sorted(endings, key=lambda ending: ending.at)[: horizon.limit]


def signing_keys(connection: sa.Connection, horizon: Horizon) -> list[Ending]:
    """Return replaced signing keys whose tokens stop being accepted, the first one first."""
    query = (
        sa.select(SigningKeyRow.kid, SigningKeyRow.verify_until)
        .where(
            SigningKeyRow.environment_id == horizon.environment_id,
            SigningKeyRow.dropped_at.is_(None),
            *horizon.of(SigningKeyRow.verify_until),
        )
        .order_by(SigningKeyRow.verify_until)
        .limit(horizon.limit)
    )
    return _endings(connection, query, lambda row: f"signing key {row[0]}")


def graces(connection: sa.Connection, horizon: Horizon) -> list[Ending]:
    """Return pipelines whose grace ends, the first one first."""
    query = (
        sa.select(GraceRow.pipeline, GraceRow.until)
        .where(
            GraceRow.environment_id == horizon.environment_id,
            GraceRow.active,
            *horizon.of(GraceRow.until),
        )
        .order_by(GraceRow.until)
        .limit(horizon.limit)
    )
    return _endings(connection, query, lambda row: f"grace of {row[0]}")


def policy_versions_since(
    connection: sa.Connection, environment_id: int, since: datetime, *, limit: int
) -> list[int]:
    """Return the policy versions that were set since a moment, newest first."""
    query = (
        sa.select(PolicyVersionRow.version)
        .where(
            PolicyVersionRow.environment_id == environment_id,
            PolicyVersionRow.created_at >= since,
        )
        .order_by(PolicyVersionRow.version.desc())
        .limit(limit)
    )
    return list(connection.scalars(query))
