"""Log events about faults of plugins, in the form that the start report and others write."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from penstock.contracts.pipeline import PluginProblem

PLUGIN_ERROR, PLUGIN_NOTE = "plugin error", "plugin note"

Event = tuple[int, str, dict[str, str]]  # level, event and fields


def problem_events(event: str, problem: PluginProblem) -> Iterator[Event]:
    """Yield the log events of a plugin's fault or of a note, and of its traceback at DEBUG."""
    fields = {"plugin": problem.plugin, "file": problem.file, "pipeline": problem.pipeline}
    present = {name: value for name, value in fields.items() if value}
    level = logging.ERROR if event == PLUGIN_ERROR else logging.WARNING
    yield level, event, {**present, "problem": problem.problem, "fix": problem.fix}
    if problem.trace:
        trace = {"plugin": problem.plugin, "trace": problem.trace}
        yield logging.DEBUG, "plugin traceback", trace
