"""The audit log: filtered, one event, and exported as a file."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

from flask import Response, request, url_for
from wtforms.fields.choices import SelectChoice

from penstock import audit as trail
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.failed_sign_ins import UNKNOWN
from penstock.console.forms import ChoiceField, FilterForm, LineField
from penstock.console.limits import row_after
from penstock.console.pages import Scope, page, user
from penstock.console.responses import render, show_form
from penstock.errors import UnknownName

SINCE = (  # by hours
    ("", "any time"),
    ("1", "last hour"),
    ("24", "last day"),
    ("168", "last week"),
    ("720", "last 30 days"),
)
FORMATS = {
    "csv": (trail.as_csv, "text/csv; charset=utf-8", "csv"),
    "jsonl": (trail.as_json_lines, "application/jsonl", "jsonl"),
}
PER_PAGE = 50


class EventFilter(FilterForm):
    """Filters events."""

    q = LineField("Search", render_kw={"type": "search"})
    actor = LineField("Actor")
    action = ChoiceField("Action", checked_by_domain=True)
    subject = LineField("Target")
    env = ChoiceField("Environment", checked_by_domain=True)
    since = ChoiceField("Time", SINCE, default="")

    def __init__(self) -> None:
        super().__init__()
        kinds = dict.fromkeys(action.partition(":")[0] for action in sorted(trail.Action))
        self.action.choices = [SelectChoice("", "any")]
        for kind in kinds:
            actions = [
                action.value for action in sorted(trail.Action) if action.startswith(f"{kind}:")
            ]
            self.action.choices += [
                SelectChoice(kind, f"{kind}: any action", optgroup=kind),
                *(SelectChoice(action, action, optgroup=kind) for action in actions),
            ]
        names = console_context().environment_names()
        self.env.offer([("", "any"), *((name, name) for name in names)])


def _selection(form: EventFilter) -> dict[str, Any]:
    """Return the filters as arguments of the audit log's functions; faults go to their fields."""
    selection: dict[str, Any] = {
        "text": form.q.data or None,
        "actor": form.actor.data or None,
        "action": form.action.data or None,
        "subject": form.subject.data or None,
        "environment": form.env.data or None,
        "environments": _visible(),
    }
    if form.is_valid() and form.since.data:
        selection["since"] = datetime.now(UTC) - timedelta(hours=int(form.since.data))
    return selection


def _visible() -> list[str] | None:
    """Return the environments whose events the user may see; None: all events."""
    return None if user().role is not None else console_context().environment_names()


@page("/audit", needs=Role.VIEWER, scope=Scope.ANY)
def audit() -> Response:
    """List events, newest first."""
    form, events = EventFilter(), list[trail.Event]()
    selection, engine, before = _selection(form), console_context().engine, row_after("before")
    oldest = trail.searched_from(engine, before) if selection["text"] else 1
    with form.faults_at("action"):
        events = trail.events(engine, limit=PER_PAGE + 1, before=before, oldest=oldest, **selection)
    return _show(form, events, oldest)


def _by_day(events: list[trail.Event]) -> list[tuple[date, list[trail.Event]]]:
    """Return events by their day in UTC."""
    return [
        (day, list(listed)) for day, listed in groupby(events, key=lambda event: event.at.date())
    ]


def subject_url(event: trail.Event) -> str | None:
    """Return the address of the page of an event's subject, or None."""
    kind = event.action.partition(":")[0]
    if kind in {"consumer", "limit", "address", "callback"} or event.action == "key:created":
        return url_for("console.consumers_one", name=event.subject)
    if kind == "environment":
        return url_for("console.policies_history", env=event.subject)
    if kind == "run" and event.action != trail.Action.RUNS_PURGED:
        return url_for("console.runs_anywhere", run=event.subject)
    if kind in {"variable", "secret", "sensitive-field"}:
        return url_for("console.settings", env=event.environment)
    if kind == "user" and event.subject != UNKNOWN and user().role is Role.ADMIN:
        return url_for("console.users_one", name=event.subject)
    return None


def _show(form: EventFilter, events: list[trail.Event], oldest: int = 1) -> Response:
    last = events[PER_PAGE - 1].id if len(events) > PER_PAGE else None
    return show_form(
        "audit.html",
        form,
        days=_by_day(events[:PER_PAGE]),
        events=events[:PER_PAGE],
        kinds=trail.kinds(),
        last=last or (oldest if oldest > 1 else None),
        searched=last is None and oldest > 1,
        later="before" in request.args,
        link=subject_url,
        query=form.query(),
    )


@page("/audit/<int:number>", needs=Role.VIEWER, scope=Scope.ANY)
def audit_one(number: int) -> str:
    """Show an event."""
    event, visible = trail.event(console_context().engine, number), _visible()
    if visible is not None and event.environment not in visible:
        raise UnknownName("event", str(number))
    return render("event.html", event=event, link=subject_url(event))


@page("/audit/export", needs=Role.VIEWER, scope=Scope.ANY)
def audit_export() -> Response:
    """Send all events that pass the filters as a file, while they are read."""
    form, engine = EventFilter(), console_context().engine
    file_format = request.args.get("format", "csv")
    selection = _selection(form)
    with form.faults_at("action"):
        trail.events(engine, limit=1, **selection)
    if file_format not in FORMATS:
        form.add_fault("format", f"“{file_format}” isn't a format; choose one of csv, jsonl.")
    if form.has_faults:
        return _show(form, [])
    write, content_type, ending = FORMATS[file_format]
    name = f"penstock-audit-{datetime.now(UTC):%Y%m%d-%H%M%S}.{ending}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    trail.record(
        engine, user().name, trail.Action.AUDIT_EXPORTED, file_format, {"filters": form.query()}
    )
    events = trail.every_event(engine, **selection)
    return Response(write(events), content_type=content_type, headers=headers)
