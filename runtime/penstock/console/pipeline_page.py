"""What the tabs of a pipeline's page share: the pipeline, its state everywhere, and the tabs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import request, url_for

from penstock.access.pipelines import in_order, name_of
from penstock.access.users import Role
from penstock.console.context import (
    EnvironmentView,
    console_context,
    shown_environment,
)
from penstock.console.pages import user
from penstock.console.pipeline_states import Entry, all_views, entries_of, served_by
from penstock.console.responses import render
from penstock.errors import UnknownName
from penstock.host.compilation import LoadedPipeline

TABS = (
    ("pipelines_one", "Overview"),
    ("pipelines_gate", "Gate"),
    ("pipelines_consumers", "Consumers"),
    ("pipelines_runs", "Runs"),
    ("pipelines_routes", "Routes"),
    ("pipelines_schedule", "Schedule"),
    ("pipelines_settings", "Settings"),
    ("pipelines_history", "History"),
)


@dataclass(frozen=True, slots=True)
class ShownPipeline:
    """The pipeline of a page, with its entries by environment.

    `item` is None where this console has not loaded it: only reports of processes, or what
    operators decided, are known then. `others` are the other major versions of the name.
    """

    id: str
    item: LoadedPipeline | None
    views: Sequence[EnvironmentView]
    entries: Mapping[str, list[Entry]]
    others: Sequence[str]

    @property
    def query(self) -> dict[str, Any]:
        """The arguments of its addresses."""
        major, _, name = self.id.partition("/")
        return {"major": major, "name": name}

    def view(self, environment: str) -> EnvironmentView:
        """Return one of the environments of the user."""
        return next(view for view in self.views if view.name == environment)


def shown_pipeline(major: str, name: str) -> ShownPipeline:
    """Return a pipeline by its ID. Raises UnknownName."""
    identifier, views = f"{major}/{name}", all_views()
    loaded, entries = console_context().host.catalog.loaded, entries_of(views)
    decided = {pipeline for view in views for pipeline in view.access.pipelines}
    if identifier not in {*loaded, *entries, *decided}:
        raise UnknownName("pipeline", identifier, in_order({*loaded, *entries}))
    same_name = [each for each in {*loaded, *entries} if name_of(each) == name]
    return ShownPipeline(
        identifier,
        loaded.get(identifier),
        views,
        entries.get(identifier, {}),
        in_order(each for each in same_name if each != identifier),
    )


def operates(environment: str) -> bool:
    """Return whether the user may change an environment."""
    role = user().role_in(environment)
    return role is not None and role.may(Role.OPERATOR)


def show_tab(template: str, shown: ShownPipeline, **values: Any) -> str:  # noqa: ANN401  a template's
    """Render a tab. With `env` among the values it is of that environment, with a switch."""
    time = {name: request.args[name] for name in ("from", "to") if request.args.get(name)}
    kept: dict[str, Any] = shown.query | {"env": shown_environment()} | time
    here = request.endpoint or ""
    return render(
        template,
        shown=shown,
        id=shown.id,
        item=shown.item,
        pipeline=shown.item.pipeline if shown.item is not None else None,
        tabs=[
            (title, url_for(f"console.{endpoint}", **kept), here == f"console.{endpoint}")
            for endpoint, title in TABS
        ],
        environments=[view.name for view in shown.views],
        switch_to=[
            (
                view.name,
                url_for(here, **(kept | {"env": view.name})),
                view.name == values.get("env"),
            )
            for view in shown.views
        ],
        other_plugins=[view.name for view in shown.views if not served_by(view).own],
        **values,
    )
