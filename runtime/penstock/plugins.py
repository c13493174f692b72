"""Find plugins, load them, and check what they offer; one that is broken harms no other."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from penstock import hookspecs
from penstock.contracts.access import AccessPolicy, AccessView, Authenticator, Command, Document, Setup, TokenIssuer
from penstock.contracts.offered import Misfit, OfferedAuthenticator, OfferedIssuer, OfferedPolicy, read_document
from penstock.contracts.pipeline import Mistake, Pipeline
from penstock.errors import BadSetting
from penstock.fields import header_fields
from penstock.guard import PluginFault, ask
from penstock.settings import Settings

POLICIES_HOOK = "penstock_policies"
SKIP = ("_", ".", "test_", "conftest")


@dataclass(frozen=True, slots=True)
class Offer:
    """One pipeline, and the plugin that offers it."""

    plugin: str
    pipeline: Pipeline


@dataclass(slots=True)
class Plugins:
    """What the loaded plugins offer together, and what is wrong with them.

    `silent` are plugins whose access policies could not be asked for: nobody knows what they would refuse.
    """

    manager: pluggy.PluginManager
    loaded: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    policies: list[OfferedPolicy] = field(default_factory=list)
    authenticators: list[OfferedAuthenticator] = field(default_factory=list)
    issuers: list[OfferedIssuer] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)

    def commands(self) -> list[Command]:
        """Return the subcommands that plugins add; a plugin that fails here adds none."""
        added: list[Command] = []
        for implementation in self.manager.hook.penstock_commands.get_hookimpls():
            name = implementation.plugin_name

            def offered(hook: Callable[[], Any] = implementation.function) -> list[Command]:
                return [item for item in hook() or () if isinstance(item, Command) and type(item.name) is str and type(item.help) is str]

            try:
                added += ask(name, "penstock_commands", offered)
            except PluginFault as error:
                self.mistakes.append(_mistake(name, error))
        return added


def load_plugins(settings: Settings, *, extra: Iterable[tuple[str, object]] = ()) -> Plugins:
    """Load what is installed (entry points of group `penstock`) and what lies in the plugin folders.

    `extra` are plugins given as objects, by name. Raises BadSetting if the allow list names what is not there.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found = _find(settings)
    for name, plugin in extra:
        found[name] = _Found(lambda plugin=plugin: plugin)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    missing = settings.allow - set(found)
    if missing:
        near = get_close_matches(min(missing), sorted(found), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(found)) or 'none'}"
        raise BadSetting(f"PENSTOCK_PLUGINS_ALLOW names {min(missing)!r}, which is not to be found; {hint}")
    plugins = Plugins(manager)
    for name in sorted(found):
        if (settings.allow and name not in settings.allow) or name in settings.deny:
            continue
        _register(plugins, name, found[name])
    _collect(plugins, Setup(settings.environment, settings.issuer, settings.api_key_headers, settings.max_header))
    return plugins


@dataclass(frozen=True, slots=True)
class _Found:
    """A plugin that is there: what imports it, and the file that it is, as far as that is known without."""

    load: Callable[[], object]
    file: Callable[[], Path | None] = lambda: None

    def names(self, hook: str) -> bool:
        """Say whether its source names a hook."""
        try:
            path = self.file()
            return path is not None and hook in path.read_text(encoding="utf-8", errors="replace")
        except Exception:  # noqa: BLE001  finding a module may run code of its package
            return False


def _find(settings: Settings) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for entry in entry_points(group=hookspecs.PROJECT):
        found[entry.name] = _Found(entry.load, partial(_file_of, entry))
    for folder in settings.plugin_path:
        for path in sorted(folder.iterdir()):
            is_package = path.is_dir() and (path / "__init__.py").is_file()
            if path.name.startswith(SKIP) or not (is_package or path.suffix == ".py"):
                continue
            file = path / "__init__.py" if is_package else path
            found.setdefault(path.stem, _Found(_folder_loader(file, path.stem), partial(Path, file)))
    return found


def _file_of(entry: EntryPoint) -> Path | None:
    spec = importlib.util.find_spec(entry.module)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _folder_loader(path: Path, name: str) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        known = sys.modules.get(name)
        if known is not None:
            if getattr(known, "__file__", None) == str(path):
                return known
            raise ImportError(f"another module is named {name!r}; rename {path}")
        spec = importlib.util.spec_from_file_location(
            name, path, submodule_search_locations=[str(path.parent)] if path.name == "__init__.py" else None
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} can't be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return load


def _register(plugins: Plugins, name: str, found: _Found) -> None:
    try:
        plugin = ask(name, "its import", found.load)
    except PluginFault as error:
        problem = f"can't be imported: {error.problem.removeprefix('its import raised ')}"
        plugins.mistakes.append(Mistake(name, "", problem, "mend the import and reload", trace=error.trace))
        if found.names(POLICIES_HOOK):
            plugins.silent[name] = problem
        return
    try:
        wrong = ask(name, "looking for its hooks", lambda: _registered(plugins.manager, name, plugin))
    except PluginFault as error:
        wrong = (error.problem, "mend it and reload")
    if wrong is None:
        plugins.loaded.append(name)
        return
    plugins.mistakes.append(Mistake(name, "", *wrong))
    if plugins.manager.has_plugin(name):
        plugins.manager.unregister(name=name)
    if _may_judge(name, plugin):
        plugins.silent[name] = wrong[0]


def _may_judge(name: str, plugin: object) -> bool:
    """Say whether a plugin that can't be used would have offered access policies."""
    try:
        return ask(name, "looking for its hooks", lambda: POLICIES_HOOK in dir(plugin))
    except PluginFault:
        return True


def _registered(manager: pluggy.PluginManager, name: str, plugin: object) -> tuple[str, str] | None:
    """Register a plugin, or say what is wrong with its hooks."""
    problem = _hook_problem(manager, plugin)
    if problem is None:
        try:
            manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            return " ".join(str(error).split()), "take only arguments that the hook has (penstock/hookspecs.py)"
    return problem


def _hook_problem(manager: pluggy.PluginManager, plugin: object) -> tuple[str, str] | None:
    """Say what is wrong with a plugin's hooks before it is registered; pluggy itself would only tell afterwards."""
    known = {name for name in dir(hookspecs) if name.startswith("penstock_")}
    implemented = 0
    for name in dir(plugin):
        if name.startswith("__"):
            continue
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if name in known and not marked and inspect.isroutine(getattr(plugin, name, None)):
            return f"{name} is not marked as a hook", "put @hookimpl above it"
        if marked and name not in known:
            near = get_close_matches(name, sorted(known), n=1)
            return f"unknown hook {name}", f"did you mean {near[0]}?" if near else f"hooks are: {', '.join(sorted(known))}"
        implemented += marked
    if not implemented:
        return "it implements no hook", "offer something, such as penstock_pipelines, with @hookimpl above it"
    return None


def _collect(plugins: Plugins, setup: Setup) -> None:
    """Ask all plugins for what they offer, and check it. What can't be understood is not there; of policies nobody may go without it."""
    kinds: tuple[tuple[str, type[Any], Callable[[str, Any], None]], ...] = (
        (POLICIES_HOOK, AccessPolicy, lambda name, item: plugins.policies.append(OfferedPolicy.of(name, item))),
        ("penstock_authenticators", Authenticator, lambda name, item: plugins.authenticators.append(OfferedAuthenticator.of(name, item))),
        ("penstock_token_issuers", TokenIssuer, lambda name, item: plugins.issuers.append(OfferedIssuer.of(name, item))),
        ("penstock_documents", Document, lambda name, item: plugins.documents.append(_guarded(name, read_document(item)))),
        ("penstock_pipelines", Pipeline, lambda name, item: plugins.offers.append(Offer(name, item))),
    )
    available = {"setup": setup}
    for hook, kind, keep in kinds:
        for implementation in getattr(plugins.manager.hook, hook).get_hookimpls():
            wrong = _kept(implementation, hook, kind, keep, available)
            plugins.mistakes += wrong
            if wrong and hook == POLICIES_HOOK:
                plugins.silent[implementation.plugin_name] = wrong[0].problem


def _kept(
    implementation: pluggy.HookImpl, hook: str, kind: type[Any], keep: Callable[[str, Any], None], available: Mapping[str, object]
) -> list[Mistake]:
    """Ask one plugin for one kind of thing and keep what it offers; return what is wrong with it."""
    name, wrong = implementation.plugin_name, list[Mistake]()

    def offered() -> list[Any]:
        answer: Any = implementation.function(*(available[argument] for argument in implementation.argnames))
        return list(answer) if answer is not None else []

    def problem(item: object) -> tuple[str, str] | None:
        if not isinstance(item, kind):
            return f"{hook} offers a {type(item).__name__}, not a {kind.__name__}", f"return a list of {kind.__name__} values"
        try:
            keep(name, item)
        except Misfit as error:
            return f"{hook} offers a {type(item).__name__} that can't be used: {error}", "give it what its documentation says"
        return None

    try:
        for item in ask(name, hook, offered):
            found = ask(name, hook, lambda item=item: problem(item))  # type: ignore[misc]  # mypy can't infer a lambda with a default
            wrong += [Mistake(name, "", *found)] if found else []
    except PluginFault as error:
        wrong.append(_mistake(name, error))
    return wrong


def _guarded(plugin: str, document: Document) -> Document:
    """Return a document whose `render` returns bytes, and raises PluginFault for anything else. Raises Misfit where its headers can't be sent."""
    try:
        header_fields({"Content-Type": document.content_type, "Cache-Control": f"max-age={document.max_age}"})
    except ValueError as error:
        raise Misfit(f"the document {document.path}: {error}") from None

    def render(access: AccessView) -> bytes:
        made: object = ask(plugin, document.path, lambda: document.render(access))
        if type(made) is not bytes:
            raise PluginFault(plugin, f"{document.path} was rendered as {type(made).__name__}, not bytes")
        return made

    return replace(document, render=render)


def _mistake(plugin: str, error: PluginFault) -> Mistake:
    return Mistake(plugin, "", error.problem, "mend it and reload", trace=error.trace)
