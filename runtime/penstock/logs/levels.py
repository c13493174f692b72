"""Levels of single plugins and loggers, as PENSTOCK_LOG_LEVELS sets them.

A name is that of a plugin, for all of its loggers, or that of a logger, for it and those below. The
longest name that fits a logger counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

NUMBERS = logging.getLevelNamesMapping()

_levels: dict[str, int] = {}  # as they are set, by name
_plugins: dict[str, str] = {}  # the plugin of each logger that a plugin has
_default = logging.INFO


def configure(default: str, levels: Iterable[tuple[str, str]]) -> None:
    """Set the level of all loggers, and those of single plugins and loggers."""
    global _default  # noqa: PLW0603  a process has one log
    _default = NUMBERS[default.upper()]
    _levels.clear()
    _levels.update((name, NUMBERS[level.upper()]) for name, level in levels)


def register_plugin_loggers(plugins: Mapping[str, Iterable[str]]) -> None:
    """Note the loggers of each plugin: its modules, and those of its pipelines' calls."""
    _plugins.update((logger, plugin) for plugin, loggers in plugins.items() for logger in loggers)
    root = logging.getLogger()
    root.setLevel(root.level)  # clears the cached levels


def lowest() -> int:
    """Return the lowest level that any logger has."""
    return min([_default, *_levels.values()])


def level_of(logger: str) -> int | None:
    """Return the level that is set for a logger; None where that of all loggers counts."""
    name = logger if _levels else ""
    while name:
        if name in _levels:
            return _levels[name]
        if _plugins.get(name) in _levels:
            return _levels[_plugins[name]]
        name = name.rpartition(".")[0]
    return None


def is_written(logger: str, level: int) -> bool:
    """Return whether a logger writes lines of a level."""
    if not _levels:
        return True  # lines of a lower level came no further
    own = level_of(logger)
    return level >= (_default if own is None else own)


def are_set() -> bool:
    """Return whether any plugin or logger has a level of its own."""
    return bool(_levels)


def default() -> int:
    """Return the level of loggers without one of their own."""
    return _default
