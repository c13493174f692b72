"""Check a plugin's hooks before pluggy registers it: pluggy reports some faults too late."""

from __future__ import annotations

import inspect
from difflib import get_close_matches

import pluggy

from penstock import hookspecs


def hook_problem(manager: pluggy.PluginManager, plugin: object) -> tuple[str, str] | None:
    """Return the first fault of a plugin's hooks with its fix; None if there is none."""
    hooks = {name for name in dir(hookspecs) if name.startswith("penstock_")}
    for name in dir(plugin):
        if name.startswith("__"):
            continue
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if name in hooks and not marked and inspect.isroutine(getattr(plugin, name, None)):
            return f"{name} is not marked as a hook", "put @hookimpl above it"
        if marked and name not in hooks:
            near = get_close_matches(name, sorted(hooks), n=1)
            return (
                f"unknown hook {name}",
                f"did you mean {near[0]}?" if near else f"hooks are: {', '.join(sorted(hooks))}",
            )
    return None


def has_hooks(manager: pluggy.PluginManager, plugin: object) -> bool:
    """Return whether a plugin implements any hook."""
    return any(
        not name.startswith("__") and manager.parse_hookimpl_opts(plugin, name) is not None
        for name in dir(plugin)
    )
