"""The audit trail: who changed what; filtered, and handed out as a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Response, request

from penstock import audit as trail
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import Form, filters, page, render, show_form
from penstock.errors import UsageError

FIELDS = ("actor", "action", "env", "subject", "since")
SINCE = [
    ("", "at any time"),
    ("1", "in the last hour"),
    ("24", "in the last day"),
    ("168", "in the last week"),
    ("720", "in the last 30 days"),
]
FORMATS = {
    "csv": (trail.as_csv, "text/csv; charset=utf-8", "csv"),
    "jsonl": (trail.as_json_lines, "application/jsonl", "jsonl"),
}
PER_PAGE = 50


def _wanted(form: Form) -> dict[str, Any]:
    """Return what was asked for, as the trail's functions take it.

    What can't be understood is said beside its field.
    """
    wanted: dict[str, Any] = {name: form[name] or None for name in ("actor", "action", "subject")}
    wanted["environment"] = form["env"] or None
    if form["since"]:
        with form.blaming("since"):
            if form["since"] not in dict(SINCE):
                raise UsageError(f"{form['since']!r} is no span")
            wanted["since"] = datetime.now(UTC) - timedelta(hours=int(form["since"]))
    return wanted


@page("/audit", needs=Role.VIEWER)
def audit() -> Response:
    """List events, newest first."""
    form, before, found = filters(*FIELDS), request.args.get("before", ""), list[trail.Event]()
    wanted = _wanted(form)
    with form.blaming("action"):
        number = int(before[:18]) if before.isascii() and before.isdigit() else None
        found = trail.events(console_context().engine, limit=PER_PAGE + 1, before=number, **wanted)
    return _shown(form, found)


def _shown(form: Form, found: list[trail.Event]) -> Response:
    actions: dict[str, list[str]] = {}
    for action in sorted(trail.Action):
        actions.setdefault(action.partition(":")[0], []).append(action.value)
    return show_form(
        "audit.html",
        form,
        events=found[:PER_PAGE],
        last=found[PER_PAGE - 1].id if len(found) > PER_PAGE else None,
        later="before" in request.args,
        kept={name: form[name] for name in FIELDS if form[name]},
        actions=actions,
        moments=SINCE,
        environments=[
            ("", "any"),
            *((row["name"], row["name"]) for row in console_context().environments()),
        ],
    )


@page("/audit/<int:number>", needs=Role.VIEWER)
def audit_one(number: int) -> str:
    """Show an event."""
    return render("event.html", event=trail.event(console_context().engine, number))


@page("/audit/export", needs=Role.VIEWER)
def audit_export() -> Response:
    """Hand out all events that pass the filters as a file, as it is read."""
    form, engine, kind = (
        filters(*FIELDS, "format"),
        console_context().engine,
        request.args.get("format", "csv"),
    )
    wanted = _wanted(form)
    with form.blaming("action"):
        trail.events(engine, limit=1, **wanted)
    with form.blaming("format"):
        if kind not in FORMATS:
            raise UsageError(f"{kind!r} is no format; choose one of {', '.join(FORMATS)}")
    if form.errors:
        return _shown(form, [])
    write, content_type, ending = FORMATS[kind]
    name = f"penstock-audit-{datetime.now(UTC):%Y%m%d-%H%M%S}.{ending}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(
        write(trail.every_event(engine, **wanted)), content_type=content_type, headers=headers
    )
