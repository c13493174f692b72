"""Where the plugins of a process come from: installed packages, plugin folders, objects."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from penstock.contracts.pipeline import PluginProblem
from penstock.plugins.folders import PluginFolders, shown
from penstock.plugins.offers import Plugins
from penstock.plugins.source_tree import Module
from penstock.settings import Settings


@dataclass(frozen=True, slots=True)
class PluginSource:
    """A plugin that can be loaded: what imports it, and what returns its source.

    `problem` is why it can't be loaded, already reported; empty if there is none.
    """

    load: Callable[[], object]
    read: Callable[[], bytes] = lambda: b""
    problem: str = ""

    def mentions(self, hook: str) -> bool:
        """Return whether its source contains the name of a hook."""
        try:
            return hook.encode() in self.read()
        except Exception:  # noqa: BLE001  finding a module may run code of its package
            return False


@dataclass(slots=True)
class PluginSources:
    """All sources by plugin name; `helpers` are names of modules that may be mere helpers."""

    by_name: dict[str, PluginSource] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)


def find_sources(
    plugins: Plugins, settings: Settings, extra: Iterable[tuple[str, object]]
) -> PluginSources:
    """Return the sources of all plugins, and report modules whose name is ambiguous."""
    sources = PluginSources()
    for entry in plugins.folders.installed:
        sources.by_name[entry.name] = PluginSource(entry.load, partial(_source_of, entry))
    installed = {entry.name: entry.module for entry in plugins.folders.installed}
    for module in plugins.folders.modules.values():
        if module.name in installed:
            _note_installed(plugins, module, installed[module.name])
        else:
            _add_module(sources, plugins, module, report=is_enabled(module.name, settings))
    for name, plugin in extra:
        sources.by_name[name] = PluginSource(lambda plugin=plugin: plugin)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    return sources


def is_enabled(name: str, settings: Settings) -> bool:
    """Return whether the settings allow a plugin."""
    allowed = not settings.plugins_allow or name in settings.plugins_allow
    return allowed and name not in settings.plugins_deny


def _source_of(entry: EntryPoint) -> bytes:
    spec = importlib.util.find_spec(entry.module)
    return Path(spec.origin).read_bytes() if spec is not None and spec.origin else b""


def _note_installed(plugins: Plugins, module: Module, installed: str) -> None:
    """Note that an installed plugin of the same name is loaded, and not this module."""
    name = module.name
    if name in plugins.folders.conflicts or installed != name:
        problem = f"{shown(module.place)} is not loaded: the installed plugin {name} is"
        plugins.notes.append(PluginProblem(name, "", problem, "rename it, or remove one of them"))


def _add_module(sources: PluginSources, plugins: Plugins, module: Module, *, report: bool) -> None:
    """Add a module of a plugin folder, and with `report` the fault or the note about its name."""
    folders, name, file = plugins.folders, module.name, shown(module.place)
    clash = _clash(folders, module)
    if module.may_be_plugin:
        plugins.files[name] = file
        sources.by_name[name] = PluginSource(
            _folder_loader(folders, module),
            lambda: folders.tree.files[str(module.place)] or b"",
            clash[0] if clash else "",
        )
        if not clash:
            sources.helpers.add(name)
    if not report:
        return
    if name in folders.copies:
        problem = f"{file} is loaded, not its copy {folders.copies[name]}"
        plugins.notes.append(PluginProblem(name, "", problem, "remove one of them"))
    if clash:
        conflicting = file if name in folders.conflicts else ""
        plugins.problems.append(PluginProblem(name, "", *clash, file=conflicting))


def _clash(folders: PluginFolders, module: Module) -> tuple[str, str] | None:
    """Return why the name of a module in a plugin folder is ambiguous, and the fix."""
    if module.name in folders.conflicts:
        return (
            f"{shown(module.place)} has the name of {folders.conflicts[module.name]}",
            "rename the file",
        )
    if module.name in folders.twice and module.may_be_plugin:
        places = " and ".join(shown(item.place) for item in folders.twice[module.name])
        return f"there are two modules of its name, {places}", "rename one of them"
    return None


def _folder_loader(folders: PluginFolders, module: Module) -> Callable[[], ModuleType]:
    """Return a function that imports a module of a plugin folder under its name."""

    def load() -> ModuleType:
        name, path = module.name, str(module.place)
        imported = sys.modules.get(name)
        if imported is not None:
            if getattr(imported, "__file__", None) == path:
                return imported
            raise ImportError(f"another module is named {name!r}; rename {path}")
        spec = folders.source_spec(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} can't be loaded")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[name] = loaded
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return loaded

    return load
