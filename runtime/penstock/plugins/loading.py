"""Load the plugins of a process and register their hooks; a broken plugin harms no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points

import pluggy

from penstock import hookspecs, logs
from penstock.contracts.access import PluginSetup
from penstock.contracts.pipeline import PluginProblem
from penstock.errors import BadSetting
from penstock.plugins.folders import PluginFolders, shown
from penstock.plugins.guard import PluginFault, call_plugin
from penstock.plugins.hook_checks import has_hooks, hook_problem
from penstock.plugins.offers import POLICIES_HOOK, Plugins, collect_offers
from penstock.plugins.progress import loading
from penstock.plugins.sources import PluginSource, find_sources, is_enabled
from penstock.settings import Settings


def load_plugins(settings: Settings, *, extra: Iterable[tuple[str, object]] = ()) -> Plugins:
    """Load what is installed (entry points of group `penstock`) and the plugin folders.

    `extra` are plugins given as objects, by name. Raises BadSetting if the allow list has the name
    of a plugin that does not exist.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    installed = tuple(entry_points(group=hookspecs.PROJECT))
    plugins = Plugins(manager, PluginFolders(settings.plugin_path, installed=installed))
    plugins.folders.install()
    sources = find_sources(plugins, settings, extra)
    _check_allowed(settings, sources.by_name)
    logs.register_plugin_modules(
        {entry.module.partition(".")[0] for entry in installed}
        | plugins.folders.modules.keys() - plugins.folders.conflicts.keys()
    )
    loader = _Loader(plugins, frozenset(sources.helpers) - settings.plugins_allow)
    for name, source in sorted(sources.by_name.items()):
        if is_enabled(name, settings):
            _load(loader, plugins, name, source)
    loader.note_unused_helpers()
    setup = PluginSetup(
        settings.environment, settings.issuer, settings.api_key_headers, settings.max_header
    )
    collect_offers(plugins, setup)
    logs.register_plugin_loggers(_loggers(plugins, {item.name: item.module for item in installed}))
    return plugins


def _loggers(plugins: Plugins, modules: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the loggers of each plugin: its module, and one of each of its pipelines."""
    loggers = {name: [modules.get(name, name).partition(".")[0]] for name in plugins.loaded}
    for offer in plugins.offers:
        loggers.setdefault(offer.plugin, []).append(f"pipeline.{offer.pipeline.name}")
    return loggers


def _check_allowed(settings: Settings, sources: Mapping[str, PluginSource]) -> None:
    """Raise BadSetting if the allow list has the name of a plugin that does not exist."""
    missing = settings.plugins_allow - sources.keys()
    if not missing:
        return
    near = get_close_matches(min(missing), sorted(sources), n=1)
    existing = f"there are: {', '.join(sorted(sources)) or 'none'}"
    hint = f"did you mean {near[0]}?" if near else existing
    raise BadSetting(
        f"PENSTOCK_PLUGINS_ALLOW names {min(missing)!r}, which is not to be found; {hint}"
    )


def _load(loader: _Loader, plugins: Plugins, name: str, source: PluginSource) -> None:
    """Load a plugin, and undo its changes to the configuration of logs."""
    with logs.preserve_logging() as changed, loading(name, plugins.files.get(name, "")):
        loader.load(name, source)
    if changed:
        problem = f"it configures {' and '.join(changed)}, which was put back"
        fix = "leave the configuration of logs to Penstock; its settings are PENSTOCK_LOG_…"
        plugins.notes.append(plugins.fault(name, problem, fix))


class _Loader:
    """Loads plugins one after the other.

    A fault that stops several plugins is reported in full for the first of them only.
    """

    def __init__(self, plugins: Plugins, may_be_helpers: frozenset[str]) -> None:
        self._plugins = plugins
        self._may_be_helpers = may_be_helpers
        self._without_hooks: list[str] = []
        self._first_with: dict[str, str] = {}  # the first plugin with a fault, by fault

    def load(self, name: str, source: PluginSource) -> None:
        """Load one plugin. Its faults are noted, and stop no other plugin."""
        plugins = self._plugins
        if source.problem:
            self._silence(name, source, source.problem)
            return
        try:
            plugin = call_plugin(name, "its import", source.load)
        except PluginFault as fault:
            plugins.problems.append(self._import_problem(name, fault))
            self._silence(name, source, fault.problem)
            return
        try:
            problem = call_plugin(
                name, "looking for its hooks", lambda: self._register(name, plugin)
            )
        except PluginFault as fault:
            problem = fault.problem, "correct it and reload"
        if problem is None:
            return
        plugins.problems.append(plugins.fault(name, *problem))
        if plugins.manager.has_plugin(name):
            plugins.manager.unregister(name=name)
        if _may_offer_policies(name, plugin):
            plugins.silent[name] = problem[0]

    def note_unused_helpers(self) -> None:
        """Note the modules that implement no hook and that no other module imports."""
        imported = self._plugins.folders.imported() if self._without_hooks else frozenset()
        for name in self._without_hooks:
            if name not in imported:
                fix = (
                    "put @hookimpl above a hook if it is a plugin, import it if it is a helper, or"
                    " remove it"
                )
                problem = "it implements no hook, and no plugin imports it"
                self._plugins.notes.append(self._plugins.fault(name, problem, fix))

    def _silence(self, name: str, source: PluginSource, problem: str) -> None:
        if source.mentions(POLICIES_HOOK):
            self._plugins.silent[name] = problem

    def _register(self, name: str, plugin: object) -> tuple[str, str] | None:
        """Register a plugin. Return the fault of its hooks with its fix, None if there is none."""
        plugins = self._plugins
        file = getattr(plugin, "__file__", None)
        if isinstance(file, str):
            plugins.files.setdefault(name, shown(file))
        problem = hook_problem(plugins.manager, plugin)
        if problem is not None:
            return problem
        if not has_hooks(plugins.manager, plugin):
            if name in self._may_be_helpers:
                self._without_hooks.append(name)
                return None
            return (
                "it implements no hook",
                "offer something, such as penstock_pipelines, with @hookimpl above it",
            )
        try:
            plugins.manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            return (
                " ".join(str(error).split()),
                "take only arguments that the hook has (penstock/hookspecs.py)",
            )
        plugins.loaded.append(name)
        return None

    def _import_problem(self, name: str, fault: PluginFault) -> PluginProblem:
        cause = fault.problem.removeprefix("its import raised ")
        first = self._first_with.setdefault(cause, name)
        if first != name:
            problem = f"can't be imported, for the same reason as {first}"
            return self._plugins.fault(name, problem, f"see {first}")
        return self._plugins.fault(
            name, f"can't be imported: {cause}", _import_fix(fault.__cause__), fault.trace
        )


def _import_fix(error: BaseException | None) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install {error.name.partition('.')[0]}, or correct the import; then reload"
    if isinstance(error, ImportError):
        return "correct the import and reload"
    if isinstance(error, SyntaxError):
        return "correct the syntax and reload"
    return "correct what the module does when it is imported, and reload"


def _may_offer_policies(name: str, plugin: object) -> bool:
    """Return whether a plugin that can't be used may have offered access policies."""
    try:
        return call_plugin(name, "looking for its hooks", lambda: POLICIES_HOOK in dir(plugin))
    except PluginFault:
        return True
