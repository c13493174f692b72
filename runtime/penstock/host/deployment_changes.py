"""What changed between two deployments, and the text of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from penstock.host.process_report import ProcessReport, ReportedPipeline

MAX_PARTS = 6  # of a text
MINUS = "\N{MINUS SIGN}"
NOTHING = ProcessReport("", serves=False, plugins=(), pipelines=())


class PluginChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plugin that was added, removed or replaced. None: it was not there."""

    name: str
    before: str | None = None
    after: str | None = None
    failed: bool = False


class PipelineChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pipeline whose state or version changed. None: it was not there."""

    id: str
    listener: str
    before: str | None = None  # states
    after: str | None = None
    version_before: str | None = None
    version_after: str | None = None
    starts: bool = False  # it is served now and was not before
    stops: bool = False


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changed. `first` is True where no deployment before is known: all of it is new."""

    first: bool = False
    penstock: tuple[str, str] | None = None  # versions of Penstock before and after
    plugins: tuple[PluginChange, ...] = ()
    pipelines: tuple[PipelineChange, ...] = ()

    @property
    def any(self) -> bool:
        """Whether anything changed."""
        return bool(self.penstock or self.plugins or self.pipelines)


def read_changes(value: object) -> Changes:
    """Return stored changes; those that this release can't read are empty."""
    try:
        return msgspec.convert(value, Changes)
    except msgspec.ValidationError:
        return Changes()


def changes_between(before: ProcessReport | None, after: ProcessReport) -> Changes:
    """Return what changed from one report to another."""
    first, before = before is None, before or NOTHING
    versions = before.penstock, after.penstock
    return Changes(
        first=first,
        penstock=versions if not first and versions[0] != versions[1] else None,
        plugins=tuple(_plugin_changes(before, after)),
        pipelines=tuple(_pipeline_changes(before, after)),
    )


def _plugin_changes(before: ProcessReport, after: ProcessReport) -> Iterator[PluginChange]:
    old = {plugin.name: plugin for plugin in before.plugins}
    new = {plugin.name: plugin for plugin in after.plugins}
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if was is None or now is None or (was.version, was.failed) != (now.version, now.failed):
            yield PluginChange(
                name,
                None if was is None else was.version,
                None if now is None else now.version,
                failed=now is not None and now.failed,
            )


def _pipeline_changes(before: ProcessReport, after: ProcessReport) -> Iterator[PipelineChange]:
    old, new = _by_listener(before), _by_listener(after)
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        facts = [None if item is None else (item.state, item.version) for item in (was, now)]
        if facts[0] != facts[1]:
            serves = [item is not None and item.served for item in (was, now)]
            yield PipelineChange(
                *key,
                before=was.state if was is not None else None,
                after=now.state if now is not None else None,
                version_before=was.version if was is not None else None,
                version_after=now.version if now is not None else None,
                starts=serves == [False, True],
                stops=serves == [True, False],
            )


def _by_listener(report: ProcessReport) -> Mapping[tuple[str, str], ReportedPipeline]:
    return {(item.id, item.listener): item for item in report.pipelines}


def changes_text(changes: Changes) -> str:
    """Return changes in a line: `+payments 2.3.1 -payments 2.3.0 ✕ v1/erp-sync blocked`."""
    if changes.first:
        return "first deployment"
    parts = list(_parts(changes))
    if not parts:
        return "restart without changes"
    more = f" and {len(parts) - MAX_PARTS} more" if len(parts) > MAX_PARTS else ""
    return " ".join(parts[:MAX_PARTS]) + more


def _parts(changes: Changes) -> Iterator[str]:
    """Yield each change as a text; pipelines that stop come first after the plugins."""
    if changes.penstock is not None:
        yield f"Penstock {changes.penstock[0]} → {changes.penstock[1]}"
    for plugin in changes.plugins:
        if plugin.failed:
            yield f"✕ {plugin.name} failed"
        elif plugin.after is not None:
            yield f"+{plugin.name} {plugin.after}".rstrip()
        if plugin.before is not None:
            yield f"{MINUS}{plugin.name} {plugin.before}".rstrip()
    for pipeline in changes.pipelines:
        if pipeline.stops:
            yield f"✕ {pipeline.id} {pipeline.after or 'removed'}"
    for pipeline in changes.pipelines:
        if pipeline.starts:
            yield f"✓ {pipeline.id} served"
