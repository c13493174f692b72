"""What is served in an environment: what its processes report, and not what the asker would serve.

The process that asks, a console or a command, may have other plugins than those that serve the
environment. Where no process reports, its own evaluation is the answer: what *would be* served.

**Fresh states.** A process reports within a second of a change. Until then its report is older than
the access data that the asker has read. If both have the same code, the asker's own evaluation
takes its place, so that a page shows a change as soon as it is made.

**Rolling deployments.** Processes may differ for a while. A pipeline then has the state that the
newest process with it reports, and the number of processes that serve it. `disagreements` says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from penstock.access.snapshot import Snapshot
from penstock.contracts.policies import Violation
from penstock.contracts.responses import ResponsePolicy
from penstock.db.deployments import ListedProcess, alive_in, contents_of
from penstock.db.engine import Engine, reading
from penstock.gate.compliance import SERVED_STATES, Evaluation, State
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.host.attendance import SERVING_TIMEOUT_S, WORKER_TIMEOUT_S
from penstock.host.catalog import Catalog
from penstock.host.process_report import (
    ProcessReport,
    ReportedPipeline,
    ReportedPlugin,
    ReportedProblem,
    read_report,
    report_of,
)

# Without a heartbeat for so many seconds a process of a kind counts as gone.
TIMEOUTS_S = {"serve": SERVING_TIMEOUT_S, "worker": WORKER_TIMEOUT_S}
MAX_DISAGREEMENTS = 10


@dataclass(frozen=True, slots=True)
class ServingProcess:
    """A process of an environment that is alive and has reported."""

    id: str
    kind: str
    host: str
    pid: int
    started_at: datetime
    started_by: str
    revision: int
    policy_version: int
    deployment: str | None
    code: str


@dataclass(frozen=True, slots=True)
class ServedPipeline:
    """A pipeline on a listener (external, internal or none), as its processes have it.

    `serving` of `of` processes serve it.
    """

    pipeline: str
    listener: str
    version: str
    plugin: str
    plugin_version: str
    state: State
    requires: frozenset[str]
    violations: tuple[Violation, ...]
    warnings: tuple[str, ...]
    until: float | None
    serving: int
    of: int

    @property
    def name(self) -> str:
        """The name of the pipeline without its major version."""
        return self.pipeline.partition("/")[2]

    @property
    def served(self) -> bool:
        """Whether calls are accepted, be it in a grace period."""
        return self.state in SERVED_STATES


@dataclass(frozen=True, slots=True)
class ServedEnvironment:
    """What is served in an environment.

    `reported` is False where no process has reported: all else is what the asker would serve.
    `own` is whether the processes have the code of the asker.
    """

    environment: str
    reported: bool
    own: bool
    processes: tuple[ServingProcess, ...]
    pipelines: tuple[ServedPipeline, ...]
    plugins: tuple[ReportedPlugin, ...]
    problems: tuple[ReportedProblem, ...]
    disagreements: tuple[str, ...]

    def find(self, identifier: str, listener: str = "external") -> ServedPipeline | None:
        """Return a pipeline on a listener by its id."""
        return next(
            (
                item
                for item in self.pipelines
                if (item.pipeline, item.listener) == (identifier, listener)
            ),
            None,
        )

    def in_state(self, *states: State) -> tuple[ServedPipeline, ...]:
        """Return the pipelines in one of these states."""
        return tuple(item for item in self.pipelines if item.state in states)

    @property
    def served(self) -> tuple[ServedPipeline, ...]:
        """The pipelines that accept calls."""
        return self.in_state(*SERVED_STATES)

    @property
    def blocked(self) -> tuple[ServedPipeline, ...]:
        """The pipelines that do not comply, or are broken."""
        return self.in_state(State.BLOCKED)


def served_in(
    engine: Engine,
    catalog: Catalog,
    access: Snapshot,
    external: Mapping[str, Evaluation],
    internal: Mapping[str, Evaluation],
) -> ServedEnvironment:
    """Return what is served in the environment of a snapshot.

    The evaluations are those of the asker, whose plugins `catalog` has. Raises DatabaseUnavailable.
    """
    evaluated = EvaluatedPipelines(external, internal, ResponsePolicy())
    # Only built where it is needed: it takes as long as all else together.
    would_be = cache(lambda: report_of(catalog, evaluated, lambda text: text, serves=True))
    with reading(engine) as connection:
        alive = alive_in(connection, [access.environment.id], TIMEOUTS_S)
        contents = contents_of(connection, {row.report for row in alive if row.report})
    reports = {digest: read_report(content) for digest, content in contents.items()}
    serving: list[tuple[ListedProcess, ProcessReport]] = []
    for row in alive:
        report = reports.get(row.report or "")
        if report is None or not report.serves:
            continue
        stale = (row.revision or 0) < access.revision
        serving.append((row, would_be() if stale and row.code == catalog.code else report))
    return _environment(access.environment.name, serving, would_be, catalog.code)


def _environment(
    name: str,
    alive: list[tuple[ListedProcess, ProcessReport]],
    would_be: Callable[[], ProcessReport],
    code: str,
) -> ServedEnvironment:
    # Workers alone answer no calls.
    serving = [(row, report) for row, report in alive if row.kind == "serve"]
    reports = [report for _, report in serving] or [would_be()]
    return ServedEnvironment(
        name,
        reported=bool(serving),
        own=all(row.code == code for row, _ in serving),
        processes=tuple(_process(row) for row, _ in alive),
        pipelines=_pipelines(reports),
        plugins=reports[0].plugins,
        problems=tuple(dict.fromkeys(each for report in reports for each in report.problems)),
        disagreements=tuple(disagreements([report for _, report in alive])),
    )


def _process(row: ListedProcess) -> ServingProcess:
    return ServingProcess(
        row.id,
        row.kind,
        row.host,
        row.pid,
        row.started_at,
        row.started_by or "",
        row.revision or 0,
        row.policy_version or 0,
        row.deployment,
        row.code or "",
    )


def _pipelines(reports: Sequence[ProcessReport]) -> tuple[ServedPipeline, ...]:
    """Return the pipelines of reports, of which the first is that of the newest process."""
    newest: dict[tuple[str, str], tuple[ReportedPipeline, str]] = {}
    serving: Counter[tuple[str, str]] = Counter()
    for report in reports:
        versions = {plugin.name: plugin.version for plugin in report.plugins}
        for item in report.pipelines:
            key = item.id, item.listener
            newest.setdefault(key, (item, versions.get(item.plugin, "")))
            serving[key] += item.served
    return tuple(
        ServedPipeline(
            item.id,
            item.listener,
            item.version,
            item.plugin,
            version,
            _state(item.state),
            frozenset(item.requires),
            tuple(Violation(each.reason, each.fix) for each in item.reasons),
            item.warnings,
            item.until,
            serving[key],
            len(reports),
        )
        for key, (item, version) in sorted(newest.items())
    )


def _state(value: str) -> State:
    with suppress(ValueError):
        return State(value)
    return State.BLOCKED  # of another release: nothing is known that accepts calls


def disagreements(reports: Sequence[ProcessReport]) -> list[str]:
    """Return a sentence for each plugin whose versions differ between processes."""
    versions: dict[str, Counter[str]] = {}
    for report in reports:
        for plugin in report.plugins:
            version = "failed" if plugin.failed else plugin.version
            versions.setdefault(plugin.name, Counter())[version] += 1
    sentences = []
    for name, counted in sorted(versions.items()):
        if len(reports) > counted.total():
            counted["no"] = len(reports) - counted.total()
        if len(counted) > 1:
            parts = [_part(name, version, number) for version, number in counted.most_common()]
            sentences.append(f"Of {len(reports)} processes {', '.join(parts)}.")
    return sentences[:MAX_DISAGREEMENTS]


def _part(name: str, version: str, number: int) -> str:
    verb = "has" if number == 1 else "have"
    if version == "no":
        return f"{number} {verb} no {name}"
    if version == "failed":
        return f"{number} can't load {name}"
    return f"{number} {verb} {name} {version}".rstrip()
