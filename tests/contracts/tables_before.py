"""The tables of the release before, as it had them: tests/test_schema.py has them work on the
schema of this one.

At a release: write `metadata.tables` of runtime/penstock/db/schema.py here as `Table`s, with this
text on top.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from penstock.db.columns import Blob, Flag, Json, Moment, RunId

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BigId = BigInteger().with_variant(Integer, "sqlite")


def _revision() -> Column[int]:
    return Column("revision", BigInteger, nullable=False, index=True)


revision = Table(
    "revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

environments = Table(
    "environments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(31), nullable=False, unique=True),
    Column("policy", String(64), nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("internal_policy", String(64), nullable=False, server_default="api-key"),
    Column("run_retention", Integer, nullable=False, server_default="2592000"),  # seconds
    # What pipelines may record at most.
    Column("record_bodies", String(8), nullable=False, server_default="all"),
    Column("token_lifetime", Integer, nullable=False),
    Column("keys_in_query", Flag, nullable=False),
    Column("algorithm", String(16), nullable=False),
    # What the release before kept by pipelines' names has become ids.
    Column("by_id", Flag, nullable=False, server_default=false()),
    Column("created_at", Moment, nullable=False),
    _revision(),
)

policy_versions = Table(
    "policy_versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("exposure", String(16), nullable=False, server_default="external"),
    Column("policy", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("grace_until", Moment),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("environment_id", "version"),
)

graces = Table(
    "graces",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("pipeline", String(80), nullable=False),
    Column("requires", Json, nullable=False),
    Column("until", Moment, nullable=False),
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "pipeline"),
)

pipelines = Table(
    "pipelines",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("name", String(80), nullable=False),  # its id; a name alone is of the release before
    Column("enabled", Flag, nullable=False),
    Column("login_flow", Flag, nullable=False),
    Column("seen", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "name"),
)

consumers = Table(
    "consumers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("enabled", Flag, nullable=False),
    Column("created_at", Moment, nullable=False),
    _revision(),
)

new_pipelines = Table(
    "new_pipelines",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("consumer_id", ForeignKey("consumers.id"), nullable=False),
    Column("active", Flag, nullable=False),
    UniqueConstraint("environment_id", "consumer_id"),
)

associations = Table(
    "associations",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("consumer_id", ForeignKey("consumers.id"), nullable=False),
    Column("pipeline", String(80), nullable=False),  # its id; a name alone is of the release before
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "consumer_id", "pipeline"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("consumer_id", ForeignKey("consumers.id"), nullable=False, index=True),
    Column("digest", Blob(32), nullable=False, unique=True),
    Column("last_four", String(4), nullable=False),
    Column("note", Text, nullable=False),
    Column("enabled", Flag, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used_at", Moment),
    _revision(),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("consumer_id", ForeignKey("consumers.id"), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("sealed", Blob, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    _revision(),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(32), primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("public", Blob, nullable=False),
    Column("private_encrypted", Blob, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("verify_until", Moment),
    Column("dropped_at", Moment),
    _revision(),
)

issuers = Table(
    "issuers",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("issuer", String(255), nullable=False),
    Column("audience", String(255), nullable=False),
    Column("jwks_url", Text),
    Column("keys", Json),
    Column("consumer", String(64)),
    Column("consumer_claim", String(255), nullable=False),
    Column("consumers", Json, nullable=False),
    Column("scope_claim", String(255), nullable=False),
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "issuer"),
)

revocations = Table(
    "revocations",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("jti", String(255)),
    Column("consumer", String(64)),
    Column("issued_before", Moment),
    Column("forget_at", Moment, nullable=False),
    _revision(),
)

limits = Table(
    "limits",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("consumer_id", ForeignKey("consumers.id"), nullable=False),
    Column("pipeline", String(80), nullable=False),  # its id; empty: all of them together
    Column("by", String(16), nullable=False),
    Column("seconds", Integer, nullable=False),
    Column("rate", String(32), nullable=False),
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "consumer_id", "pipeline", "by", "seconds"),
)

address_rules = Table(
    "address_rules",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("consumer_id", ForeignKey("consumers.id"), nullable=False),
    Column("network", String(49), nullable=False),
    Column("allowed", Flag, nullable=False),
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "consumer_id", "network"),
)

kept_replies = Table(
    "kept_replies",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("body", LargeBinary(32), nullable=False),
    Column("claim", String(32), nullable=False),
    Column("reply", LargeBinary),  # sealed; none yet while the first call runs
    Column("expires_at", Moment, nullable=False, index=True),
)

variables = Table(
    "variables",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("value", Text, nullable=False),
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "name"),
)

pipeline_secrets = Table(
    "pipeline_secrets",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("sealed", Blob, nullable=False),
    Column("expires_at", Moment),
    Column("pipelines", Json),  # ids; none: all of them
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "name"),
)

sensitive_fields = Table(
    "sensitive_fields",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("field", String(255), nullable=False),
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "field"),
)

callback_targets = Table(
    "callback_targets",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False),
    Column("consumer_id", ForeignKey("consumers.id"), nullable=False),
    Column("prefix", String(255), nullable=False),
    Column("private", Flag, nullable=False),
    Column("sealed", Blob, nullable=False),
    Column("active", Flag, nullable=False),
    _revision(),
    UniqueConstraint("environment_id", "consumer_id", "prefix"),
)

# What follows is no access data: it carries no revision, no gate asks it, and it has no foreign
# keys, for rows come and go by the thousand.

UNFINISHED = "status IN ('accepted', 'running')"

runs = Table(
    "runs",
    metadata,
    Column("id", RunId, primary_key=True),  # UUIDv7: it sorts by time, and says when the call came
    Column("environment_id", Integer, nullable=False),
    Column("pipeline", String(80), nullable=False),
    Column("version", String(64), nullable=False),
    Column("route", String(255), nullable=False),
    Column("durable", Boolean, nullable=False),
    Column("consumer_id", Integer),
    Column("subject", String(255)),
    Column("status", String(12), nullable=False),
    Column("http_status", SmallInteger),
    Column("micros", BigInteger),
    Column("started_at", Moment),  # of durable runs, which wait first
    Column("problem", String(64)),
    Column("detail", Text),
    Column("parent", RunId),
    Column("redelivers", RunId),
    Column("request_id", String(128)),
    Index("ix_runs_environment", "environment_id", "id"),
    Index("ix_runs_pipeline", "environment_id", "pipeline", "id"),
    Index("ix_runs_consumer", "environment_id", "consumer_id", "id"),
    Index(
        "ix_runs_status",
        "environment_id",
        "status",
        "id",
        sqlite_where=text("status <> 'succeeded'"),
        postgresql_where=text("status <> 'succeeded'"),
    ),
    Index(
        "ix_runs_waiting",
        "environment_id",
        "pipeline",
        "status",
        sqlite_where=text(UNFINISHED),
        postgresql_where=text(UNFINISHED),
    ),
    Index(
        "ix_runs_request_id",
        "request_id",
        "id",
        sqlite_where=text("request_id IS NOT NULL"),
        postgresql_where=text("request_id IS NOT NULL"),
    ),
    Index(
        "ix_runs_parent",
        "parent",
        sqlite_where=text("parent IS NOT NULL"),
        postgresql_where=text("parent IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

run_details = Table(
    "run_details",
    metadata,
    Column("run_id", RunId, primary_key=True),
    Column("steps", LargeBinary),  # JSON
    Column("bodies", LargeBinary),  # sealed
)

durable_runs = Table(
    "durable_runs",
    metadata,
    Column("run_id", RunId, primary_key=True),
    Column("recoveries", SmallInteger, nullable=False),  # without a step that ended in between
    Column("steps_seen", Integer, nullable=False, server_default="0"),  # at the last of them
    Column("progress", JSON(none_as_null=True)),
    Column("cancelled_by", String(255)),
    Column("callback_url", Text),
    Column("callback_status", String(255)),
    sqlite_with_rowid=False,
)

refusals = Table(
    "refusals",
    metadata,
    Column("id", RunId, primary_key=True),
    Column("environment_id", Integer, nullable=False),
    Column("pipeline", String(80), nullable=False),
    Column("problem", String(64), nullable=False),
    Column("reason", Text),
    Column("address", String(64), nullable=False),
    Column("consumer_id", Integer),
    Index("ix_refusals_environment", "environment_id", "id"),
    sqlite_with_rowid=False,
)

call_counts = Table(
    "call_counts",
    metadata,
    Column("environment_id", Integer, primary_key=True),
    Column("span", Integer, primary_key=True),  # seconds: 60, or 3600 once the hour is over
    Column("since", BigInteger, primary_key=True),  # seconds since the epoch
    Column("pipeline", String(80), primary_key=True),
    Column("outcome", String(64), primary_key=True),
    Column("process", String(36), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),
    Column("buckets", JSON, nullable=False),
    sqlite_with_rowid=False,
)

processes = Table(
    "processes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("kind", String(8), nullable=False),  # serve or worker
    Column("environment_id", Integer, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("taken_by", String(36)),
    Column("taken_at", Moment),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(64), nullable=False),
    Column("environment", String(31)),
    Column("subject", String(255), nullable=False),
    Column("detail", JSON, nullable=False),
    Index("ix_audit_events_at", "at"),
)

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(80), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("password", Text),  # an argon2id hash; None: the identity provider alone vouches
    Column("active", Flag, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("signed_in_at", Moment),
)

user_sessions = Table(
    "user_sessions",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False, index=True),
    Column("address", String(64), nullable=False),
    Column("agent", String(255), nullable=False),
)
