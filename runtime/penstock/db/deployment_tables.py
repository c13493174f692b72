"""Tables of deployments, and of what processes report that they serve.

They hold no access data, and no foreign keys: rows are written by each process at its start.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, LargeBinary, String

from penstock.db.columns import Moment
from penstock.db.rows import Col, Row, column


class ProcessReportRow(Row, table="process_reports"):
    """What processes serve: stored once, however many processes serve it."""

    digest: Col[str] = column(String(64), primary_key=True)
    content: Col[bytes] = column(LargeBinary)  # JSON
    # When a process last began to serve it. A report that nothing refers to is deleted later.
    written_at: Col[datetime] = column(Moment)


class DeploymentRow(Row, table="deployments"):
    """A start or a reload of an environment's processes on a host."""

    # A digest of the environment, the host, the deployment before and the code: the processes of
    # one start write one row.
    id: Col[str] = column(String(64), primary_key=True)
    environment_id: Col[int] = column(Integer)
    host: Col[str] = column(String(255))
    at: Col[datetime] = column(Moment)
    loaded_at: Col[int] = column(BigInteger)  # of the plugins; milliseconds since the epoch
    started_by: Col[str] = column(String(255))
    code: Col[str] = column(String(64))  # a digest of plugins, pipelines and their versions
    report: Col[str] = column(String(64))  # the last one of its processes
    previous: Col[str | None] = column(String(64), nullable=True)
    policy_version: Col[int] = column(Integer)  # these three as of the start
    served: Col[int] = column(Integer)
    blocked: Col[int] = column(Integer)
    changes: Col[Any] = column(JSON)  # against the deployment before
    indexes = (
        Index("ix_deployments_at", "at", "id"),
        Index("ix_deployments_environment", "environment_id", "at", "id"),
        Index("ix_deployments_host", "environment_id", "host", "at", "id"),
    )
