"""The gate of a pipeline in full: a row for each fact, a column for each environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from penstock.access.users import Role
from penstock.console.context import console_context, environment_filter
from penstock.console.pages import Scope, page
from penstock.console.pipeline_page import ShownPipeline, show_tab, shown_pipeline
from penstock.console.pipeline_states import Entry
from penstock.gate.gate_facts import GateFact
from penstock.host.explanation import explain_gate

GROUPS = ("state", "credentials", "rates", "networks", "limits", "responses")
# Facts that every gate has: their group, and what it means that a gate declares nothing.
STANDARD: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "State": ("state", "not known"),
        "Scopes": ("credentials", "none"),
        "Forwarded token": ("credentials", "no"),
        "Login flow": ("credentials", "no"),
        "Rate": ("rates", "no limit of its own"),
        "Allowed networks": ("networks", "all"),
        "Denied networks": ("networks", "none"),
        "Largest body": ("limits", "not known"),
        "Time limit": ("limits", "not known"),
        "In flight": ("limits", "no limit"),
        "Idempotency-Key": ("limits", "not accepted"),
        "CORS": ("responses", "no other origin"),
        "Response headers": ("responses", "none"),
    }
)


@dataclass(frozen=True, slots=True)
class Column:
    """The gate on a listener of an environment."""

    entry: Entry
    facts: Sequence[GateFact]

    @property
    def title(self) -> str:
        """The environment, with the listener where it is the internal one."""
        internal = " internal" if self.entry.listener == "internal" else ""
        return f"{self.entry.environment}{internal}"


@dataclass(frozen=True, slots=True)
class FactRow:
    """A fact with its values in each column; `absent` is shown where a gate has none."""

    name: str
    cells: Sequence[Sequence[GateFact]]
    absent: str

    @property
    def title(self) -> str:
        """The name with a capital letter."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def source(self) -> str:
        """The source that all values have; "" where they differ."""
        sources = {fact.source for cell in self.cells for fact in cell}
        return sources.pop() if len(sources) == 1 and all(self.cells) else ""


@page("/pipelines/<major>/<name>/gate", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_gate(major: str, name: str) -> str:
    """Show what a call must present, and each limit, with where it comes from."""
    shown = shown_pipeline(major, name)
    columns = _columns(shown)
    return show_tab(
        "pipeline_gate.html",
        shown,
        columns=columns,
        rows=fact_rows([column.facts for column in columns]),
        missing=[
            view.name
            for view in shown.views
            if view.name not in shown.entries and environment_filter() in {None, view.name}
        ],
    )


def _columns(shown: ShownPipeline) -> list[Column]:
    asked = environment_filter()
    return [
        Column(entry, _facts(shown, entry))
        for view in shown.views
        if asked in {None, view.name}
        for entry in shown.entries.get(view.name, ())
        if entry.listener != "none"
    ]


def _facts(shown: ShownPipeline, entry: Entry) -> Sequence[GateFact]:
    """Return the facts of a gate: by the declaration, or by what its processes report."""
    if shown.item is not None and not shown.item.broken:
        host = console_context().host
        access = shown.view(entry.environment).access
        internal = entry.listener == "internal"
        gate = explain_gate(host.catalog, host.evaluator, access, shown.id, internal=internal)
        return [fact for fact in gate.facts if fact.group in GROUPS]
    report = "by the report of its processes"
    facts = [GateFact("state", "State", entry.word, report)]
    facts += [
        GateFact("state", "Blocked by", violation.reason, f"Fix: {violation.fix}")
        for violation in entry.item.violations
    ]
    authenticators = console_context().host.catalog.plugins.authenticators
    nouns = {each.name: each.noun for each in authenticators}
    facts += [
        GateFact("credentials", nouns.get(name, name), "required", report)
        for name in sorted(entry.item.requires)
    ]
    return facts


def fact_rows(columns: Sequence[Sequence[GateFact]]) -> list[FactRow]:
    """Return the facts of some gates as rows: credentials of any of them first in their group."""
    rows = []
    for group in GROUPS:
        own = dict.fromkeys(
            fact.name
            for facts in columns
            for fact in facts
            if fact.group == group and fact.name not in STANDARD
        )
        usual = [name for name, (of, _) in STANDARD.items() if of == group]
        for name in (*own, *usual) if group != "state" else (*usual, *own):
            cells = [[fact for fact in facts if fact.name == name] for facts in columns]
            absent = STANDARD[name][1] if name in STANDARD else "not required"
            rows.append(FactRow(name, cells, absent if name != "Blocked by" else "nothing"))
    return rows
