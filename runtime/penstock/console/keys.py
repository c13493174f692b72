"""API keys of all consumers: which are unused, which expire soon, which never expire."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from flask import Response, request, url_for

from penstock.access.api_keys import KeyQuery, ListedKey, count_keys, list_keys
from penstock.access.users import Role
from penstock.console.context import (
    ConsoleContext,
    console_context,
    environment_filter,
    environment_names,
    own_environment,
)
from penstock.console.forms import ChoiceField, FilterForm, LineField
from penstock.console.menu import Count, menu_count
from penstock.console.pages import Scope, page, user
from penstock.console.responses import show_form

PER_PAGE = 50
# What the page can show, by the value of ?show=: its text and its query.
SHOWN: dict[str, tuple[str, KeyQuery]] = {
    "expiring": ("expire within 14 days", KeyQuery(expiring=timedelta(days=14))),
    "unused": ("not used for 90 days", KeyQuery(unused=timedelta(days=90))),
    "never-used": ("never used", KeyQuery(never_used=True)),
    "no-expiry": ("never expire", KeyQuery(no_expiry=True)),
    "disabled-consumers": ("of disabled consumers", KeyQuery(disabled_consumers=True)),
}


@menu_count("keys")
def _expiring(context: ConsoleContext, environment: str) -> Count:
    """Return how many keys of an environment are about to expire."""
    query = replace(SHOWN["expiring"][1], environment=environment)
    return Count(count_keys(context.engine, query), "warn", "keys expire within 14 days")


class KeyFilterForm(FilterForm):
    """Filters keys."""

    env = ChoiceField("Environment", checked_by_domain=True)
    consumer = LineField("Consumer")
    find = LineField("Search", render_kw={"type": "search", "placeholder": "note, end of the key"})

    def __init__(self) -> None:
        super().__init__()
        names = [(name, name) for name in environment_names()]
        self.env.offer([("", "all"), *names] if user().role is not None else names)


@page("/keys", needs=Role.VIEWER, scope=Scope.ANY)
def keys() -> Response:
    """List API keys of all consumers, oldest first."""
    context, form = console_context(), KeyFilterForm()
    environment = environment_filter()
    if environment is None and user().role is None:  # only its own environments are shown
        environment = own_environment()
    shown, after = request.args.get("show", ""), request.args.get("after")
    query: dict[str, Any] = form.query() | ({"show": shown} if shown in SHOWN else {})
    rows = list[ListedKey]()
    if form.is_valid():
        chosen = SHOWN[shown][1] if shown in SHOWN else KeyQuery()
        chosen = replace(
            chosen,
            environment=environment,
            consumer=form.consumer.data or None,
            search=form.find.data or "",
        )
        with form.faults_at("consumer"):
            rows = list_keys(context.engine, chosen, after=after, limit=PER_PAGE + 1)
    following = None
    if len(rows) > PER_PAGE:
        following = url_for("console.keys", after=rows[PER_PAGE - 1].id, **query)
    return show_form(
        "keys.html",
        form,
        rows=rows[:PER_PAGE],
        facets=[{"name": "Keys that", "options": _options(shown, form.query())}],
        filtered=bool(query),
        following=following,
        first=url_for("console.keys", **query) if after else None,
    )


def _options(shown: str, query: dict[str, Any]) -> list[dict[str, object]]:
    """Return the filters as links; the one that is on leads to the page without it."""
    return [
        {
            "text": text,
            "url": url_for("console.keys", **(query | ({} if name == shown else {"show": name}))),
            "on": name == shown,
        }
        for name, (text, _) in SHOWN.items()
    ]
