"""Deployments and processes as operators list them, in a command and on a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock.access.environments import list_environments
from penstock.db import deployments as stored
from penstock.db.engine import Connection, Engine, reading
from penstock.errors import UnknownName, UsageError
from penstock.gate.compliance import SERVED_STATES, State
from penstock.host.deployment_changes import (
    Changes,
    PipelineChange,
    changes_text,
    read_changes,
)
from penstock.host.process_report import ProcessReport, ReportedPlugin, read_report
from penstock.host.served import TIMEOUTS_S

MIN_PREFIX_LENGTH = 4  # of an id
MAX_MARKERS = 50
SHIPPED = "penstock_"  # the names of plugins that Penstock ships begin with it


@dataclass(frozen=True, slots=True)
class Deployment:
    """A start or reload, with what changed against the one before. `processes` are alive."""

    id: str
    at: datetime
    environment: str
    host: str
    started_by: str
    policy_version: int
    served: int
    blocked: int
    previous: str | None
    processes: int
    changes: Changes

    @property
    def what_changed(self) -> str:
        """The changes in a line."""
        return changes_text(self.changes)


@dataclass(frozen=True, slots=True)
class DeploymentDetails:
    """A deployment with the last report of its processes, None if that was deleted."""

    deployment: Deployment
    report: ProcessReport | None


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """A process that is alive, with what it has reported; None where it has reported nothing.

    `behind` is whether its policy is older than that of its environment. `serves` is whether it
    answers calls, or performs durable runs, of pipelines. `code` is a digest of its plugins.
    """

    id: str
    environment: str
    host: str
    pid: int
    kind: str
    since: datetime
    revision: int | None
    policy_version: int | None
    behind: bool
    plugins: tuple[ReportedPlugin, ...]
    serves: bool
    served: int | None
    blocked: int | None
    started_by: str | None
    deployment: str | None
    code: str | None

    @property
    def own_plugins(self) -> list[str]:
        """The plugins that are not of Penstock itself, as `payments 2.3.1`."""
        own = (plugin for plugin in self.plugins if not plugin.name.startswith(SHIPPED))
        return [plugin_text(plugin) for plugin in own]


def plugin_text(plugin: ReportedPlugin) -> str:
    """Return a plugin with its version, as `payments 2.3.1`."""
    version = "failed" if plugin.failed else plugin.version
    return f"{plugin.name} {version}".rstrip()


def list_deployments(
    engine: Engine,
    environments: Collection[str] | None,
    *,
    search: str = "",
    after: str | None = None,
    limit: int,
) -> list[Deployment]:
    """Return deployments of environments, newest first; None means all environments.

    `search` is a text in the host, the user or the changes; a page begins after the id `after`.
    Raises UnknownName for an environment.
    """
    environment_ids = _environment_ids(engine, environments)
    with reading(engine) as connection:
        rows = stored.deployments_page(
            connection, environment_ids, search=search, after=after, limit=limit
        )
        return _deployments(connection, rows)


def deployments_of(
    engine: Engine, environments: Collection[str], pipeline: str, *, limit: int
) -> list[tuple[Deployment, list[PipelineChange]]]:
    """Return the newest deployments in which a pipeline changed, by its id, with its changes.

    Raises UnknownName for an environment.
    """
    # As in JSON: the id of another pipeline may contain this one.
    deployments = list_deployments(engine, environments, search=f'"{pipeline}"', limit=limit)
    return [
        (item, [change for change in item.changes.pipelines if change.id == pipeline])
        for item in deployments
    ]


def find_deployment(engine: Engine, identifier: str) -> DeploymentDetails:
    """Return a deployment by its id or the beginning of it. Raises UnknownName and UsageError."""
    with reading(engine) as connection:
        rows = (
            stored.find_deployments(connection, identifier)
            if len(identifier) >= MIN_PREFIX_LENGTH
            else []
        )
        if not rows:
            fix = "`penstock deployments list` shows their IDs"
            raise UnknownName("deployment", identifier, (), fix=fix)
        if len(rows) > 1:
            raise UsageError(f"several deployments begin with {identifier}; give more of the ID")
        (deployment,) = _deployments(connection, rows)
        content = stored.content_of(connection, rows[0].report)
    return DeploymentDetails(deployment, read_report(content))


def list_processes(engine: Engine, environments: Collection[str] | None) -> list[ProcessFacts]:
    """Return the processes that are alive, newest first; None means all environments.

    Raises UnknownName for an environment.
    """
    environment_ids = _environment_ids(engine, environments)
    versions = {row.name: row.policy_version for row in list_environments(engine)}
    with reading(engine) as connection:
        rows = stored.alive_in(connection, environment_ids, TIMEOUTS_S)
        contents = stored.contents_of(connection, {row.report for row in rows if row.report})
    reports = {digest: read_report(content) for digest, content in contents.items()}
    return [
        _facts(row, reports.get(row.report or ""), versions.get(row.environment, 0)) for row in rows
    ]


def deployment_markers(
    engine: Engine, environment: str, since: float, until: float
) -> list[tuple[float, str]]:
    """Return the moments of deployments with a text, for charts of an environment.

    Times are in seconds since the epoch. Raises UnknownName for the environment.
    """
    (environment_id,) = _environment_ids(engine, [environment])
    with reading(engine) as connection:
        rows = stored.deployments_between(
            connection,
            environment_id,
            datetime.fromtimestamp(since, UTC),
            datetime.fromtimestamp(until, UTC),
            MAX_MARKERS,
        )
    return [
        (row.at.timestamp(), f"{row.host}: {changes_text(read_changes(row.changes))}")
        for row in rows
    ]


def _environment_ids(engine: Engine, names: Collection[str] | None) -> list[int]:
    ids = {row.name: row.id for row in list_environments(engine)}
    for name in names or ():
        if name not in ids:
            raise UnknownName("environment", name, ids)
    return [ids[name] for name in (ids if names is None else names)]


def _deployments(
    connection: Connection, rows: Sequence[stored.ListedDeployment]
) -> list[Deployment]:
    alive = Counter(
        row.deployment
        for row in stored.alive_in(connection, {row.environment_id for row in rows}, TIMEOUTS_S)
    )
    return [
        Deployment(
            row.id,
            row.at,
            row.environment,
            row.host,
            row.started_by,
            row.policy_version,
            row.served,
            row.blocked,
            row.previous,
            alive[row.id],
            read_changes(row.changes),
        )
        for row in rows
    ]


def _facts(
    row: stored.ListedProcess, report: ProcessReport | None, policy_version: int
) -> ProcessFacts:
    states = [] if report is None else [item.state for item in report.pipelines]
    return ProcessFacts(
        row.id,
        row.environment,
        row.host,
        row.pid,
        row.kind,
        row.started_at,
        row.revision,
        row.policy_version,
        row.policy_version is not None and row.policy_version < policy_version,
        () if report is None else report.plugins,
        report is not None and report.serves,
        None if report is None else sum(state in SERVED_STATES for state in states),
        None if report is None else states.count(State.BLOCKED),
        row.started_by,
        row.deployment,
        row.code,
    )
