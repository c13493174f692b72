"""Find plugins, load them, and check what they offer; one that is broken harms no other."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import pluggy

from penstock import hookspecs, logs
from penstock.contracts.access import AccessPolicy, Authenticator, Command, Document, Setup, TokenIssuer
from penstock.contracts.pipeline import Mistake, Pipeline
from penstock.errors import BadSetting
from penstock.folders import Module, PluginFolders, SourceLoader, place_of, shown
from penstock.settings import Settings

Load = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Offer:
    """One pipeline, and the plugin that offers it."""

    plugin: str
    pipeline: Pipeline


@dataclass(slots=True)
class Plugins:
    """What the loaded plugins offer together, and what is wrong with them. `notes` are remarks that stop nothing."""

    manager: pluggy.PluginManager
    folders: PluginFolders
    loaded: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    policies: list[AccessPolicy] = field(default_factory=list)
    authenticators: list[Authenticator] = field(default_factory=list)
    issuers: list[TokenIssuer] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    commands: list[tuple[str, Command]] = field(default_factory=list)  # with the plugin that adds it
    mistakes: list[Mistake] = field(default_factory=list)
    notes: list[Mistake] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # by plugin, where that is known

    def fault(self, plugin: str, problem: str, mend: str, trace: str = "") -> Mistake:
        """Return a fault of a plugin as a whole."""
        return Mistake(plugin, "", problem, mend, trace, self.files.get(plugin, ""))


def load_plugins(settings: Settings, *, extra: Iterable[tuple[str, object]] = ()) -> Plugins:
    """Load what is installed (entry points of group `penstock`) and what lies in the plugin folders.

    `extra` are plugins given as objects, by name. Raises BadSetting if the allow list names what is not there.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    installed = tuple(entry_points(group=hookspecs.PROJECT))
    plugins = Plugins(manager, PluginFolders(settings.plugin_path, installed=installed))
    plugins.folders.install()
    found: dict[str, Load] = {entry.name: entry.load for entry in installed}
    helpers = _in_folders(plugins, found, settings)
    for name, plugin in extra:
        found[name] = lambda plugin=plugin: plugin  # type: ignore[misc]  # mypy can't infer a lambda with a default
    missing = settings.allow - set(found)
    if missing:
        near = get_close_matches(min(missing), sorted(found), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(found)) or 'none'}"
        raise BadSetting(f"PENSTOCK_PLUGINS_ALLOW names {min(missing)!r}, which is not to be found; {hint}")
    logs.of_plugins({entry.module.partition(".")[0] for entry in installed} | plugins.folders.modules.keys() - plugins.folders.conflicts.keys())
    loading = _Loading(plugins, helpers - settings.allow)
    for name in sorted(found):
        if _wanted(name, settings):
            with logs.kept() as changed:
                loading.load(name, found[name])
            if changed:
                problem = f"it configures {' and '.join(changed)}, which was put back"
                plugins.notes.append(plugins.fault(name, problem, "leave the configuration of logs to Penstock; its settings are PENSTOCK_LOG_…"))
    loading.tell_helpers()
    _collect(plugins, Setup(settings.environment, settings.issuer, settings.api_key_headers))
    return plugins


def _wanted(name: str, settings: Settings) -> bool:
    return (not settings.allow or name in settings.allow) and name not in settings.deny


def _in_folders(plugins: Plugins, found: dict[str, Load], settings: Settings) -> frozenset[str]:
    """Add the modules of the plugin folders that may be plugins, and return their names; those whose name means something else are reported."""
    folders, added = plugins.folders, set()
    installed = {entry.name: entry.module for entry in folders.installed}
    for name, module in folders.modules.items():
        file = shown(module.place)
        if name in installed:
            if name in folders.conflicts or installed[name] != name:
                problem = f"{file} is not loaded: the installed plugin {name} is"
                plugins.notes.append(Mistake(name, "", problem, "rename it, or remove one of them"))
            continue
        if module.may_be_plugin:
            plugins.files[name] = file
            found[name] = _folder_loader(module)
            added.add(name)
        if not _wanted(name, settings):
            continue
        if name in folders.copies:
            plugins.notes.append(Mistake(name, "", f"{file} is loaded, not its copy {folders.copies[name]}", "remove one of them"))
        if name in folders.conflicts:
            plugins.mistakes.append(Mistake(name, "", f"{file} has the name of {folders.conflicts[name]}", "rename the file", file=file))
        elif name in folders.twice and module.may_be_plugin:
            places = " and ".join(shown(item.place) for item in folders.twice[name])
            plugins.mistakes.append(Mistake(name, "", f"there are two modules of its name, {places}", "rename one of them"))
    clear = added - folders.conflicts.keys() - folders.twice.keys()
    for name in added - clear:
        found[name] = _reported
    return frozenset(clear)


def _reported() -> None:
    """Stand for a module whose fault was told already."""


def _folder_loader(module: Module) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        name, path = module.name, str(module.place)
        known = sys.modules.get(name)
        if known is not None:
            if getattr(known, "__file__", None) == path:
                return known
            raise ImportError(f"another module is named {name!r}; rename {path}")
        locations = [os.path.dirname(path)] if os.path.basename(path) == "__init__.py" else None  # noqa: PTH119, PTH120  importlib's are texts
        spec = importlib.util.spec_from_file_location(name, path, loader=SourceLoader(name, path), submodule_search_locations=locations)
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


class _Loading:
    """Loads plugins one after the other; a fault that stops several is told in full once, of the first."""

    def __init__(self, plugins: Plugins, may_be_helpers: frozenset[str]) -> None:
        self._plugins = plugins
        self._may_be_helpers = may_be_helpers
        self._without_hooks: list[str] = []
        self._told: dict[tuple[str, str], str] = {}

    def load(self, name: str, load: Load) -> None:
        """Load one plugin; whatever it does, it does not stop the others."""
        plugins = self._plugins
        if load is _reported:
            return
        try:
            plugin = load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a module may raise anything, SystemExit too
            plugins.mistakes.append(self._not_imported(name, error))
            return
        file = getattr(plugin, "__file__", None)
        if file is not None:
            plugins.files.setdefault(name, shown(file))
        problem = _hook_problem(plugins.manager, plugin)
        if problem is None and not _offers(plugins.manager, plugin):
            if name in self._may_be_helpers:
                self._without_hooks.append(name)
                return
            problem = "it implements no hook", "offer something, such as penstock_pipelines, with @hookimpl above it"
        if problem is None:
            try:
                plugins.manager.register(plugin, name)
            except (pluggy.PluginValidationError, ValueError) as error:
                problem = (" ".join(str(error).split()), "take only arguments that the hook has (penstock/hookspecs.py)")
        if problem is not None:
            plugins.mistakes.append(plugins.fault(name, *problem))
            return
        plugins.loaded.append(name)

    def _not_imported(self, name: str, error: BaseException) -> Mistake:
        place = place_of(error, self._plugins.folders)
        what = f"{type(error).__name__}: {_text(error)}" + (f" ({place})" if place else "")
        first = self._told.setdefault((type(error).__name__, what), name)
        if first != name:
            return self._plugins.fault(name, f"can't be imported, for the same reason as {first}", f"see {first}")
        return self._plugins.fault(name, f"can't be imported: {what}", _import_mend(error), "".join(traceback.format_exception(error)))

    def tell_helpers(self) -> None:
        """Note the modules that have no hook and that no other module imports."""
        imported = self._plugins.folders.imported() if self._without_hooks else frozenset()
        for name in self._without_hooks:
            if name not in imported:
                mend = "put @hookimpl above a hook if it is a plugin, import it if it is a helper, or remove it"
                self._plugins.notes.append(self._plugins.fault(name, "it implements no hook, and no plugin imports it", mend))


def _text(error: BaseException) -> str:
    """Return what an exception says, in one line; its place is told apart."""
    try:
        return " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except Exception:  # noqa: BLE001  plugin code decides what its exceptions say
        return "it can't be told what"


def _import_mend(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install {error.name.partition('.')[0]}, or correct the import; then reload"
    if isinstance(error, ImportError):
        return "correct the import and reload"
    if isinstance(error, SyntaxError):
        return "correct the syntax and reload"
    return "correct what the module does when it is imported, and reload"


def _hook_problem(manager: pluggy.PluginManager, plugin: object) -> tuple[str, str] | None:
    """Say what is wrong with a plugin's hooks before it is registered; pluggy itself would only tell afterwards."""
    known = {name for name in dir(hookspecs) if name.startswith("penstock_")}
    for name in dir(plugin):
        if name.startswith("__"):
            continue
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if name in known and not marked and inspect.isroutine(getattr(plugin, name, None)):
            return f"{name} is not marked as a hook", "put @hookimpl above it"
        if marked and name not in known:
            near = get_close_matches(name, sorted(known), n=1)
            return f"unknown hook {name}", f"did you mean {near[0]}?" if near else f"hooks are: {', '.join(sorted(known))}"
    return None


def _offers(manager: pluggy.PluginManager, plugin: object) -> bool:
    return any(not name.startswith("__") and manager.parse_hookimpl_opts(plugin, name) is not None for name in dir(plugin))


def _collect(plugins: Plugins, setup: Setup) -> None:
    kinds: tuple[tuple[str, type[Any], Callable[[str, Any], None]], ...] = (
        ("penstock_policies", AccessPolicy, lambda _, item: plugins.policies.append(item)),
        ("penstock_authenticators", Authenticator, lambda _, item: plugins.authenticators.append(item)),
        ("penstock_token_issuers", TokenIssuer, lambda _, item: plugins.issuers.append(item)),
        ("penstock_documents", Document, lambda _, item: plugins.documents.append(item)),
        ("penstock_commands", Command, lambda name, item: plugins.commands.append((name, item))),
        ("penstock_pipelines", Pipeline, lambda name, item: plugins.offers.append(Offer(name, item))),
    )
    for hook, kind, keep in kinds:
        for implementation in getattr(plugins.manager.hook, hook).get_hookimpls():
            name = implementation.plugin_name
            available = {"setup": setup}
            try:
                offered = list(implementation.function(*(available[argument] for argument in implementation.argnames)) or ())
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  a hook may raise anything, SystemExit too; it must not stop the others
                plugins.mistakes.append(_raised(plugins, name, hook, error))
                continue
            for item in offered:
                if isinstance(item, kind):
                    keep(name, item)
                else:
                    problem = f"{hook} offers a {type(item).__name__}, not a {kind.__name__}"
                    plugins.mistakes.append(plugins.fault(name, problem, f"return a list of {kind.__name__} values"))
    _drop_commands(plugins, {name for name, number in Counter(command.name for _, command in plugins.commands).items() if number > 1})


def _drop_commands(plugins: Plugins, doubled: Collection[str]) -> None:
    """Leave out commands whose name several plugins give: neither may stand in for the other."""
    for plugin, command in plugins.commands:
        if command.name in doubled:
            plugins.mistakes.append(plugins.fault(plugin, f"the command {command.name!r} is there twice", "give it another name"))
    plugins.commands[:] = [(plugin, command) for plugin, command in plugins.commands if command.name not in doubled]


def _raised(plugins: Plugins, plugin: str, hook: str, error: BaseException) -> Mistake:
    place = place_of(error, plugins.folders)
    problem = f"{hook} raised {type(error).__name__}: {_text(error)}" + (f" ({place})" if place else "")
    return plugins.fault(plugin, problem, "correct it and reload", "".join(traceback.format_exception(error)))
