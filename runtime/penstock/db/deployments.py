"""Reports of processes, and the deployments that they begin.

Many processes start at once, on several hosts, and write the same. A report is stored once by its
digest. A deployment has an id that all its processes compute alike, so the first of them writes it.

A process begins a deployment unless it belongs to one of the same code on its host. It does while
another process of that deployment is alive. It also does where it replaces one that died: its
plugins were loaded at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.deployment_tables import DeploymentRow, ProcessReportRow
from penstock.db.engine import Engine, reading, writing
from penstock.db.paging import containing
from penstock.db.processes import now_of
from penstock.db.rows import Col, joined
from penstock.db.run_tables import ProcessRow
from penstock.db.tables import EnvironmentRow

DEPLOYMENTS_LOCK = 0x706470  # the namespace of our advisory locks on PostgreSQL
DEPLOYMENTS_KEPT_S = 180 * 86_400.0
MAX_DEPLOYMENTS = 2000  # of one environment
REPORTS_KEPT_S = 3600.0  # that nothing refers to


class ListedDeployment(DeploymentRow):
    """A deployment with the name of its environment."""

    environment: Col[str] = joined(EnvironmentRow.name)


class ListedProcess(ProcessRow):
    """A process with the name of its environment."""

    environment: Col[str] = joined(EnvironmentRow.name)


@dataclass(frozen=True, slots=True)
class Report:
    """What a process serves, as JSON, with digests of it and of the code alone."""

    digest: str
    code: str
    content: bytes
    served: int
    blocked: int


@dataclass(frozen=True, slots=True)
class ReportingProcess:
    """The process that reports; `loaded_at` is in milliseconds since the epoch."""

    id: str
    environment_id: int
    host: str
    loaded_at: int
    started_by: str
    revision: int
    policy_version: int
    silent: float  # seconds without a heartbeat after which another process counts as gone


def write_report(
    engine: Engine,
    process: ReportingProcess,
    report: Report,
    deployment: str | None,
    changes_since: Callable[[bytes | None], object] | None,
) -> str | None:
    """Write what a process serves, and return the id of its deployment.

    `deployment` is the one that it belongs to, None if it has just started. `changes_since` returns
    the changes against the report of the deployment before, as JSON; None: the process serves
    nothing, so it begins no deployment. Raises DatabaseUnavailable.
    """
    with writing(engine) as connection:
        now = now_of(connection)
        _put_report(connection, report, now)
        if deployment is not None:
            _replace_report(connection, deployment, report)
        elif changes_since is not None:
            deployment = _deployment_of(connection, process, report, changes_since, now)
        connection.execute(
            sa.update(ProcessRow.table)
            .where(ProcessRow.id == process.id)
            .values(
                {
                    ProcessRow.report: report.digest,
                    ProcessRow.code: report.code,
                    ProcessRow.deployment: deployment,
                    ProcessRow.revision: process.revision,
                    ProcessRow.policy_version: process.policy_version,
                    ProcessRow.started_by: process.started_by,
                }
            )
        )
        return deployment


def _put_report(connection: sa.Connection, report: Report, now: datetime) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {
        ProcessReportRow.digest: report.digest,
        ProcessReportRow.content: report.content,
        ProcessReportRow.written_at: now,
    }
    # Written again, so that no purge deletes it before a process refers to it.
    connection.execute(
        dialect.insert(ProcessReportRow.table)
        .values(values)
        .on_conflict_do_update(
            index_elements=[ProcessReportRow.digest], set_={ProcessReportRow.written_at.name: now}
        )
    )


def _replace_report(connection: sa.Connection, deployment: str, report: Report) -> None:
    connection.execute(
        sa.update(DeploymentRow.table)
        .where(DeploymentRow.id == deployment, DeploymentRow.report != report.digest)
        .values({DeploymentRow.report: report.digest})
    )


def _deployment_of(
    connection: sa.Connection,
    process: ReportingProcess,
    report: Report,
    changes_since: Callable[[bytes | None], object],
    now: datetime,
) -> str:
    """Return the deployment that a process belongs to; write it if the process begins it."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
        # Another process could commit the same deployment between two queries of this one.
        lock = sa.func.pg_advisory_xact_lock(DEPLOYMENTS_LOCK, process.environment_id)
        connection.execute(sa.select(lock))
    here = DeploymentRow.select().where(DeploymentRow.environment_id == process.environment_id)
    newest = (DeploymentRow.at.desc(), DeploymentRow.id)
    on_host = here.where(DeploymentRow.host == process.host).order_by(*newest)
    same = DeploymentRow.fetch_first(connection, on_host.where(DeploymentRow.code == report.code))
    if same is not None and (
        same.loaded_at == process.loaded_at or _others_alive(connection, process, report.code, now)
    ):
        return same.id
    # A container has a host name of its own: it follows the newest deployment of any host.
    previous = DeploymentRow.fetch_first(connection, on_host) or DeploymentRow.fetch_first(
        connection, here.order_by(*newest)
    )
    before = None if previous is None else content_of(connection, previous.report)
    return _begin(
        connection,
        process,
        report,
        previous.id if previous is not None else None,
        changes_since(before),
        now,
    )


def _begin(
    connection: sa.Connection,
    process: ReportingProcess,
    report: Report,
    previous: str | None,
    changes: object,
    now: datetime,
) -> str:
    """Write a deployment unless another process of it was first, and return its id."""
    text = repr((process.environment_id, process.host, previous, report.code))
    identifier = sha256(text.encode()).hexdigest()[:32]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(DeploymentRow.table)
        .values(
            {
                DeploymentRow.id: identifier,
                DeploymentRow.environment_id: process.environment_id,
                DeploymentRow.host: process.host,
                DeploymentRow.at: now,
                DeploymentRow.loaded_at: process.loaded_at,
                DeploymentRow.started_by: process.started_by,
                DeploymentRow.code: report.code,
                DeploymentRow.report: report.digest,
                DeploymentRow.previous: previous,
                DeploymentRow.policy_version: process.policy_version,
                DeploymentRow.served: report.served,
                DeploymentRow.blocked: report.blocked,
                DeploymentRow.changes: changes,
            }
        )
        .on_conflict_do_nothing()
    )
    return identifier


def _others_alive(
    connection: sa.Connection, process: ReportingProcess, code: str, now: datetime
) -> bool:
    query = sa.select(ProcessRow.id).where(
        ProcessRow.environment_id == process.environment_id,
        ProcessRow.host == process.host,
        ProcessRow.id != process.id,
        ProcessRow.code == code,
        ~ProcessRow.ended,
        ProcessRow.seen_at >= now - timedelta(seconds=process.silent),
    )
    return connection.execute(query.limit(1)).first() is not None


def content_of(connection: sa.Connection, digest: str) -> bytes | None:
    """Return a report by its digest, None if it was deleted."""
    return contents_of(connection, [digest]).get(digest)


def contents_of(connection: sa.Connection, digests: Collection[str]) -> Mapping[str, bytes]:
    """Return reports by their digests; those that were deleted are left out."""
    query = ProcessReportRow.select().where(ProcessReportRow.digest.in_(digests))
    return {row.digest: row.content for row in ProcessReportRow.fetch(connection, query)}


def alive_in(
    connection: sa.Connection, environment_ids: Collection[int], silent: Mapping[str, float]
) -> list[ListedProcess]:
    """Return the processes of environments that are alive, newest first.

    `silent` has the seconds without a heartbeat after which a process of a kind counts as gone.
    """
    now = now_of(connection)
    alive = [
        sa.and_(ProcessRow.kind == kind, ProcessRow.seen_at >= now - timedelta(seconds=seconds))
        for kind, seconds in silent.items()
    ]
    query = ListedProcess.select().join_from(
        ProcessRow.table, EnvironmentRow.table, ProcessRow.environment_id == EnvironmentRow.id
    )
    query = query.where(
        ~ProcessRow.ended, sa.or_(*alive), ProcessRow.environment_id.in_(environment_ids)
    )
    return ListedProcess.fetch(
        connection, query.order_by(ProcessRow.started_at.desc(), ProcessRow.id)
    )


def deployments_page(
    connection: sa.Connection,
    environment_ids: Collection[int],
    *,
    search: str = "",
    after: str | None = None,
    limit: int,
) -> list[ListedDeployment]:
    """Return deployments of environments, newest first.

    `search` is a text in the host, the user or the changes; a page begins after the id `after`.
    """
    source = DeploymentRow.table.join(
        EnvironmentRow.table, DeploymentRow.environment_id == EnvironmentRow.id
    )
    query = ListedDeployment.select().select_from(source)
    query = query.where(DeploymentRow.environment_id.in_(environment_ids))
    if search:
        changes = sa.cast(DeploymentRow.changes, sa.Text)
        query = query.where(
            sa.or_(
                containing(search, DeploymentRow.host, DeploymentRow.started_by),
                sa.func.lower(changes).contains(search.lower(), autoescape=True),
            )
        )
    if after is not None:
        query = query.where(_older_than(connection, after))
    query = query.order_by(DeploymentRow.at.desc(), DeploymentRow.id.desc()).limit(limit)
    return ListedDeployment.fetch(connection, query)


def _older_than(connection: sa.Connection, after: str) -> sa.ColumnElement[bool]:
    last = DeploymentRow.fetch_first(
        connection, DeploymentRow.select().where(DeploymentRow.id == after)
    )
    if last is None:
        return sa.false()
    older: sa.ColumnElement[bool] = sa.tuple_(DeploymentRow.at, DeploymentRow.id) < sa.tuple_(
        sa.literal(last.at, DeploymentRow.at.type), sa.literal(last.id, DeploymentRow.id.type)
    )
    return older


def find_deployments(connection: sa.Connection, prefix: str) -> list[ListedDeployment]:
    """Return the deployments whose id begins with a text; two at most."""
    source = DeploymentRow.table.join(
        EnvironmentRow.table, DeploymentRow.environment_id == EnvironmentRow.id
    )
    query = ListedDeployment.select().select_from(source)
    query = query.where(DeploymentRow.id.startswith(prefix, autoescape=True))
    return ListedDeployment.fetch(connection, query.order_by(DeploymentRow.id).limit(2))


def deployments_between(
    connection: sa.Connection, environment_id: int, since: datetime, until: datetime, limit: int
) -> list[DeploymentRow]:
    """Return the newest deployments of an environment in a time, oldest first."""
    query = DeploymentRow.select().where(
        DeploymentRow.environment_id == environment_id,
        DeploymentRow.at >= since,
        DeploymentRow.at <= until,
    )
    query = query.order_by(DeploymentRow.at.desc(), DeploymentRow.id).limit(limit)
    return DeploymentRow.fetch(connection, query)[::-1]


def purge(engine: Engine, environment_id: int) -> None:
    """Delete old deployments that no process belongs to, and reports that nothing refers to."""
    with reading(engine) as connection:
        now = now_of(connection)
        oldest = now - timedelta(seconds=DEPLOYMENTS_KEPT_S)
        at = (
            sa.select(DeploymentRow.at)
            .where(DeploymentRow.environment_id == environment_id)
            .order_by(DeploymentRow.at.desc())
        )
        excess = connection.execute(at.offset(MAX_DEPLOYMENTS).limit(1)).scalar()
        first = connection.execute(at.order_by(None).order_by(DeploymentRow.at).limit(1)).scalar()
    if excess is not None:
        oldest = max(oldest, excess)
    if first is not None and first <= oldest:
        with writing(engine) as connection:
            current = sa.select(ProcessRow.deployment).where(ProcessRow.deployment.is_not(None))
            connection.execute(
                sa.delete(DeploymentRow.table).where(
                    DeploymentRow.environment_id == environment_id,
                    DeploymentRow.at <= oldest,
                    DeploymentRow.id.not_in(current),
                )
            )
    _purge_reports(engine, now - timedelta(seconds=REPORTS_KEPT_S))


def _purge_reports(engine: Engine, written_before: datetime) -> None:
    of_processes = sa.select(ProcessRow.report).where(ProcessRow.report.is_not(None))
    unused = sa.and_(
        ProcessReportRow.written_at < written_before,
        ProcessReportRow.digest.not_in(of_processes),
        ProcessReportRow.digest.not_in(sa.select(DeploymentRow.report)),
    )
    with reading(engine) as connection:
        any_unused = connection.execute(
            sa.select(ProcessReportRow.digest).where(unused).limit(1)
        ).first()
    if any_unused is not None:
        with writing(engine) as connection:
            connection.execute(sa.delete(ProcessReportRow.table).where(unused))
