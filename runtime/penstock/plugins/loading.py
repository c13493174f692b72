"""Find plugins, load them, and check what they offer; one that is broken harms no other."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from penstock import hookspecs, logs
from penstock.contracts.access import AccessView, PluginSetup
from penstock.contracts.authenticators import Authenticator
from penstock.contracts.extensions import Command, Document, TokenIssuer
from penstock.contracts.pipeline import Pipeline, PluginProblem
from penstock.contracts.policies import AccessPolicy
from penstock.contracts.registered import (
    InvalidPluginValue,
    RegisteredAuthenticator,
    RegisteredIssuer,
    RegisteredPolicy,
    read_document,
    require_text,
)
from penstock.errors import BadSetting
from penstock.header_fields import header_fields
from penstock.plugins.folders import Module, PluginFolders, SourceLoader, shown
from penstock.plugins.guard import PluginFault, ask
from penstock.settings import Settings

POLICIES_HOOK = "penstock_policies"


@dataclass(frozen=True, slots=True)
class Offer:
    """One pipeline, and the plugin that offers it."""

    plugin: str
    pipeline: Pipeline


@dataclass(slots=True)
class Plugins:
    """What the loaded plugins offer together, and what is wrong with them.

    `notes` are remarks that stop nothing.

    `silent` are plugins whose access policies could not be asked for: nobody knows what they would
    refuse.
    """

    manager: pluggy.PluginManager
    folders: PluginFolders
    loaded: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    policies: list[RegisteredPolicy] = field(default_factory=list)
    authenticators: list[RegisteredAuthenticator] = field(default_factory=list)
    issuers: list[RegisteredIssuer] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    # With the plugin that adds it.
    commands: list[tuple[str, Command]] = field(default_factory=list)
    problems: list[PluginProblem] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    notes: list[PluginProblem] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # by plugin, where that is known

    def fault(self, plugin: str, problem: str, fix: str, trace: str = "") -> PluginProblem:
        """Return a fault of a plugin as a whole."""
        return PluginProblem(plugin, "", problem, fix, trace, self.files.get(plugin, ""))


@dataclass(frozen=True, slots=True)
class _Found:
    """A plugin that is there.

    What imports it, and the file that it is, as far as that is known without. `reported` says that
    it can't be loaded.
    """

    load: Callable[[], object]
    file: Callable[[], Path | None] = lambda: None
    reported: str = ""

    def names(self, hook: str) -> bool:
        """Say whether its source names a hook."""
        try:
            path = self.file()
            return path is not None and hook in path.read_text(encoding="utf-8", errors="replace")
        except Exception:  # noqa: BLE001  finding a module may run code of its package
            return False


def load_plugins(settings: Settings, *, extra: Iterable[tuple[str, object]] = ()) -> Plugins:
    """Load what is installed (entry points of group `penstock`) and the plugin folders.

    `extra` are plugins given as objects, by name. Raises BadSetting if the allow list names what is
    not there.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    installed = tuple(entry_points(group=hookspecs.PROJECT))
    plugins = Plugins(manager, PluginFolders(settings.plugin_path, installed=installed))
    plugins.folders.install()
    found = {entry.name: _Found(entry.load, partial(_file_of, entry)) for entry in installed}
    helpers = _in_folders(plugins, found, settings)
    for name, plugin in extra:
        found[name] = _Found(lambda plugin=plugin: plugin)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    missing = settings.plugins_allow - set(found)
    if missing:
        near = get_close_matches(min(missing), sorted(found), n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"there are: {', '.join(sorted(found)) or 'none'}"
        )
        raise BadSetting(
            f"PENSTOCK_PLUGINS_ALLOW names {min(missing)!r}, which is not to be found; {hint}"
        )
    logs.register_plugin_modules(
        {entry.module.partition(".")[0] for entry in installed}
        | plugins.folders.modules.keys() - plugins.folders.conflicts.keys()
    )
    loading = _Loading(plugins, helpers - settings.plugins_allow)
    for name in sorted(found):
        if _wanted(name, settings):
            with logs.preserve_logging() as changed:
                loading.load(name, found[name])
            if changed:
                problem = f"it configures {' and '.join(changed)}, which was put back"
                plugins.notes.append(
                    plugins.fault(
                        name,
                        problem,
                        "leave the configuration of logs to Penstock; its settings are"
                        " PENSTOCK_LOG_…",
                    )
                )
    loading.tell_helpers()
    _collect(
        plugins,
        PluginSetup(
            settings.environment, settings.issuer, settings.api_key_headers, settings.max_header
        ),
    )
    return plugins


def _wanted(name: str, settings: Settings) -> bool:
    return (
        not settings.plugins_allow or name in settings.plugins_allow
    ) and name not in settings.plugins_deny


def _file_of(entry: EntryPoint) -> Path | None:
    spec = importlib.util.find_spec(entry.module)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _in_folders(plugins: Plugins, found: dict[str, _Found], settings: Settings) -> frozenset[str]:
    """Add the modules of the plugin folders that may be plugins, and return their names.

    Those whose name means something else are reported.
    """
    folders, added = plugins.folders, set()
    installed = {entry.name: entry.module for entry in folders.installed}
    for name, module in folders.modules.items():
        file = shown(module.place)
        if name in installed:
            if name in folders.conflicts or installed[name] != name:
                problem = f"{file} is not loaded: the installed plugin {name} is"
                plugins.notes.append(
                    PluginProblem(name, "", problem, "rename it, or remove one of them")
                )
            continue
        clash = _clash(folders, module)
        if module.may_be_plugin:
            plugins.files[name] = file
            found[name] = _Found(
                _folder_loader(module),
                partial(Path, module.place),
                reported=clash[0] if clash else "",
            )
            if not clash:
                added.add(name)
        if not _wanted(name, settings):
            continue
        if name in folders.copies:
            plugins.notes.append(
                PluginProblem(
                    name,
                    "",
                    f"{file} is loaded, not its copy {folders.copies[name]}",
                    "remove one of them",
                )
            )
        if clash:
            plugins.problems.append(
                PluginProblem(name, "", *clash, file=file if name in folders.conflicts else "")
            )
    return frozenset(added)


def _clash(folders: PluginFolders, module: Module) -> tuple[str, str] | None:
    """Return why the name of a module in a plugin folder can't mean it, and what to do."""
    if module.name in folders.conflicts:
        return (
            f"{shown(module.place)} has the name of {folders.conflicts[module.name]}",
            "rename the file",
        )
    if module.name in folders.twice and module.may_be_plugin:
        places = " and ".join(shown(item.place) for item in folders.twice[module.name])
        return f"there are two modules of its name, {places}", "rename one of them"
    return None


def _folder_loader(module: Module) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        name, path = module.name, str(module.place)
        known = sys.modules.get(name)
        if known is not None:
            if getattr(known, "__file__", None) == path:
                return known
            raise ImportError(f"another module is named {name!r}; rename {path}")
        locations = [os.path.dirname(path)] if os.path.basename(path) == "__init__.py" else None  # noqa: PTH119, PTH120  importlib's are texts
        spec = importlib.util.spec_from_file_location(
            name, path, loader=SourceLoader(name, path), submodule_search_locations=locations
        )
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
    """Loads plugins one after the other.

    A fault that stops several is told in full once, of the first.
    """

    def __init__(self, plugins: Plugins, may_be_helpers: frozenset[str]) -> None:
        self._plugins = plugins
        self._may_be_helpers = may_be_helpers
        self._without_hooks: list[str] = []
        self._told: dict[str, str] = {}

    def load(self, name: str, found: _Found) -> None:
        """Load one plugin; whatever it does, it does not stop the others."""
        plugins = self._plugins
        if found.reported:
            self._silence(name, found, found.reported)
            return
        try:
            plugin = ask(name, "its import", found.load)
        except PluginFault as fault:
            plugins.problems.append(self._not_imported(name, fault))
            self._silence(name, found, fault.problem)
            return
        try:
            wrong = ask(name, "looking for its hooks", lambda: self._registered(name, plugin))
        except PluginFault as fault:
            wrong = fault.problem, "correct it and reload"
        if wrong is None:
            return
        plugins.problems.append(plugins.fault(name, *wrong))
        if plugins.manager.has_plugin(name):
            plugins.manager.unregister(name=name)
        if _may_judge(name, plugin):
            plugins.silent[name] = wrong[0]

    def _silence(self, name: str, found: _Found, problem: str) -> None:
        if found.names(POLICIES_HOOK):
            self._plugins.silent[name] = problem

    def _registered(self, name: str, plugin: object) -> tuple[str, str] | None:
        """Register a plugin, or say what is wrong with its hooks."""
        plugins = self._plugins
        file = getattr(plugin, "__file__", None)
        if isinstance(file, str):
            plugins.files.setdefault(name, shown(file))
        problem = _hook_problem(plugins.manager, plugin)
        if problem is not None:
            return problem
        if not _offers(plugins.manager, plugin):
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

    def _not_imported(self, name: str, fault: PluginFault) -> PluginProblem:
        what = fault.problem.removeprefix("its import raised ")
        first = self._told.setdefault(what, name)
        if first != name:
            return self._plugins.fault(
                name, f"can't be imported, for the same reason as {first}", f"see {first}"
            )
        return self._plugins.fault(
            name, f"can't be imported: {what}", _import_mend(fault.__cause__), fault.trace
        )

    def tell_helpers(self) -> None:
        """Note the modules that have no hook and that no other module imports."""
        imported = self._plugins.folders.imported() if self._without_hooks else frozenset()
        for name in self._without_hooks:
            if name not in imported:
                fix = (
                    "put @hookimpl above a hook if it is a plugin, import it if it is a helper, or"
                    " remove it"
                )
                self._plugins.notes.append(
                    self._plugins.fault(
                        name, "it implements no hook, and no plugin imports it", fix
                    )
                )


def _import_mend(error: BaseException | None) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install {error.name.partition('.')[0]}, or correct the import; then reload"
    if isinstance(error, ImportError):
        return "correct the import and reload"
    if isinstance(error, SyntaxError):
        return "correct the syntax and reload"
    return "correct what the module does when it is imported, and reload"


def _may_judge(name: str, plugin: object) -> bool:
    """Say whether a plugin that can't be used would have offered access policies."""
    try:
        return ask(name, "looking for its hooks", lambda: POLICIES_HOOK in dir(plugin))
    except PluginFault:
        return True


def _hook_problem(manager: pluggy.PluginManager, plugin: object) -> tuple[str, str] | None:
    """Say what is wrong with a plugin's hooks before it is registered.

    Pluggy itself would only tell afterwards.
    """
    known = {name for name in dir(hookspecs) if name.startswith("penstock_")}
    for name in dir(plugin):
        if name.startswith("__"):
            continue
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if name in known and not marked and inspect.isroutine(getattr(plugin, name, None)):
            return f"{name} is not marked as a hook", "put @hookimpl above it"
        if marked and name not in known:
            near = get_close_matches(name, sorted(known), n=1)
            return (
                f"unknown hook {name}",
                f"did you mean {near[0]}?" if near else f"hooks are: {', '.join(sorted(known))}",
            )
    return None


def _offers(manager: pluggy.PluginManager, plugin: object) -> bool:
    return any(
        not name.startswith("__") and manager.parse_hookimpl_opts(plugin, name) is not None
        for name in dir(plugin)
    )


def _collect(plugins: Plugins, setup: PluginSetup) -> None:
    """Ask all plugins for what they offer, and check it.

    What can't be understood is not there; of policies nobody may go without it.
    """
    kinds: tuple[tuple[str, type[Any], Callable[[str, Any], None]], ...] = (
        (
            POLICIES_HOOK,
            AccessPolicy,
            lambda name, item: plugins.policies.append(RegisteredPolicy.of(name, item)),
        ),
        (
            "penstock_authenticators",
            Authenticator,
            lambda name, item: plugins.authenticators.append(
                RegisteredAuthenticator.of(name, item)
            ),
        ),
        (
            "penstock_token_issuers",
            TokenIssuer,
            lambda name, item: plugins.issuers.append(RegisteredIssuer.of(name, item)),
        ),
        (
            "penstock_documents",
            Document,
            lambda name, item: plugins.documents.append(_guarded(name, read_document(item))),
        ),
        (
            "penstock_commands",
            Command,
            lambda name, item: plugins.commands.append((name, _command(item))),
        ),
        (
            "penstock_pipelines",
            Pipeline,
            lambda name, item: plugins.offers.append(Offer(name, item)),
        ),
    )
    available = {"setup": setup}
    for hook, kind, keep in kinds:
        for implementation in getattr(plugins.manager.hook, hook).get_hookimpls():
            wrong = _kept(plugins, implementation, hook, kind, keep, available)
            plugins.problems += wrong
            if wrong and hook == POLICIES_HOOK:
                plugins.silent[implementation.plugin_name] = wrong[0].problem
    _drop_commands(
        plugins,
        {
            name
            for name, number in Counter(command.name for _, command in plugins.commands).items()
            if number > 1
        },
    )


def _kept(
    plugins: Plugins,
    implementation: pluggy.HookImpl,
    hook: str,
    kind: type[Any],
    keep: Callable[[str, Any], None],
    available: Mapping[str, object],
) -> list[PluginProblem]:
    """Ask one plugin for one kind of thing and keep what it offers.

    Return what is wrong with it.
    """
    name, wrong = implementation.plugin_name, list[PluginProblem]()

    def offered() -> list[Any]:
        answer: Any = implementation.function(
            *(available[argument] for argument in implementation.argnames)
        )
        return list(answer) if answer is not None else []

    def problem(item: object) -> tuple[str, str] | None:
        if not isinstance(item, kind):
            return (
                f"{hook} offers a {type(item).__name__}, not a {kind.__name__}",
                f"return a list of {kind.__name__} values",
            )
        try:
            keep(name, item)
        except InvalidPluginValue as error:
            return (
                f"{hook} offers a {type(item).__name__} that can't be used: {error}",
                "give it what its documentation says",
            )
        return None

    try:
        for item in ask(name, hook, offered):
            found = ask(name, hook, lambda item=item: problem(item))  # type: ignore[misc]  # mypy can't infer a lambda with a default
            wrong += [plugins.fault(name, *found)] if found else []
    except PluginFault as fault:
        wrong.append(plugins.fault(name, fault.problem, "correct it and reload", fault.trace))
    return wrong


def _guarded(plugin: str, document: Document) -> Document:
    """Return a document whose `render` returns bytes, and raises PluginFault for anything else.

    Raises InvalidPluginValue where its headers can't be sent.
    """
    try:
        header_fields(
            {"Content-Type": document.content_type, "Cache-Control": f"max-age={document.max_age}"}
        )
    except ValueError as error:
        raise InvalidPluginValue(f"the document {document.path}: {error}") from None

    def render(access: AccessView) -> bytes:
        made: object = ask(plugin, document.path, lambda: document.render(access))
        if type(made) is not bytes:
            raise PluginFault(
                plugin, f"{document.path} was rendered as {type(made).__name__}, not bytes"
            )
        return made

    return replace(document, render=render)


def _command(item: Command) -> Command:
    return replace(
        item,
        name=require_text(item.name, "its name"),
        help=require_text(item.help, "its help") if item.help != "" else "",
    )


def _drop_commands(plugins: Plugins, doubled: Collection[str]) -> None:
    """Leave out commands whose name several plugins give: neither may stand in for the other."""
    for plugin, command in plugins.commands:
        if command.name in doubled:
            plugins.problems.append(
                plugins.fault(
                    plugin, f"the command {command.name!r} is there twice", "give it another name"
                )
            )
    plugins.commands[:] = [
        (plugin, command) for plugin, command in plugins.commands if command.name not in doubled
    ]
