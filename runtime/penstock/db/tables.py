"""Tables of access data, of the audit trail and of the console's users.

Rows of access data carry the revision of their last change, and are deactivated rather than
deleted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
)

from penstock.db.columns import BigId, Blob, Flag, Json, Moment
from penstock.db.rows import Col, Row, column


def _revision() -> Any:  # noqa: ANN401  the annotation of the attribute has the type
    return column(BigInteger, index=True)


class NamedRow(Row):
    """A row that users know by its name."""

    id: Col[int]
    name: Col[str]


class EnvironmentScopedRow(Row):
    """A row of access data in one environment."""

    environment_id: Col[int]


class ConsumerScopedRow(EnvironmentScopedRow):
    """A row of access data of one consumer in one environment."""

    consumer_id: Col[int]


class RevisionRow(Row, table="revision"):
    """The number of the last change to access data. There is one row."""

    id: Col[int] = column(Integer, primary_key=True)
    value: Col[int] = column(BigInteger)


class HistoryRow(Row, table="history"):
    """A random mark of one of the last revisions.

    A database that was restored and changed again reaches the same revision with another mark.
    """

    revision: Col[int] = column(BigInteger, primary_key=True, autoincrement=False)
    mark: Col[bytes] = column(LargeBinary(16))


class EnvironmentRow(NamedRow, table="environments"):
    """An environment and its rules."""

    id: Col[int] = column(Integer, primary_key=True)
    name: Col[str] = column(String(31), unique=True)
    policy: Col[str] = column(String(64))
    policy_version: Col[int] = column(Integer)
    internal_policy: Col[str] = column(String(64), server_default="api-key")
    run_retention: Col[int] = column(Integer, server_default="2592000")  # seconds
    record_bodies: Col[str] = column(String(8), server_default="all")  # the most of a pipeline
    token_lifetime: Col[int] = column(Integer)
    keys_in_query: Col[bool] = column(Flag)
    algorithm: Col[str] = column(String(16))
    # Whether the names of pipelines that the previous release stored have become ids.
    by_id: Col[bool] = column(Flag, server_default=false())
    # Whether changes that widen access wait for the approval of another person.
    second_approval: Col[bool] = column(Flag, server_default=false())
    created_at: Col[datetime] = column(Moment)
    revision: Col[int] = _revision()


class PolicyVersionRow(EnvironmentScopedRow, table="policy_versions"):
    """A version of an environment's policy, on one of its two listeners."""

    id: Col[int] = column(Integer, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    version: Col[int] = column(Integer)
    exposure: Col[str] = column(String(16), server_default="external")
    policy: Col[str] = column(String(64))
    reason: Col[str] = column(Text)
    actor: Col[str] = column(String(255))
    grace_until: Col[datetime | None] = column(Moment, nullable=True)
    created_at: Col[datetime] = column(Moment)
    indexes = (UniqueConstraint("environment_id", "version"),)


class GraceRow(EnvironmentScopedRow, table="graces"):
    """A pipeline that stopped complying and keeps its previous gate until a moment."""

    id: Col[int] = column(Integer, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    pipeline: Col[str] = column(String(80))
    requires: Col[Any] = column(Json)
    until: Col[datetime] = column(Moment)
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "pipeline"),)


class PipelineRow(EnvironmentScopedRow, table="pipelines"):
    """What operators decided about a pipeline in an environment."""

    id: Col[int] = column(Integer, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    name: Col[str] = column(String(80))  # its id; a name is of the previous release
    enabled: Col[bool] = column(Flag)
    login_flow: Col[bool] = column(Flag)
    seen: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "name"),)


class ConsumerRow(NamedRow, table="consumers"):
    """A consumer: an organisation or a system that calls pipelines."""

    id: Col[int] = column(Integer, primary_key=True)
    name: Col[str] = column(String(64), unique=True)
    description: Col[str] = column(Text)
    enabled: Col[bool] = column(Flag)
    created_at: Col[datetime] = column(Moment)
    revision: Col[int] = _revision()


class NewPipelinesRow(ConsumerScopedRow, table="new_pipelines"):
    """A consumer that gets access to new pipelines automatically."""

    id: Col[int] = column(Integer, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    consumer_id: Col[int] = column(ForeignKey(ConsumerRow.id))
    active: Col[bool] = column(Flag)
    indexes = (UniqueConstraint("environment_id", "consumer_id"),)


class AssociationRow(ConsumerScopedRow, table="associations"):
    """The access of a consumer to a pipeline in an environment."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    consumer_id: Col[int] = column(ForeignKey(ConsumerRow.id))
    pipeline: Col[str] = column(String(80))  # its id; a name is of the previous release
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "consumer_id", "pipeline"),)


class ApiKeyRow(ConsumerScopedRow, table="api_keys"):
    """An API key of a consumer in an environment. Only its digest is stored."""

    id: Col[str] = column(String(32), primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    consumer_id: Col[int] = column(ForeignKey(ConsumerRow.id), index=True)
    digest: Col[bytes] = column(Blob(32), unique=True)
    last_four: Col[str] = column(String(4))
    note: Col[str] = column(Text)
    enabled: Col[bool] = column(Flag)
    created_at: Col[datetime] = column(Moment)
    expires_at: Col[datetime | None] = column(Moment, nullable=True)
    revoked_at: Col[datetime | None] = column(Moment, nullable=True)
    last_used_at: Col[datetime | None] = column(Moment, nullable=True)
    revision: Col[int] = _revision()
    replaced_by: Col[str | None] = column(String(32), nullable=True)  # the id of its successor
    indexes = (
        Index("ix_api_keys_created_at", "created_at", "id"),
        Index("ix_api_keys_last_four", "last_four"),
        Index("ix_api_keys_expires_at", "environment_id", "expires_at"),
    )


class CredentialRow(ConsumerScopedRow, table="credentials"):
    """A consumer's credential that an authenticator plugin reads, encrypted."""

    id: Col[str] = column(String(32), primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    consumer_id: Col[int] = column(ForeignKey(ConsumerRow.id))
    kind: Col[str] = column(String(64))
    name: Col[str] = column(String(255))
    sealed: Col[bytes] = column(Blob)
    note: Col[str] = column(Text)
    created_at: Col[datetime] = column(Moment)
    expires_at: Col[datetime | None] = column(Moment, nullable=True)
    revoked_at: Col[datetime | None] = column(Moment, nullable=True)
    revision: Col[int] = _revision()


class SigningKeyRow(EnvironmentScopedRow, table="signing_keys"):
    """A key that signs tokens of an environment."""

    kid: Col[str] = column(String(32), primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    algorithm: Col[str] = column(String(16))
    public: Col[bytes] = column(Blob)
    private_encrypted: Col[bytes] = column(Blob)
    created_at: Col[datetime] = column(Moment)
    verify_until: Col[datetime | None] = column(Moment, nullable=True)
    dropped_at: Col[datetime | None] = column(Moment, nullable=True)
    revision: Col[int] = _revision()


class IssuerRow(EnvironmentScopedRow, table="issuers"):
    """An identity provider whose tokens an environment accepts."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    issuer: Col[str] = column(String(255))
    audience: Col[str] = column(String(255))
    jwks_url: Col[str | None] = column(Text, nullable=True)
    keys: Col[Any] = column(Json, nullable=True)
    consumer: Col[str | None] = column(String(64), nullable=True)
    consumer_claim: Col[str] = column(String(255))
    consumers: Col[Any] = column(Json)
    scope_claim: Col[str] = column(String(255))
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "issuer"),)


class RevocationRow(EnvironmentScopedRow, table="revocations"):
    """The revocation of one token, or of all tokens of a consumer up to a moment."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    jti: Col[str | None] = column(String(255), nullable=True)
    consumer: Col[str | None] = column(String(64), nullable=True)
    issued_before: Col[datetime | None] = column(Moment, nullable=True)
    forget_at: Col[datetime] = column(Moment)
    revision: Col[int] = _revision()
    indexes = (Index("ix_revocations_jti", "jti"),)


class LimitRow(ConsumerScopedRow, table="limits"):
    """A rate limit of a consumer."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    consumer_id: Col[int] = column(ForeignKey(ConsumerRow.id))
    pipeline: Col[str] = column(String(80))  # its id; empty: all pipelines together
    by: Col[str] = column(String(16))
    seconds: Col[int] = column(Integer)
    rate: Col[str] = column(String(32))
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "consumer_id", "pipeline", "by", "seconds"),)


class AddressRuleRow(ConsumerScopedRow, table="address_rules"):
    """A network from which a consumer may call, or may not."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    consumer_id: Col[int] = column(ForeignKey(ConsumerRow.id))
    network: Col[str] = column(String(49))
    allowed: Col[bool] = column(Flag)
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "consumer_id", "network"),)


class VariableRow(EnvironmentScopedRow, table="variables"):
    """A variable of an environment."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    name: Col[str] = column(String(64))
    value: Col[str] = column(Text)
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "name"),)


class PipelineSecretRow(EnvironmentScopedRow, table="pipeline_secrets"):
    """A secret of an environment for its pipelines, encrypted."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    name: Col[str] = column(String(64))
    sealed: Col[bytes] = column(Blob)
    expires_at: Col[datetime | None] = column(Moment, nullable=True)
    pipelines: Col[Any] = column(Json, nullable=True)  # ids; NULL: all pipelines
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "name"),)


class SensitiveFieldRow(EnvironmentScopedRow, table="sensitive_fields"):
    """A field that is never stored of the bodies of runs."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    field: Col[str] = column(String(255))
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "field"),)


class CallbackTargetRow(ConsumerScopedRow, table="callback_targets"):
    """A URL prefix to which callbacks of a consumer's durable runs may be sent."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id))
    consumer_id: Col[int] = column(ForeignKey(ConsumerRow.id))
    prefix: Col[str] = column(String(255))
    private: Col[bool] = column(Flag)
    sealed: Col[bytes] = column(Blob)
    active: Col[bool] = column(Flag)
    revision: Col[int] = _revision()
    indexes = (UniqueConstraint("environment_id", "consumer_id", "prefix"),)


class AuditEventRow(Row, table="audit_events"):
    """An event of the audit trail."""

    id: Col[int] = column(BigId, primary_key=True)
    at: Col[datetime] = column(Moment)
    actor: Col[str] = column(String(255))
    action: Col[str] = column(String(64))
    environment: Col[str | None] = column(String(31), nullable=True)
    subject: Col[str] = column(String(255))
    detail: Col[Any] = column(JSON)
    indexes = (
        Index("ix_audit_events_at", "at"),
        Index("ix_audit_events_subject", "subject", "id"),
        Index("ix_audit_events_actor", "actor", "id"),
        Index("ix_audit_events_action", "action", "id"),
    )


class PendingChangeRow(EnvironmentScopedRow, table="pending_changes"):
    """A change that waits, or waited, for a second approval."""

    id: Col[int] = column(BigId, primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id), index=True)
    kind: Col[str] = column(String(64))
    subject: Col[str] = column(String(255))
    request: Col[Any] = column(JSON)
    basis: Col[str] = column(String(64))  # digest of the state that the change is based on
    author: Col[str] = column(String(255))
    created_at: Col[datetime] = column(Moment)
    expires_at: Col[datetime] = column(Moment)
    state: Col[str] = column(String(16))
    decided_by: Col[str | None] = column(String(255), nullable=True)
    decided_at: Col[datetime | None] = column(Moment, nullable=True)


class UserRow(NamedRow, table="users"):
    """A user of the console."""

    id: Col[int] = column(Integer, primary_key=True)
    name: Col[str] = column(String(80), unique=True)
    role: Col[str] = column(String(16))
    password: Col[str | None] = column(Text, nullable=True)  # an argon2id hash; NULL: none
    active: Col[bool] = column(Flag)
    created_at: Col[datetime] = column(Moment)
    signed_in_at: Col[datetime | None] = column(Moment, nullable=True)


class UserRoleRow(Row, table="user_roles"):
    """The role of a user in one environment, besides the user's role in all of them."""

    user_id: Col[int] = column(ForeignKey(UserRow.id), primary_key=True)
    environment_id: Col[int] = column(ForeignKey(EnvironmentRow.id), primary_key=True)
    role: Col[str] = column(String(16))


class UserSessionRow(Row, table="user_sessions"):
    """A session of a user of the console. Only the digest of its token is stored."""

    id: Col[int] = column(BigId, primary_key=True)
    user_id: Col[int] = column(ForeignKey(UserRow.id), index=True)
    digest: Col[bytes] = column(LargeBinary(32), unique=True)
    created_at: Col[datetime] = column(Moment)
    seen_at: Col[datetime] = column(Moment)
    expires_at: Col[datetime] = column(Moment, index=True)
    address: Col[str] = column(String(64))
    agent: Col[str] = column(String(255))


class UserNetworkRow(Row, table="user_networks"):
    """A network from which a user has signed in."""

    user_id: Col[int] = column(ForeignKey(UserRow.id), primary_key=True)
    network: Col[str] = column(String(64), primary_key=True)
    signed_in_at: Col[datetime] = column(Moment)
