"""Consumers: the list, and the form for a new one."""

from __future__ import annotations

from typing import Any

from flask import Response, request, url_for

from penstock.access.consumers import create_consumer
from penstock.access.users import Role
from penstock.console.context import console_context, environment_filter, environment_names
from penstock.console.forms import ChoiceField, ConsoleForm, FilterForm, LineField
from penstock.console.listing import sort_of
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, render, show_form
from penstock.execution.consumer_list import (
    ORDERS,
    ConsumerQuery,
    count_consumers,
    list_active,
    place_of,
)

PER_PAGE = 50
MAX_FIND_LENGTH = 64
STATES = {"active": True, "disabled": False}


class FindForm(FilterForm):
    """Finds consumers by a part of their name, and chooses whose calls are shown."""

    find = LineField("Find by name", render_kw={"type": "search", "placeholder": "Part of a name"})
    env = ChoiceField("Calls, keys and access in", checked_by_domain=True)

    def __init__(self) -> None:
        super().__init__()
        self.env.offer([("", "all environments"), *((name, name) for name in environment_names())])


class NewConsumerForm(ConsoleForm):
    """Creates a consumer."""

    name = LineField(
        "Name",
        "Enter a name.",
        description="Letters, digits, dots, dashes and underscores, 64 at most. It can't be"
        " changed later.",
    )
    description = LineField("Description", description="Who this is, and whom to ask.")


@page("/consumers", needs=Role.VIEWER, scope=Scope.ANY)
def consumers() -> str:
    """List consumers."""
    context, form, after = console_context(), FindForm(), request.args.get("after")
    find, chosen = form.find.data[:MAX_FIND_LENGTH], environment_filter()
    state, sort = request.args.get("state", ""), sort_of(ORDERS, "name")
    asked = ConsumerQuery(
        environment_names() if chosen is None else [chosen],
        find=find,
        enabled=STATES.get(state),
        by=sort.by,
        descending=sort.descending,
    )
    place = place_of(after)
    rows = list_active(context.engine, asked, after=place, limit=PER_PAGE + 1)
    numbers = dict(zip(STATES, count_consumers(context.engine, find), strict=True))
    query: dict[str, Any] = {
        name: value
        for name, value in (("find", find), ("env", chosen), ("state", state))
        if value and (name != "state" or value in STATES)
    }
    order: dict[str, Any] = {"sort": request.args["sort"]} if "sort" in request.args else {}
    following = None
    if len(rows) > PER_PAGE:
        cursor = rows[PER_PAGE - 1].cursor
        following = url_for("console.consumers", after=cursor, **query, **order)
    return render(
        "consumers.html",
        form=form,
        sort=sort,
        consumers=rows[:PER_PAGE],
        total=sum(numbers.values()) if state not in STATES else numbers[state],
        facets=[{"name": "State", "options": _states(numbers, state, query, order)}],
        find=find,
        env=chosen,
        state=state if state in STATES else "",
        following=following,
        first=url_for("console.consumers", **query, **order) if place else None,
    )


def _states(
    numbers: dict[str, int], state: str, query: dict[str, Any], order: dict[str, Any]
) -> list[dict[str, object]]:
    """Return the states as links that filter; the one that is on leads to all consumers."""
    others: dict[str, Any] = {
        name: value for name, value in query.items() if name != "state"
    } | order
    return [
        {
            "text": name,
            "url": url_for("console.consumers", **others, state=None if name == state else name),
            "on": name == state,
            "count": number,
        }
        for name, number in numbers.items()
    ]


@page("/new-consumer", needs=Role.OPERATOR)
def consumers_new() -> Response:
    """Show the form for a consumer."""
    return show_form("consumer_new.html", NewConsumerForm())


@page("/new-consumer", needs=Role.OPERATOR, method="POST")
def consumers_create() -> Response:
    """Create a consumer."""
    form = NewConsumerForm()
    name = form.name.data
    if form.is_valid():
        with form.faults_at("name"):
            create_consumer(console_context().engine, user().name, name, form.description.data)
            return done(
                f"{name} created. Next: create a key and grant access.", "consumers_one", name=name
            )
    return show_form("consumer_new.html", form)
