"""Find plugins, load them, and check what they offer; one that is broken harms no other."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from penstock import hookspecs
from penstock.contracts.access import AccessPolicy, Authenticator, Command, Document, Setup, TokenIssuer
from penstock.contracts.pipeline import Mistake, Pipeline
from penstock.errors import BadSetting
from penstock.fields import header_fields
from penstock.settings import Settings

SKIP = ("_", ".", "test_", "conftest")


@dataclass(frozen=True, slots=True)
class Offer:
    """One pipeline, and the plugin that offers it."""

    plugin: str
    pipeline: Pipeline


@dataclass(slots=True)
class Plugins:
    """What the loaded plugins offer together, and what is wrong with them."""

    manager: pluggy.PluginManager
    loaded: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    policies: list[AccessPolicy] = field(default_factory=list)
    authenticators: list[Authenticator] = field(default_factory=list)
    issuers: list[TokenIssuer] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)

    def commands(self) -> list[Command]:
        """Return the subcommands that plugins add; a plugin that fails here adds none."""
        added: list[Command] = []
        for implementation in self.manager.hook.penstock_commands.get_hookimpls():
            try:
                offered: Any = implementation.function()
                added += [item for item in offered or () if isinstance(item, Command)]
            except Exception as error:  # noqa: BLE001  a stranger's hook may raise anything; it must not stop the others
                self.mistakes.append(_raised(implementation.plugin_name, "penstock_commands", error))
        return added


def load_plugins(settings: Settings, *, extra: Iterable[tuple[str, object]] = ()) -> Plugins:
    """Load what is installed (entry points of group `penstock`) and what lies in the plugin folders.

    `extra` are plugins given as objects, by name. Raises BadSetting if the allow list names what is not there.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found = _find(settings)
    for name, plugin in extra:
        found[name] = lambda plugin=plugin: plugin  # type: ignore[misc]  # mypy can't infer a lambda with a default
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


def _find(settings: Settings) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    for entry in entry_points(group=hookspecs.PROJECT):
        found[entry.name] = _entry_loader(entry)
    for folder in settings.plugin_path:
        for path in sorted(folder.iterdir()):
            is_package = path.is_dir() and (path / "__init__.py").is_file()
            if path.name.startswith(SKIP) or not (is_package or path.suffix == ".py"):
                continue
            found.setdefault(path.stem, _folder_loader(path / "__init__.py" if is_package else path, path.stem))
    return found


def _entry_loader(entry: EntryPoint) -> Callable[[], object]:
    return entry.load


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


def _register(plugins: Plugins, name: str, load: Callable[[], object]) -> None:
    try:
        plugin = load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a stranger's module may raise anything; it must not stop the others
        where = _where(error)
        plugins.mistakes.append(
            Mistake(
                name, "", f"can't be imported: {type(error).__name__}: {error}{where}", "mend the import and reload", trace=traceback.format_exc()
            )
        )
        return
    problem = _hook_problem(plugins.manager, plugin)
    if problem is None:
        try:
            plugins.manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            problem = (" ".join(str(error).split()), "take only arguments that the hook has (penstock/hookspecs.py)")
    if problem is not None:
        plugins.mistakes.append(Mistake(name, "", *problem))
        return
    plugins.loaded.append(name)


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename and frame.filename != __file__]
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


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
    kinds: tuple[tuple[str, type[Any], Callable[[str, Any], None]], ...] = (
        ("penstock_policies", AccessPolicy, lambda _, item: plugins.policies.append(item)),
        ("penstock_authenticators", Authenticator, lambda _, item: plugins.authenticators.append(item)),
        ("penstock_token_issuers", TokenIssuer, lambda _, item: plugins.issuers.append(item)),
        ("penstock_documents", Document, lambda _, item: plugins.documents.append(item)),
        ("penstock_pipelines", Pipeline, lambda name, item: plugins.offers.append(Offer(name, item))),
    )
    for hook, kind, keep in kinds:
        for implementation in getattr(plugins.manager.hook, hook).get_hookimpls():
            name = implementation.plugin_name
            available = {"setup": setup}
            try:
                offered = list(implementation.function(*(available[argument] for argument in implementation.argnames)) or ())
            except Exception as error:  # noqa: BLE001  a stranger's hook may raise anything; it must not stop the others
                plugins.mistakes.append(_raised(name, hook, error))
                continue
            for item in offered:
                if isinstance(item, Document) and (wrong := _unsendable(item)):
                    plugins.mistakes.append(Mistake(name, "", wrong, 'give a media type, such as "application/json"'))
                elif isinstance(item, kind):
                    keep(name, item)
                else:
                    problem = f"{hook} offers a {type(item).__name__}, not a {kind.__name__}"
                    plugins.mistakes.append(Mistake(name, "", problem, f"return a list of {kind.__name__} values"))


def _unsendable(document: Document) -> str:
    """Return why the headers of a document can't be sent, or an empty text."""
    try:
        header_fields({"Content-Type": document.content_type, "Cache-Control": f"max-age={document.max_age}"})
    except ValueError as error:
        return f"the document {document.path}: {error}"
    return ""


def _raised(plugin: str, hook: str, error: Exception) -> Mistake:
    return Mistake(plugin, "", f"{hook} raised {type(error).__name__}: {error}{_where(error)}", "mend it and reload", trace=traceback.format_exc())
