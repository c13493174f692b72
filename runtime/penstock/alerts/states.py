"""The state of a rule over time: what follows from a state and a finding, without a database.

A condition that begins to hold makes the rule *pending*. Once it has held for the rule's hold time
the rule *fires*; when it no longer holds, the rule is *ok* again. Receivers get a message when the
rule fires and one when it is resolved. A muted rule changes its state and sends no firing message;
one that fires still when the mute ends sends it then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from penstock.alerts.conditions import Finding

OK, PENDING, FIRING, RESOLVED = "ok", "pending", "firing", "resolved"


@dataclass(frozen=True, slots=True)
class AlertState:
    """The state of a rule. `announced` are the subjects of messages, None before the first one."""

    status: str
    since: datetime
    fired_at: datetime | None = None
    resolved_at: datetime | None = None
    summary: str = ""
    subjects: tuple[str, ...] = ()
    announced: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message that follows from a change: firing or resolved, and what it concerns."""

    event: str
    summary: str
    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a rule changes: hold time in seconds, whether it is muted, and if each subject counts."""

    hold_s: int
    muted: bool = False
    each: bool = False


def following(
    state: AlertState, finding: Finding | None, now: datetime, manner: Manner
) -> tuple[AlertState, Announcement | None]:
    """Return the next state and its message; the same state where nothing changed."""
    if finding is None:
        return _without(state, now)
    if state.status == OK:
        state = AlertState(PENDING, now, state.fired_at, state.resolved_at, finding.summary)
        state = replace(state, subjects=finding.subjects)
    if state.status == PENDING:
        if now - state.since < timedelta(seconds=manner.hold_s):
            return state, None
        state = replace(state, status=FIRING, since=now, fired_at=now)
    if frozenset(finding.subjects) != frozenset(state.subjects) or state.announced is None:
        state = replace(state, summary=finding.summary, subjects=finding.subjects)
    return (state, None) if manner.muted else _announced(state, finding, manner)


def _without(state: AlertState, now: datetime) -> tuple[AlertState, Announcement | None]:
    """Return the state of a rule whose condition does not hold."""
    if state.status == OK:
        return state, None
    if state.status == PENDING:
        return AlertState(OK, now, state.fired_at, state.resolved_at), None
    resolved = AlertState(OK, now, state.fired_at, now)
    if state.announced is None:
        return resolved, None
    return resolved, Announcement(RESOLVED, state.summary, state.subjects)


def _announced(
    state: AlertState, finding: Finding, manner: Manner
) -> tuple[AlertState, Announcement | None]:
    """Return the state of a rule that fires once its receivers know it, and their message."""
    if state.announced is None:
        state = replace(state, announced=finding.subjects)
        return state, Announcement(FIRING, finding.summary, finding.subjects)
    if not manner.each:
        return state, None
    known = frozenset(state.announced)
    new = tuple(subject for subject in finding.subjects if subject not in known)
    # Subjects that no longer match are forgotten: one that matches again is a new one.
    remaining = tuple(subject for subject in state.announced if subject in finding.subjects)
    if new or remaining != state.announced:
        state = replace(state, announced=(*remaining, *new))
    return state, Announcement(FIRING, finding.summary, new) if new else None
