"""Exposure: who may call each pipeline, all environments side by side."""

from __future__ import annotations

from typing import Any

from flask import request, url_for

from penstock.access.users import Role
from penstock.console.context import console_context, environment_names
from penstock.console.forms import FilterForm, LineField
from penstock.console.pages import Scope, page
from penstock.console.responses import render
from penstock.gate.open_pipelines import ExposedPipeline, Reach, exposed_pipelines

PER_PAGE = 100
MAX_FIND_LENGTH = 80
SHOWN = {
    "open": "open to anyone",
    "key": "by a key alone",
    "differs": "differs between environments",
    "all": "all pipelines",
}
REACH_KINDS = {Reach.ANYONE: "warn", Reach.KEY_ALONE: "run", Reach.MORE: "good"}


class ExposureFilter(FilterForm):
    """Filters by a part of the pipeline's ID."""

    find = LineField("Pipeline", render_kw={"type": "search", "placeholder": "Part of a name"})


def _passes(item: ExposedPipeline, shown: str) -> bool:
    if shown == "open":
        return item.reaches(Reach.ANYONE)
    if shown == "key":
        return item.reaches(Reach.KEY_ALONE)
    return item.differs or shown == "all"


@page("/pipelines/exposure", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_exposure() -> str:
    """List who may call each pipeline in each environment."""
    context, form = console_context(), ExposureFilter()
    shown = request.args.get("show", "open")
    shown = shown if shown in SHOWN else "open"
    query = form.query() if form.is_valid() else {}
    find = (form.find.data or "")[:MAX_FIND_LENGTH].lower()
    served = {name: context.served(context.view(name)) for name in environment_names()}
    exposed = exposed_pipelines(
        {
            name: [(item.pipeline, item.listener, item) for item in environment.pipelines]
            for name, environment in served.items()
        }
    )
    found = [item for item in exposed if find in item.pipeline.lower()]
    rows = [item for item in found if _passes(item, shown)]
    after = request.args.get("after", "")
    start = next((index + 1 for index, row in enumerate(rows) if _key(row) == after), 0)
    page_rows = rows[start : start + PER_PAGE]
    more = len(rows) > start + PER_PAGE
    query |= {"show": shown}
    return render(
        "exposure.html",
        form=form,
        rows=page_rows,
        served=served,
        kinds=REACH_KINDS,
        shown=shown,
        facets=[{"name": "Show", "options": _options(found, shown, form.query())}],
        following=url_for("console.pipelines_exposure", after=_key(page_rows[-1]), **query)
        if more
        else None,
        first=url_for("console.pipelines_exposure", **query) if start else None,
    )


def _key(row: ExposedPipeline) -> str:
    return f"{row.pipeline}:{row.listener}"


def _options(
    found: list[ExposedPipeline], shown: str, query: dict[str, Any]
) -> list[dict[str, object]]:
    """Return the filters as links; the one that is on leads to all pipelines."""
    return [
        {
            "text": text,
            "url": url_for(
                "console.pipelines_exposure", show="all" if name == shown else name, **query
            ),
            "on": name == shown,
            "count": sum(_passes(item, name) for item in found),
        }
        for name, text in SHOWN.items()
    ]
