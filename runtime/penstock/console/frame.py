"""The frame around every page: menu, environments, and the title."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import current_app, g, request, url_for

from penstock.access.sessions import SignedIn
from penstock.access.users import Role
from penstock.console.context import (
    console_context,
    environment_names,
    own_environment,
    shown_environment,
)
from penstock.console.listing import PLACE
from penstock.console.menu import MENU, Count, Entry, count_of
from penstock.console.pages import SCOPES, Scope
from penstock.console.responses import this_page
from penstock.console.time_range import TimeRange

SENSITIVE_NAMES = ("prod", "production", "live")  # environments whose name is outlined in red


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of the menu as a page shows it."""

    title: str
    url: str
    current: bool
    count: Count | None


def frame() -> dict[str, Any]:
    """Return the values that the layout of a page needs."""
    user: SignedIn | None = g.get("user")
    role: Role | None = g.get("role") if user is not None else None
    values: dict[str, Any] = {
        "user": user,
        "may": {item.value: role is not None and role.may(item) for item in Role},
        "menu": [],
    }
    if user is None:
        return values
    environment = _environment_of_page()
    values |= {
        "menu": _menu(user, environment),
        "environment": environment,
        "switch": _switch(environment),
        "sensitive": SENSITIVE_NAMES,
        "described": _has_docs(),
        "searchable": "console.search" in current_app.view_functions,
        "range_url": _range_url,
    }
    values["bell"] = _bell(values["menu"])
    return values


def _bell(menu: list[tuple[str, list[Item]]]) -> Item | None:
    """Return the entry of alerts where rules fire: the header shows it on every page."""
    items = (item for _, items in menu for item in items)
    return next((item for item in items if item.title == "Alerts" and item.count), None)


def _has_docs() -> bool:
    settings = console_context().settings
    return settings.pipelines and "false" not in {settings.openapi, settings.docs}


def _endpoint() -> str:
    return (request.endpoint or "").removeprefix("console.")


def _environment_of_page() -> str | None:
    """Return the environment that a page shows; None for a page over all of them."""
    environment = shown_environment()
    if environment is None and SCOPES.get(request.endpoint or "") is Scope.ONE:
        return own_environment()
    return environment


def _time() -> dict[str, Any]:
    return {name: request.args[name] for name in ("from", "to") if request.args.get(name)}


def _has_environment(endpoint: str) -> bool:
    return current_app.url_map.is_endpoint_expecting(endpoint, "env")


def _menu(user: SignedIn, environment: str | None) -> list[tuple[str, list[Item]]]:
    """Return the entries that the user may open, with links that keep the environment."""
    groups = []
    for title, entries in MENU:
        items = [_item(entry, environment) for entry in entries if _opens(user, entry)]
        if items:
            groups.append((title, items))
    return groups


def _opens(user: SignedIn, entry: Entry) -> bool:
    scope = SCOPES.get(f"console.{entry.endpoint}")
    if scope is None:
        return False
    role = user.role if scope is Scope.ALL else user.highest_role
    return role is not None and role.may(entry.needs)


def _item(entry: Entry, environment: str | None) -> Item:
    endpoint = f"console.{entry.endpoint}"
    linked = environment or own_environment()
    place = linked if _has_environment(endpoint) else environment
    current = _endpoint() == entry.endpoint or _endpoint().startswith(f"{entry.endpoint}_")
    count = count_of(console_context(), entry.endpoint, linked)
    return Item(entry.title, url_for(endpoint, env=place, **_time()), current, count)


def _switch(environment: str | None) -> list[tuple[str, str, bool]]:
    """Return the environments to switch to: name, address of this page there, whether shown.

    A page of one thing leads to the list that it belongs to, because the thing may not exist in
    another environment. Pages over all environments lead to themselves too, without a filter.
    """
    endpoint, arguments = request.endpoint or "", dict[str, Any](request.view_args or {})
    arguments |= _time()
    if endpoint not in SCOPES or request.method != "GET" or endpoint.endswith("_confirm"):
        endpoint, arguments = "console.overview", {}
    elif _has_environment(endpoint) and request.view_args:
        endpoint, arguments = f"console.{_endpoint().partition('_')[0]}", _time()
        endpoint = endpoint if endpoint in SCOPES else "console.overview"
    places = [
        (name, url_for(endpoint, **arguments, env=name), name == environment)
        for name in environment_names()
    ]
    if not _has_environment(endpoint) and SCOPES.get(endpoint) is not Scope.ONE:
        whole = url_for(endpoint, **arguments)
        places.insert(0, ("All environments", whole, environment is None))
    return places


def _range_url(span: TimeRange) -> str:
    """Return the address of this page over another time."""
    return this_page(span.query, without=("from", "to", *PLACE))
