"""Ask the loaded plugins for what they offer, and check each value before it is used.

A value of another type, or with parts of other types, is a fault of its plugin and is left out.
That is not enough for access policies: an unknown policy may have blocked a pipeline. So a plugin
whose policies can't be asked for is `silent`, and blocks every pipeline until it is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pluggy

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
from penstock.header_fields import header_fields
from penstock.plugins.folders import PluginFolders
from penstock.plugins.guard import PluginFault, call_plugin
from penstock.plugins.progress import loading

POLICIES_HOOK = "penstock_policies"

Register = Callable[[str, Any], None]  # adds a value of a plugin, by the plugin's name


@dataclass(frozen=True, slots=True)
class Offer:
    """One pipeline, and the plugin that offers it."""

    plugin: str
    pipeline: Pipeline


@dataclass(slots=True)
class Plugins:
    """All that the loaded plugins offer, and their faults.

    `notes` are remarks that stop nothing. `silent` are plugins whose access policies could not be
    asked for, with the reason. `files` are the files of plugins, where they are known.
    """

    manager: pluggy.PluginManager
    folders: PluginFolders
    loaded: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    policies: list[RegisteredPolicy] = field(default_factory=list)
    authenticators: list[RegisteredAuthenticator] = field(default_factory=list)
    issuers: list[RegisteredIssuer] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    commands: list[tuple[str, Command]] = field(default_factory=list)  # with its plugin
    problems: list[PluginProblem] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    notes: list[PluginProblem] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def fault(self, plugin: str, problem: str, fix: str, trace: str = "") -> PluginProblem:
        """Return a fault of a plugin as a whole."""
        return PluginProblem(plugin, "", problem, fix, trace, self.files.get(plugin, ""))


def collect_offers(plugins: Plugins, setup: PluginSetup) -> None:
    """Ask all plugins for what they offer; add what is valid, and the faults of the rest."""
    for hook, kind, register in _kinds(plugins):
        for implementation in getattr(plugins.manager.hook, hook).get_hookimpls():
            name = implementation.plugin_name
            with loading(name, plugins.files.get(name, "")):
                problems = _collect_from(
                    name, implementation, {"setup": setup}, (hook, kind, register)
                )
            plugins.problems += [plugins.fault(name, *problem) for problem in problems]
            if problems and hook == POLICIES_HOOK:
                plugins.silent[name] = problems[0][0]
    names = Counter(command.name for _, command in plugins.commands)
    _drop_commands(plugins, {name for name, number in names.items() if number > 1})


def _kinds(plugins: Plugins) -> tuple[tuple[str, type[Any], Register], ...]:
    """Return each hook that offers values, their type, and what adds one."""
    return (
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


def _collect_from(
    name: str,
    implementation: pluggy.HookImpl,
    arguments: Mapping[str, object],
    wanted_kind: tuple[str, type[Any], Register],
) -> list[tuple[str, ...]]:
    """Ask one plugin for one kind of value, and add those that are valid.

    Return the faults: problem, fix and, if there is one, traceback.
    """
    hook, kind, register = wanted_kind

    def offered() -> list[Any]:
        answer: Any = implementation.function(
            *(arguments[argument] for argument in implementation.argnames)
        )
        return list(answer) if answer is not None else []

    def problem_of(item: object) -> tuple[str, str] | None:
        if not isinstance(item, kind):
            return (
                f"{hook} offers a {type(item).__name__}, not a {kind.__name__}",
                f"return a list of {kind.__name__} values",
            )
        try:
            register(name, item)
        except InvalidPluginValue as error:
            return (
                f"{hook} offers a {type(item).__name__} that can't be used: {error}",
                "give it what its documentation says",
            )
        return None

    problems: list[tuple[str, ...]] = []
    try:
        for item in call_plugin(name, hook, offered):
            problem = call_plugin(name, hook, lambda item=item: problem_of(item))  # type: ignore[misc]  # mypy can't infer a lambda with a default
            problems += [problem] if problem else []
    except PluginFault as fault:
        problems.append((fault.problem, "correct it and reload", fault.trace))
    return problems


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
        content: object = call_plugin(plugin, document.path, lambda: document.render(access))
        if type(content) is not bytes:
            kind = type(content).__name__
            raise PluginFault(plugin, f"{document.path} was rendered as {kind}, not bytes")
        return content

    return replace(document, render=render)


def _command(item: Command) -> Command:
    return replace(
        item,
        name=require_text(item.name, "its name"),
        help=require_text(item.help, "its help") if item.help != "" else "",
    )


def _drop_commands(plugins: Plugins, duplicates: Collection[str]) -> None:
    """Leave out commands whose name several plugins use: neither may replace the other."""
    for plugin, command in plugins.commands:
        if command.name in duplicates:
            problem = f"the command {command.name!r} is there twice"
            plugins.problems.append(plugins.fault(plugin, problem, "give it another name"))
    plugins.commands[:] = [
        (plugin, command) for plugin, command in plugins.commands if command.name not in duplicates
    ]
