"""Consumers: the list, and the form for a new one."""

from __future__ import annotations

from typing import Any

from flask import Response, request, url_for

from penstock.access import consumers as access
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.forms import ConsoleForm, FilterForm, LineField
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, render, show_form

PER_PAGE = 50
MAX_FIND_LENGTH = 64


class FindForm(FilterForm):
    """Finds consumers by a part of their name."""

    find = LineField("Find by name", render_kw={"type": "search", "placeholder": "Part of a name"})


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
    find = form.find.data[:MAX_FIND_LENGTH]
    rows = access.page_consumers(context.engine, find=find, after=after, limit=PER_PAGE + 1)
    query: dict[str, Any] = {"find": find} if find else {}
    following = None
    if len(rows) > PER_PAGE:
        following = url_for("console.consumers", after=rows[PER_PAGE - 1].name, **query)
    return render(
        "consumers.html",
        form=form,
        consumers=rows[:PER_PAGE],
        environments=context.environment_names(),
        find=find,
        following=following,
        first=url_for("console.consumers", **query) if after else None,
    )


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
            access.create_consumer(
                console_context().engine, user().name, name, form.description.data
            )
            return done(
                f"{name} created. Next: create a key and grant access.", "consumers_one", name=name
            )
    return show_form("consumer_new.html", form)
