"""Pipelines: a row each, the environments side by side, with state, calls and failures.

As a matrix a row has a cell for each environment. As a list it has a row for each environment and
listener, with the reason and the fix in full.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flask import request, url_for

from penstock.access.pipelines import in_order
from penstock.access.users import Role
from penstock.console.context import EnvironmentView, console_context
from penstock.console.forms import ChoiceField, FilterForm, LineField
from penstock.console.labels import STATE_LABELS
from penstock.console.listing import facet
from penstock.console.pages import Scope, page
from penstock.console.pipeline_states import (
    URGENCY,
    Entry,
    all_views,
    entries_of,
    served_by,
    shown_views,
    urgency_of,
)
from penstock.console.responses import render, this_page
from penstock.gate.open_pipelines import exposed_pipelines
from penstock.host.compilation import LoadedPipeline
from penstock.runs.pipeline_calls import (
    NO_CALLS,
    PipelineCalls,
    calls_by_pipeline,
    last_day,
    total_calls,
)

PER_PAGE = {"matrix": 50, "list": 25}  # pipelines
MAX_FIND_LENGTH = 80
OPEN, DIFFERS = "open", "differs"
SHOW_LABELS = {OPEN: "open to anyone", DIFFERS: "differs between environments"}
KEPT = ("env", "state", "show", "view")  # of the query, beside the fields of the form

# By the name of an environment and the ID of a pipeline.
Calls = Mapping[str, Mapping[str, PipelineCalls]]


class PipelineFilter(FilterForm):
    """Searches and sorts; states and other filters are links."""

    find = LineField("Name", render_kw={"type": "search", "placeholder": "Part of a name"})
    sort = ChoiceField(
        "Sort by",
        [
            ("name", "name"),
            ("state", "state, blocked first"),
            ("calls", "calls, most first"),
            ("failed", "failed calls, most first"),
        ],
        default="name",
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A pipeline with its entries in the environments shown.

    `item` is None where only processes with other plugins have loaded it.
    """

    id: str
    item: LoadedPipeline | None
    entries: Mapping[str, list[Entry]]
    differs: bool

    @property
    def versions(self) -> list[str]:
        """The versions that processes have loaded."""
        return sorted({entry.item.version for entry in self.all})

    @property
    def all(self) -> list[Entry]:
        """The entries of all environments shown."""
        return [entry for listed in self.entries.values() for entry in listed]

    @property
    def states(self) -> set[str]:
        """The states that it has anywhere."""
        return {entry.item.state.value for entry in self.all}

    @property
    def is_open(self) -> bool:
        """Whether anyone may call it somewhere."""
        return any(entry.is_open for entry in self.all)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the query of the page asks for."""

    find: str
    state: str
    show: str

    @classmethod
    def of(cls, form: PipelineFilter) -> Asked:
        """Return the filters in the query; those that don't exist are left out."""
        state, show = request.args.get("state", ""), request.args.get("show", "")
        return cls(
            form.find.data[:MAX_FIND_LENGTH].lower(),
            state if state in STATE_LABELS else "",
            show if show in SHOW_LABELS else "",
        )

    def passes(self, row: Row) -> bool:
        """Return whether the page shows a row."""
        if self.show and not (row.is_open if self.show == OPEN else row.differs):
            return False
        return not self.state or self.state in row.states

    def passes_entry(self, entry: Entry) -> bool:
        """Return whether the list shows an entry of a row that it shows."""
        if self.show == OPEN and not entry.is_open:
            return False
        return not self.state or self.state == entry.item.state.value


def _rows(shown: Sequence[EnvironmentView]) -> list[Row]:
    """Return the pipelines of some environments by name and major version.

    Whether environments differ is of all that the user sees.
    """
    loaded, entries = console_context().host.catalog.loaded, entries_of(all_views())
    exposed = exposed_pipelines(
        {
            view.name: [(item.pipeline, item.listener, item) for item in served_by(view).pipelines]
            for view in all_views()
        }
    )
    differing = {item.pipeline for item in exposed if item.differs}
    names = [view.name for view in shown]
    rows = (
        Row(
            identifier,
            loaded.get(identifier),
            {name: entries[identifier][name] for name in names if name in entries[identifier]},
            identifier in differing,
        )
        for identifier in in_order(entries)
    )
    return [row for row in rows if row.entries]


def _key(sort: str, totals: Calls, row: Row) -> int:
    if sort == "state":
        return urgency_of(row.all)
    numbers = [calls.get(row.id, NO_CALLS) for calls in totals.values()]
    return -sum(each.failed if sort == "failed" else each.calls for each in numbers)


def _sorted(rows: list[Row], sort: str, views: Sequence[EnvironmentView]) -> list[Row]:
    """Return rows in an order; those that are equal stay in the order of names."""
    if sort not in {"state", "calls", "failed"}:
        return rows
    engine, now = console_context().engine, time.time()
    totals: dict[str, Mapping[str, PipelineCalls]] = {}
    if sort != "state":
        totals = {
            view.name: total_calls(engine, last_day(view.access.environment.id, now))
            for view in views
        }
    return sorted(rows, key=partial(_key, sort, totals))


def _facets(rows: Sequence[Row], asked: Asked) -> list[Mapping[str, object]]:
    states = Counter(state for row in rows for state in row.states)
    others = {
        OPEN: sum(row.is_open for row in rows),
        DIFFERS: sum(row.differs for row in rows),
    }
    in_use = [
        (state.value, states[state.value])
        for state in URGENCY
        if states[state.value] or state.value == asked.state
    ]
    return [
        facet("State", "state", in_use, asked.state, STATE_LABELS),
        facet("Show", "show", list(others.items()), asked.show, SHOW_LABELS),
    ]


def _tabs(view: str) -> list[tuple[str, str, bool]]:
    """Return the links to the matrix and to the list, which keep all filters."""
    return [
        ("Matrix", this_page({}, without=("view", "after")), view == "matrix"),
        ("List", this_page({"view": "list"}, without=("after",)), view == "list"),
    ]


@dataclass(frozen=True, slots=True)
class Column:
    """An environment as the head of a column: the numbers of its pipelines by state."""

    name: str
    reported: bool
    served: int
    blocked: int


def _columns(views: Sequence[EnvironmentView]) -> Iterator[Column]:
    for view in views:
        served = served_by(view)
        yield Column(view.name, served.reported, len(served.served), len(served.blocked))


def _calls(views: Sequence[EnvironmentView], rows: Sequence[Row]) -> Calls:
    """Return the calls of the last day of the pipelines that the page shows."""
    engine, now, identifiers = console_context().engine, time.time(), [row.id for row in rows]
    return {
        view.name: calls_by_pipeline(engine, last_day(view.access.environment.id, now), identifiers)
        for view in views
    }


@page("/pipelines", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines() -> str:
    """List pipelines, the environments side by side."""
    views, form = shown_views(), PipelineFilter()
    form.is_valid()
    view = "list" if request.args.get("view") == "list" else "matrix"
    asked, whole = Asked.of(form), _rows(views)
    named = [row for row in whole if asked.find in row.id.lower()]
    rows = _sorted([row for row in named if asked.passes(row)], form.sort.data, views)
    after, number = request.args.get("after"), PER_PAGE[view]
    start = next((index + 1 for index, row in enumerate(rows) if row.id == after), 0)
    shown = rows[start : start + number]
    return render(
        "pipelines.html",
        form=form,
        tabs=_tabs(view),
        view=view,
        facets=_facets(named, asked),
        rows=shown,
        entries=[(row, entry) for row in shown for entry in row.all if asked.passes_entry(entry)],
        columns=list(_columns(views)),
        calls=_calls(views, shown),
        no_calls=NO_CALLS,
        kept={name: value for name, value in request.args.items() if name in KEPT},
        following=this_page({"after": shown[-1].id}) if len(rows) > start + number else None,
        first=this_page({}, without=("after",)) if start else None,
        number=len(rows),
        whole=len(whole),
        everything=url_for("console.pipelines", env=request.args.get("env") or None),
    )
