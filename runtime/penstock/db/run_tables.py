"""Tables of runs, of processes and of idempotent replies.

They hold no access data: no gate reads them, and their rows carry no revision. They have no foreign
keys, because rows are written and deleted by the thousand.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    text,
)

from penstock.contracts.run_status import UNFINISHED, Status
from penstock.db.columns import Moment, Outcome, RunId
from penstock.db.rows import Col, Row, column

_STATES = ", ".join(f"'{status}'" for status in Status if status in UNFINISHED)
SLOW_MICROS = 1_000_000
IS_SLOW = f"micros >= {SLOW_MICROS}"  # as the partial index has it
IS_UNFINISHED = f"status IN ({_STATES})"  # as the partial indexes have it


class RunRow(Row, table="runs"):
    """A run."""

    # UUIDv7: it sorts by time, and contains the time of the call.
    id: Col[str] = column(RunId, primary_key=True)
    environment_id: Col[int] = column(Integer)
    pipeline: Col[str] = column(String(80))
    version: Col[str] = column(String(64))
    route: Col[str] = column(String(255))
    durable: Col[bool] = column(Boolean)
    consumer_id: Col[int | None] = column(Integer, nullable=True)
    subject: Col[str | None] = column(String(255), nullable=True)
    status: Col[str] = column(Outcome(12))
    http_status: Col[int | None] = column(SmallInteger, nullable=True)
    micros: Col[int | None] = column(BigInteger, nullable=True)
    # Of durable runs alone: other runs start when they are accepted.
    started_at: Col[datetime | None] = column(Moment, nullable=True)
    problem: Col[str | None] = column(String(64), nullable=True)
    detail: Col[str | None] = column(Text, nullable=True)
    parent: Col[str | None] = column(RunId, nullable=True)
    redelivers: Col[str | None] = column(RunId, nullable=True)
    request_id: Col[str | None] = column(String(128), nullable=True)
    # Neither is known of a row that the release before wrote.
    key_id: Col[str | None] = column(String(32), nullable=True)
    error_type: Col[str | None] = column(String(255), nullable=True)
    indexes = (
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
            sqlite_where=text(IS_UNFINISHED),
            postgresql_where=text(IS_UNFINISHED),
        ),
        Index(
            "ix_runs_error_type",
            "environment_id",
            "error_type",
            "id",
            sqlite_where=text("error_type IS NOT NULL"),
            postgresql_where=text("error_type IS NOT NULL"),
        ),
        Index(
            "ix_runs_slow",
            "environment_id",
            "id",
            "micros",
            sqlite_where=text(IS_SLOW),
            postgresql_where=text(IS_SLOW),
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
    )
    sqlite_rowid = False


class RunDetailRow(Row, table="run_details"):
    """A run's steps, bodies and failure."""

    run_id: Col[str] = column(RunId, primary_key=True)
    steps: Col[bytes | None] = column(LargeBinary, nullable=True)  # JSON
    bodies: Col[bytes | None] = column(LargeBinary, nullable=True)  # encrypted
    failure: Col[bytes | None] = column(LargeBinary, nullable=True)  # JSON


class RunLogLineRow(Row, table="run_log_lines"):
    """A line that plugin code logged within a run."""

    run_id: Col[str] = column(RunId, primary_key=True)
    at: Col[int] = column(BigInteger, primary_key=True)  # microseconds since the epoch
    number: Col[int] = column(Integer, primary_key=True)  # by the process
    level: Col[str] = column(String(8))
    logger: Col[str] = column(String(64))
    text: Col[str] = column(Text)
    # The number of lines that were not kept, in place of which this one is; NULL: none.
    left_out: Col[int | None] = column(Integer, nullable=True)
    sqlite_rowid = False


class DurableRunRow(Row, table="durable_runs"):
    """What only durable runs have."""

    run_id: Col[str] = column(RunId, primary_key=True)
    recoveries: Col[int] = column(SmallInteger)  # since the last step that completed
    steps_seen: Col[int] = column(Integer, server_default="0")  # at the last recovery
    # The dead worker of the last counted recovery.
    taken_from: Col[str | None] = column(String(36), nullable=True)
    progress: Col[Any] = column(JSON(none_as_null=True), nullable=True)
    # JSON, as `run_details.steps`: those without an output, with their attempts.
    running_steps: Col[bytes | None] = column(LargeBinary, nullable=True)
    # The first step that is not copied from the run that it repeats.
    from_step: Col[int | None] = column(Integer, nullable=True)
    cancelled_by: Col[str | None] = column(String(255), nullable=True)
    callback_url: Col[str | None] = column(Text, nullable=True)
    callback_status: Col[str | None] = column(String(255), nullable=True)
    sqlite_rowid = False


class PausedScheduleRow(Row, table="paused_schedules"):
    """A schedule that an operator paused: its ticks start no runs."""

    id: Col[str] = column(String(36), primary_key=True)  # a digest of all that identifies it
    environment_id: Col[int] = column(Integer)
    pipeline: Col[str] = column(String(80))
    paused_at: Col[datetime] = column(Moment)
    paused_by: Col[str] = column(String(255))


class RejectedCallRow(Row, table="refusals"):
    """A rejected call, under the id that its caller got in the reply."""

    id: Col[str] = column(RunId, primary_key=True)
    environment_id: Col[int] = column(Integer)
    pipeline: Col[str] = column(String(80))
    problem: Col[str] = column(Outcome(64))
    reason: Col[str | None] = column(Text, nullable=True)
    address: Col[str] = column(String(64))
    consumer_id: Col[int | None] = column(Integer, nullable=True)
    # None of these is known of a row that the release before wrote.
    http_status: Col[int | None] = column(SmallInteger, nullable=True)
    method: Col[str | None] = column(String(16), nullable=True)
    path: Col[str | None] = column(Text, nullable=True)  # redacted, without its query
    route: Col[str | None] = column(String(255), nullable=True)
    detail: Col[str | None] = column(Text, nullable=True)  # as in the reply
    key_id: Col[str | None] = column(String(32), nullable=True)
    scopes: Col[str | None] = column(Text, nullable=True)  # of the caller's token
    request_id: Col[str | None] = column(String(128), nullable=True)
    # Later calls of the same consumer in the same minute that were not kept.
    left_out: Col[int | None] = column(Integer, nullable=True)
    indexes = (
        Index("ix_refusals_environment", "environment_id", "id"),
        Index(
            "ix_refusals_consumer",
            "environment_id",
            "consumer_id",
            "id",
            sqlite_where=text("consumer_id IS NOT NULL"),
            postgresql_where=text("consumer_id IS NOT NULL"),
        ),
        Index(
            "ix_refusals_request_id",
            "request_id",
            "id",
            sqlite_where=text("request_id IS NOT NULL"),
            postgresql_where=text("request_id IS NOT NULL"),
        ),
    )
    sqlite_rowid = False


class CallCountRow(Row, table="call_counts"):
    """Counts of the calls to a pipeline with one outcome, within a minute or an hour."""

    environment_id: Col[int] = column(Integer, primary_key=True)
    span: Col[int] = column(Integer, primary_key=True)  # seconds: 60, or 3600 once the hour is over
    since: Col[int] = column(BigInteger, primary_key=True)  # seconds since the epoch
    pipeline: Col[str] = column(String(80), primary_key=True)
    outcome: Col[str] = column(Outcome(64), primary_key=True)
    process: Col[str] = column(String(36), primary_key=True)
    calls: Col[int] = column(BigInteger)
    micros: Col[int] = column(BigInteger)
    buckets: Col[Any] = column(JSON)
    sqlite_rowid = False


class CallTotalRow(Row, table="call_totals"):
    """Counts of calls added up: of all pipelines in a minute, hour or day, of one in a day."""

    environment_id: Col[int] = column(Integer, primary_key=True)
    span: Col[int] = column(Integer, primary_key=True)  # seconds: 60, 3600 or 86400
    since: Col[int] = column(BigInteger, primary_key=True)  # seconds since the epoch
    pipeline: Col[str] = column(String(80), primary_key=True)  # empty: all of them together
    outcome: Col[str] = column(Outcome(64), primary_key=True)
    calls: Col[int] = column(BigInteger)
    micros: Col[int] = column(BigInteger)
    buckets: Col[Any] = column(JSON)
    sqlite_rowid = False


class ConsumerCountRow(Row, table="consumer_counts"):
    """Calls of a consumer with a key to a pipeline, of one class, within an hour."""

    environment_id: Col[int] = column(Integer, primary_key=True)
    since: Col[int] = column(BigInteger, primary_key=True)  # seconds since the epoch
    consumer_id: Col[int] = column(Integer, primary_key=True)  # 0: not known
    key_id: Col[str] = column(String(32), primary_key=True)  # empty: not known
    pipeline: Col[str] = column(String(80), primary_key=True)
    # succeeded, client_error, rejected or failed
    outcome_class: Col[str] = column(String(16), primary_key=True)
    calls: Col[int] = column(BigInteger)
    indexes = (Index("ix_consumer_counts_consumer", "environment_id", "consumer_id", "since"),)
    sqlite_rowid = False


class ConsumerTotalRow(Row, table="consumer_totals"):
    """Calls of a consumer with a key to a pipeline, of one class, within a day."""

    environment_id: Col[int] = column(Integer, primary_key=True)
    since: Col[int] = column(BigInteger, primary_key=True)  # seconds since the epoch
    consumer_id: Col[int] = column(Integer, primary_key=True)  # 0: not known
    key_id: Col[str] = column(String(32), primary_key=True)  # empty: not known
    pipeline: Col[str] = column(String(80), primary_key=True)
    outcome_class: Col[str] = column(String(16), primary_key=True)
    calls: Col[int] = column(BigInteger)
    last: Col[int] = column(BigInteger)  # the start of the hour of the last call
    indexes = (Index("ix_consumer_totals_consumer", "environment_id", "consumer_id", "since"),)
    sqlite_rowid = False


class ProcessRow(Row, table="processes"):
    """A process that serves calls or performs durable runs."""

    id: Col[str] = column(String(36), primary_key=True)
    kind: Col[str] = column(String(8))  # serve or worker
    environment_id: Col[int] = column(Integer)
    host: Col[str] = column(String(255))
    pid: Col[int] = column(Integer)
    started_at: Col[datetime] = column(Moment)
    seen_at: Col[datetime] = column(Moment)
    ended: Col[bool] = column(Boolean)
    taken_by: Col[str | None] = column(String(36), nullable=True)
    taken_at: Col[datetime | None] = column(Moment, nullable=True)
    # Of a worker: those whose runs it performs; none known: all of them.
    pipelines: Col[Any] = column(JSON(none_as_null=True), nullable=True)
    # What it reported last, see db/deployments.py; NULL until then.
    report: Col[str | None] = column(String(64), nullable=True)
    code: Col[str | None] = column(String(64), nullable=True)
    deployment: Col[str | None] = column(String(64), nullable=True)
    revision: Col[int | None] = column(BigInteger, nullable=True)
    policy_version: Col[int | None] = column(Integer, nullable=True)
    started_by: Col[str | None] = column(String(255), nullable=True)


class IdempotentReplyRow(Row, table="kept_replies"):
    """A claimed key, and the reply of its call once there is one."""

    digest: Col[bytes] = column(LargeBinary(32), primary_key=True)
    body: Col[bytes] = column(LargeBinary(32))
    claim: Col[str] = column(String(32))
    # Encrypted; NULL while the first call runs.
    reply: Col[bytes | None] = column(LargeBinary, nullable=True)
    expires_at: Col[datetime] = column(Moment, index=True)
