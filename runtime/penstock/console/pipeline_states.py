"""The state of pipelines in each environment, as the processes there report it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flask import g

from penstock.console.context import (
    EnvironmentView,
    console_context,
    environment_filter,
    environment_names,
)
from penstock.console.labels import STATE_KINDS, STATE_LABELS
from penstock.gate.compliance import State
from penstock.gate.open_pipelines import Reach, reach_of
from penstock.host.served import ServedEnvironment, ServedPipeline

# States that need attention come first.
URGENCY = (State.BLOCKED, State.NON_CONFORMANT, State.DISABLED, State.SERVED, State.INTERNAL)
# What only a process makes true. Disabled is a decision of an operator, on any host.
BY_PROCESSES = frozenset({State.SERVED, State.NON_CONFORMANT, State.BLOCKED})


@dataclass(frozen=True, slots=True)
class Entry:
    """A pipeline on a listener of an environment.

    `reported` is False where no process reports: the state is what it would be. `own` is whether
    the processes have the plugins of this console.
    """

    environment: str
    item: ServedPipeline
    policy: str | None
    reported: bool
    own: bool

    @property
    def listener(self) -> str:
        """The listener: external, internal or none."""
        return self.item.listener

    @property
    def word(self) -> str:
        """The state in words."""
        label = STATE_LABELS[self.item.state.value]
        supposed = not self.reported and self.item.state in BY_PROCESSES
        return f"would be {label}" if supposed else label

    @property
    def kind(self) -> str:
        """The colour and shape of the state. What would be served is not good yet."""
        kind = STATE_KINDS.get(self.item.state.value, "off")
        return "off" if kind == "good" and not self.reported else kind

    @property
    def is_open(self) -> bool:
        """Whether anyone may call the pipeline over HTTP."""
        return self.listener != "none" and reach_of(self.item) is Reach.ANYONE


# By the ID of a pipeline and the name of an environment: an entry for each listener.
Entries = dict[str, dict[str, list[Entry]]]


def all_views() -> list[EnvironmentView]:
    """Return the environments of the user as they are now; read once for a page."""
    views: list[EnvironmentView] | None = g.get("views")
    if views is None:
        context = console_context()
        views = g.views = [context.view(name) for name in environment_names()]
    return views


def shown_views() -> list[EnvironmentView]:
    """Return the environment in the query, else all that the user sees. Raises UnknownName."""
    name = environment_filter()
    return [view for view in all_views() if name in {None, view.name}]


def served_by(view: EnvironmentView) -> ServedEnvironment:
    """Return what an environment's processes serve; read once for a page."""
    read: dict[str, ServedEnvironment] = g.setdefault("served", {})
    if view.name not in read:
        read[view.name] = console_context().served(view)
    return read[view.name]


def entries_of(views: Iterable[EnvironmentView]) -> Entries:
    """Return the state of each pipeline in some environments."""
    entries: Entries = {}
    for view in views:
        facts, served = view.access.environment, served_by(view)
        policies = {"external": facts.policy, "internal": facts.internal_policy, "none": None}
        for item in served.pipelines:
            entry = Entry(view.name, item, policies[item.listener], served.reported, served.own)
            entries.setdefault(item.pipeline, {}).setdefault(view.name, []).append(entry)
    return entries


def urgency_of(entries: Iterable[Entry]) -> int:
    """Return the rank of the most urgent state: 0 is blocked."""
    return min((URGENCY.index(entry.item.state) for entry in entries), default=len(URGENCY))
