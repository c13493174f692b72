"""What a process serves, as it reports it: plugins with versions, pipelines with their state.

A report has names, versions, states and reasons, and no values of variables or settings. Texts of
plugin code are cleaned of secrets, and files are relative to their folder.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec

from penstock.db.deployments import Report
from penstock.gate.compliance import SERVED_STATES, State
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.gate.exposure import exposures
from penstock.host.catalog import Catalog
from penstock.plugins.versions import own_version

MAX_TEXT_LENGTH = 500
MAX_PROBLEMS = 100

Clean = Callable[[str], str]


class ReportedPlugin(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plugin: loaded, or failed, in which case it serves nothing."""

    name: str
    version: str = ""
    file: str = ""
    failed: bool = False


class Reason(msgspec.Struct, frozen=True):
    """Why a pipeline is not served, and the fix."""

    reason: str
    fix: str


class ReportedPipeline(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pipeline on a listener; `listener` is external, internal, or none."""

    id: str
    listener: str
    version: str
    plugin: str
    state: str
    requires: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()
    until: float | None = None

    @property
    def served(self) -> bool:
        """Whether calls are accepted."""
        return self.state in SERVED_STATES


class ReportedProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fault of a plugin; `pipeline` is the id of the one that it blocks, if any."""

    plugin: str
    problem: str
    fix: str
    pipeline: str = ""
    file: str = ""


class ProcessReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process serves. `serves` is False where it answers no calls of pipelines."""

    penstock: str
    serves: bool
    plugins: tuple[ReportedPlugin, ...]
    pipelines: tuple[ReportedPipeline, ...]
    problems: tuple[ReportedProblem, ...] = ()


def read_report(content: bytes | None) -> ProcessReport | None:
    """Return a stored report, None where there is none that this release can read."""
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=ProcessReport)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def report_of(
    catalog: Catalog, evaluated: EvaluatedPipelines, clean: Clean, *, serves: bool
) -> ProcessReport:
    """Return what a process serves. `clean` removes its secrets from a text."""
    relative = _relative_to(catalog)

    def text(value: str) -> str:
        return relative(clean(value))[:MAX_TEXT_LENGTH]

    return ProcessReport(
        own_version(),
        serves,
        _plugins(catalog, relative),
        tuple(
            ReportedPipeline(
                identifier,
                listener,
                item.pipeline.version,
                catalog.loaded[identifier].plugin,
                item.state.value,
                tuple(sorted(item.requires)),
                tuple(Reason(text(each.reason), text(each.fix)) for each in item.violations),
                tuple(text(each) for each in item.warnings),
                item.until,
            )
            for identifier, listener, item in exposures(
                evaluated.external, evaluated.internal, catalog.broken
            )
        ),
        tuple(
            ReportedProblem(
                each.plugin, text(each.problem), text(each.fix), each.id, relative(each.file)
            )
            for each in catalog.faults(evaluated.external)[:MAX_PROBLEMS]
        ),
    )


def encoded(report: ProcessReport, code: str) -> Report:
    """Return a report as it is stored."""
    content = msgspec.json.encode(report)
    states = [item.state for item in report.pipelines]
    return Report(
        sha256(content).hexdigest(),
        code,
        content,
        served=sum(state in SERVED_STATES for state in states),
        blocked=states.count(State.BLOCKED),
    )


def _plugins(catalog: Catalog, relative: Clean) -> tuple[ReportedPlugin, ...]:
    plugins, versions = catalog.plugins, catalog.versions
    failed = {problem.plugin for problem in plugins.problems} - set(plugins.loaded)
    return tuple(
        ReportedPlugin(
            name,
            versions.get(name, ""),
            relative(plugins.files.get(name, "")),
            failed=name in failed,
        )
        for name in sorted({*plugins.loaded, *failed})
    )


def _relative_to(catalog: Catalog) -> Clean:
    """Return a function that makes paths in a text relative to their plugin folder."""
    parents = [f"{folder.parent}/" for folder in catalog.plugins.folders.folders]

    def relative(text: str) -> str:
        for parent in parents:
            text = text.replace(parent, "")
        return text.rpartition("/")[2] if text.startswith("/") and " " not in text else text

    return relative
