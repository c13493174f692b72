"""Events of the audit trail as sentences: subject, verb, object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_NAMED = 3  # pipelines, fields or networks in a sentence; the others are counted
MAX_TEXT = 200  # characters of a reason or a value


@dataclass(frozen=True, slots=True)
class Facts:
    """What a sentence is built from: the event without its actor and time."""

    subject: str
    environment: str | None
    detail: Mapping[str, Any]

    @property
    def here(self) -> str:
        """The environment with its preposition, or nothing."""
        return f" in {self.environment}" if self.environment else ""

    def get(self, name: str) -> str:
        """Return a value of the detail as a short text; empty without one."""
        value = self.detail.get(name)
        if isinstance(value, list):
            return listed(value)
        text = "" if value is None else str(value)
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"

    def after(self, name: str, words: str) -> str:
        """Return words and a value of the detail, or nothing without the value."""
        text = self.get(name)
        return f"{words}{text}" if text else ""


def listed(values: list[Any]) -> str:
    """Return the first values of a list, and how many more there are."""
    named = ", ".join(str(value) for value in values[:MAX_NAMED])
    more = len(values) - MAX_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _policy(facts: Facts) -> str:
    internal = "internal " if facts.get("exposure") == "internal" else ""
    return (
        f"changed {facts.subject}'s {internal}policy{facts.after('before', ' from ')}"
        f"{facts.after('policy', ' to ')}{facts.after('reason', ': ')}"
    )


def _preview(facts: Facts) -> str:
    return f"previewed {facts.get('policy')} as the policy of {facts.subject}"


def _associated(facts: Facts) -> str:
    pipelines, automatic = facts.get("pipelines"), facts.detail.get("new_pipelines")
    text = f"gave {facts.subject} access to {pipelines}" if pipelines else ""
    if automatic is None:
        return (text or f"changed the access of {facts.subject}") + facts.here
    switched = "on" if automatic else "off"
    text = f"{text} and " if text else ""
    return f"{text}switched automatic access of {facts.subject} to new pipelines {switched}" + (
        facts.here
    )


def _limit(facts: Facts) -> str:
    by = facts.get("by")
    return (
        f"limited {facts.subject} to {facts.get('rate')}{f' by {by}' if by else ''}"
        f"{facts.after('pipelines', ' at ')}{facts.here}"
    )


def _role(facts: Facts) -> str:
    return (
        f"changed the role of {facts.subject}{facts.here}{facts.after('before', ' from ')}"
        f"{facts.after('role', ' to ')}"
    )


def _settings(facts: Facts) -> str:
    before = facts.detail.get("before")
    parts = []
    for name, value in facts.detail.items():
        if name == "before":
            continue
        was = f" from {before[name]}" if isinstance(before, Mapping) and name in before else ""
        parts.append(f"{name.replace('_', ' ')}{was} to {value}")
    return f"changed {', '.join(parts) or 'settings'} of {facts.subject}"


def _failed(facts: Facts) -> str:
    more = facts.detail.get("unrecorded")
    tail = f"; {more} more were not recorded before this one" if more else ""
    return f"failed to sign in as {facts.subject}{facts.after('address', ' from ')}{tail}"


def _variable(facts: Facts) -> str:
    return (
        f"set the variable {facts.subject}{facts.here}{facts.after('before', ' from ')}"
        f"{facts.after('value', ' to ')}"
    )


def _alert(facts: Facts) -> str:
    changed = ", ".join(name for name in facts.detail if name != "before") or "nothing"
    return f"changed {changed} of the alert rule {facts.subject}{facts.here}"


Sentence = Callable[[Facts], str]


def _plain(verb: str, tail: str = "") -> Sentence:
    """Return the sentence of a verb, the subject and the environment."""
    return lambda facts: f"{verb} {facts.subject}{tail}{facts.here}"


def _same(text: str) -> Sentence:
    """Return the sentence of an act that needs no facts."""
    return lambda _: text


def _of_pipelines(before: str, after: str = "") -> Sentence:
    return lambda facts: f"{before} {facts.get('pipelines') or facts.subject}{after}{facts.here}"


def _key(verb: str) -> Sentence:
    return lambda facts: (
        f"{verb} the key {facts.subject}{facts.after('consumer', ' of ')}{facts.here}"
    )


def _schedule(verb: str) -> Sentence:
    return lambda facts: (
        f"{verb} the schedule{facts.after('cron', ' ')} of {facts.subject}{facts.here}"
    )


SENTENCES: Mapping[str, Sentence] = {
    "environment:created": lambda facts: f"created the environment {facts.subject}",
    "environment:changed": _settings,
    "environment:policy:set": _policy,
    "environment:policy:previewed": _preview,
    "pipeline:seen": lambda facts: (
        f"noted the pipelines offered in {facts.subject}{facts.after('new', ', new: ')}"
    ),
    "pipeline:enabled": _of_pipelines("enabled"),
    "pipeline:disabled": _of_pipelines("disabled"),
    "login-flow:designated": _of_pipelines("designated", " as login flow"),
    "login-flow:withdrawn": _of_pipelines("withdrew", " as login flow"),
    "consumer:created": _plain("created the consumer"),
    "consumer:described": lambda facts: (
        f"changed the description of {facts.subject}{facts.after('description', ' to ')}"
    ),
    "consumer:enabled": _plain("enabled the consumer"),
    "consumer:disabled": _plain("disabled the consumer"),
    "consumer:associated": _associated,
    "consumer:dissociated": lambda facts: (
        f"removed the access of {facts.subject} to {facts.get('pipelines')}{facts.here}"
    ),
    "key:created": lambda facts: (
        f"created the key {facts.get('key')} of {facts.subject}{facts.here}"
    ),
    "key:rotated": lambda facts: (
        f"{_key('rotated')(facts)}{facts.after('successor', '; its successor is ')}"
    ),
    "key:revoked": _key("revoked"),
    "key:enabled": _key("enabled"),
    "key:disabled": _key("disabled"),
    "key:expiry:set": lambda facts: (
        f"changed the expiry of the key {facts.subject}{facts.here}"
        f"{facts.after('before', ' from ')}{facts.after('expires_at', ' to ')}"
    ),
    "credential:added": lambda facts: (
        f"added a credential{facts.after('kind', ' of kind ')} to {facts.subject}{facts.here}"
    ),
    "credential:revoked": _plain("revoked the credential"),
    "secret-key:rotated": _same("rotated the secret key of the installation"),
    "signing-key:rotated": lambda facts: (
        f"rotated the signing key of {facts.subject}{facts.after('kid', '; the new one is ')}"
    ),
    "signing-key:dropped": _plain("revoked the signing key"),
    "issuer:trusted": _plain("trusted the issuer"),
    "issuer:distrusted": _plain("stopped trusting the issuer"),
    "token:revoked": lambda facts: (
        f"revoked {'all tokens of ' if facts.detail.get('consumer') else 'the token '}"
        f"{facts.subject}{facts.here}"
    ),
    "variable:set": _variable,
    "variable:unset": _plain("deleted the variable"),
    "secret:set": _plain("set the secret"),
    "secret:unset": _plain("deleted the secret"),
    "limit:set": _limit,
    "limit:removed": lambda facts: (
        f"removed the limit{facts.after('removed', ' ')} of {facts.subject}{facts.here}"
    ),
    "address:allowed": lambda facts: (
        f"allowed {facts.subject} to call from {facts.get('networks')}{facts.here}"
    ),
    "address:denied": lambda facts: (
        f"denied {facts.subject} calls from {facts.get('networks')}{facts.here}"
    ),
    "address:removed": lambda facts: (
        f"removed {facts.get('networks')} from the network rules of {facts.subject}{facts.here}"
    ),
    "sensitive-field:added": lambda facts: (
        f"made {facts.get('fields')} sensitive in {facts.subject}"
    ),
    "sensitive-field:removed": lambda facts: (
        f"made {facts.get('fields')} no longer sensitive in {facts.subject}"
    ),
    "database:restored": _same("noted that the database was restored"),
    "callback:allowed": lambda facts: (
        f"allowed callbacks of {facts.subject} to {facts.get('prefix')}{facts.here}"
    ),
    "callback:removed": lambda facts: (
        f"removed the callback target {facts.get('prefix')} of {facts.subject}{facts.here}"
    ),
    "run:cancelled": _plain("cancelled the run"),
    "run:redelivered": lambda facts: (
        f"re-ran the run {facts.subject}{facts.after('new', ' as ')}{facts.here}"
    ),
    "run:purged": lambda facts: f"deleted {facts.get('runs')} runs of {facts.subject}",
    "schedule:paused": _schedule("paused"),
    "schedule:resumed": _schedule("resumed"),
    "schedule:run": lambda facts: f"{_schedule('started')(facts)}{facts.after('run', ' as run ')}",
    "user:created": lambda facts: (
        f"created the user {facts.subject}{facts.after('role', ' as ')}"
        f"{facts.after('environments', ' in ')}"
    ),
    "user:enabled": _plain("enabled the user"),
    "user:disabled": _plain("disabled the user"),
    "user:role:set": _role,
    "user:password:set": _plain("set the password of"),
    "user:signed-in": lambda facts: f"signed in{facts.after('address', ' from ')}",
    "user:sign-in-failed": _failed,
    "user:signed-out": _same("signed out"),
    "user:sessions:ended": lambda facts: (
        f"ended {facts.get('sessions')} sessions of {facts.subject}"
    ),
    "change:proposed": lambda facts: (
        f"proposed a change of {facts.subject}{facts.here}{facts.after('change', ': change ')}"
    ),
    "change:approved": lambda facts: (
        f"approved {facts.get('author')}'s change {facts.subject}{facts.here}"
    ),
    "change:rejected": lambda facts: (
        f"rejected {facts.get('author')}'s change {facts.subject}{facts.here}"
    ),
    "audit:exported": _same("exported the audit log"),
    "alert:created": _plain("created the alert rule"),
    "alert:changed": _alert,
    "alert:removed": _plain("removed the alert rule"),
    "alert:muted": lambda facts: (
        f"muted the alert rule {facts.subject}{facts.here}{facts.after('until', ' until ')}"
    ),
    "alert:unmuted": _plain("unmuted the alert rule"),
    "alert:tested": _plain("tested the alert rule"),
}


def act(action: str, subject: str, environment: str | None, detail: Mapping[str, Any]) -> str:
    """Return what an event's actor did: the sentence without its subject and full stop.

    An action of a newer release is shown by its name.
    """
    build = SENTENCES.get(action)
    facts = Facts(subject, environment, detail)
    return build(facts) if build else f"did {action} to {subject}{facts.here}"


def differences(detail: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what an event replaced: name, value before, value after."""
    before = detail.get("before")
    if isinstance(before, Mapping):
        return [(name, value, detail.get(name)) for name, value in before.items()]
    for name in ("policy", "role", "value", "description", "expires_at"):
        if "before" in detail and name in detail:
            return [(name, before, detail[name])]
    return []
