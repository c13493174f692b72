"""The audit log: filtered, one event, and exported as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    form, events, following = EventFilter(), list[trail.Event](), None
    selection = _selection(form)
    with form.faults_at("action"):
        events, following = trail.page_of_events(
            console_context().engine, limit=PER_PAGE, before=row_after("before"), **selection
        )
    return _show(form, events, following)


def _by_day(events: list[trail.Event]) -> list[tuple[date, list[trail.Event]]]:
    """Return events by their day in UTC."""
    return [
        (day, list(listed)) for day, listed in groupby(events, key=lambda event: event.at.date())
    ]


def _consumer(event: trail.Event) -> str | None:
    name = event.detail.get("consumer") if event.action.startswith("key:") else event.subject
    if event.action == trail.Action.KEY_CREATED:
        name = event.subject
    return url_for("console.consumers_one", name=name) if name else None


def _pipeline(event: trail.Event) -> str | None:
    major, slash, name = event.subject.partition("/")
    return url_for("console.pipelines_one", major=major, name=name) if slash else None


def _run(event: trail.Event) -> str | None:
    purged = event.action == trail.Action.RUNS_PURGED
    return None if purged else url_for("console.runs_anywhere", run=event.subject)


def _user(event: trail.Event) -> str | None:
    known = event.subject != UNKNOWN and user().role is Role.ADMIN
    return url_for("console.users_one", name=event.subject) if known else None


def _in_environment(endpoint: str) -> Callable[[trail.Event], str | None]:
    return lambda event: url_for(endpoint, env=event.environment) if event.environment else None


LINKS: Mapping[str, Callable[[trail.Event], str | None]] = {
    **dict.fromkeys(("consumer", "limit", "address", "callback", "key"), _consumer),
    **dict.fromkeys(("pipeline", "login-flow", "schedule"), _pipeline),
    **dict.fromkeys(("issuer", "signing-key", "token"), _in_environment("console.tokens")),
    **dict.fromkeys(("variable", "secret", "sensitive-field"), _in_environment("console.settings")),
    "environment": lambda event: url_for("console.policies_history", env=event.subject),
    "change": lambda _: url_for("console.changes"),
    "run": _run,
    "user": _user,
}


def subject_url(event: trail.Event) -> str | None:
    """Return the address of the page of an event's subject, or None."""
    build = LINKS.get(event.action.partition(":")[0])
    return build(event) if build is not None else None


def _show(form: EventFilter, events: list[trail.Event], following: int | None = None) -> Response:
    return show_form(
        "audit.html",
        form,
        days=_by_day(events),
        events=events,
        kinds=trail.kinds(),
        last=following,
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
