"""Alert rules: their settings and states, and the list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from penstock import clock
from penstock.access.lookup import environment_row
from penstock.access.seen import state_token
from penstock.alerts.kinds import (
    DEFAULT_MINIMUM,
    DEFAULT_WINDOW_S,
    KINDS,
    MAX_WINDOW_S,
    MINUTE_S,
    SHIPPED,
    Kind,
    written_duration,
    written_threshold,
)
from penstock.alerts.targets import check_emails
from penstock.contracts.outcomes import REJECTIONS
from penstock.db import alerts as stored
from penstock.db.alert_tables import AlertRuleRow
from penstock.db.alerts import StatefulRuleRow
from penstock.db.engine import Engine, reading
from penstock.db.rows import AnyColumn
from penstock.db.tables import EnvironmentRow
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName, UsageError, quoted

MAX_PIPELINE, MAX_MINIMUM = 80, 1_000_000
MAX_HOLD_S = 86_400
WHOLE_MINUTES = "the time over which calls are counted is 1 minute to 1 hour, in whole minutes"


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """What a user sets of a rule; times in seconds, `threshold` as its kind measures it."""

    kind: Kind
    threshold: float
    hold_s: int
    window_s: int = DEFAULT_WINDOW_S
    minimum: int = DEFAULT_MINIMUM
    pipeline: str = ""
    reason: str = ""
    emails: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: Kind) -> RuleSettings:
        """Return the settings that a new rule of a kind has."""
        return cls(kind, KINDS[kind].threshold, KINDS[kind].hold_s)

    @property
    def words(self) -> str:
        """When the rule fires, as the end of a sentence."""
        facts = KINDS[self.kind]
        unit = " calls" if self.kind is Kind.REJECTIONS else ""
        text = facts.watches.format(
            threshold=written_threshold(self.kind, self.threshold) + unit,
            window=written_duration(self.window_s),
        )
        text += f", of {self.reason}" if self.reason else ""
        text += f", at {self.pipeline}" if self.pipeline else ""
        return text + (f", for {written_duration(self.hold_s)}" if self.hold_s else "")

    def check(self) -> None:
        """Raise UsageError where a setting is out of bounds or means nothing for the kind."""
        facts = KINDS[self.kind]
        if not 0 <= self.hold_s <= MAX_HOLD_S:
            raise UsageError("the hold time is at most 1d")
        if self.window_s % MINUTE_S or not MINUTE_S <= self.window_s <= MAX_WINDOW_S:
            raise UsageError(WHOLE_MINUTES)
        if not 0 <= self.minimum <= MAX_MINIMUM:
            raise UsageError(f"the least number of calls is 0 to {MAX_MINIMUM}")
        if self.pipeline and not facts.by_pipeline:
            raise UsageError(f"a rule of kind {self.kind} is not of one pipeline")
        if len(self.pipeline) > MAX_PIPELINE or self.pipeline.count("/") > 1:
            raise UsageError(
                f"{quoted(self.pipeline)} is no pipeline; write an id such as v1/orders"
            )
        if self.reason and not facts.by_reason:
            raise UsageError(f"a rule of kind {self.kind} has no reason")
        if self.reason and self.reason not in REJECTIONS:
            raise UnknownName("reason", self.reason, sorted(REJECTIONS))
        check_emails(self.emails)

    @property
    def token(self) -> str:
        """A short text that differs where the settings differ, see `access/seen.py`."""
        return state_token(self.document())

    def document(self) -> dict[str, Any]:
        """Return the settings as JSON, for the audit log and for forms."""
        return {
            "kind": self.kind.value,
            "threshold": written_threshold(self.kind, self.threshold),
            "hold": written_duration(self.hold_s),
            "window": written_duration(self.window_s),
            "minimum": self.minimum,
            "pipeline": self.pipeline,
            "reason": self.reason,
            "emails": list(self.emails),
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its state. `webhook` is scheme and host; `id` is None before it is stored."""

    id: int | None
    environment_id: int
    environment: str
    name: str
    settings: RuleSettings
    webhook: str = ""
    private: bool = False
    sealed: bytes = field(default=b"", repr=False)
    shipped: bool = False
    muted_until: datetime | None = None
    status: str = "ok"
    since: datetime | None = None
    fired_at: datetime | None = None
    resolved_at: datetime | None = None
    summary: str = ""
    subjects: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """The kind of the rule."""
        return self.settings.kind

    @property
    def muted(self) -> bool:
        """Whether it sends nothing at the moment."""
        return self.muted_until is not None and self.muted_until > clock.utc_now()

    @property
    def state(self) -> str:
        """The state in a word: ok, pending, firing, or firing (muted)."""
        return f"{self.status} (muted)" if self.muted else self.status

    @property
    def words(self) -> str:
        """When the rule fires."""
        return self.settings.words

    @property
    def receivers(self) -> list[str]:
        """Where its messages go, without the path of a webhook."""
        return [*([self.webhook] if self.webhook else []), *self.settings.emails]


def settings_of(row: AlertRuleRow) -> RuleSettings:
    """Return the settings of a stored rule."""
    return RuleSettings(
        Kind(row.kind),
        row.threshold,
        row.hold,
        row.window,
        row.minimum,
        row.pipeline,
        row.reason,
        tuple(row.emails),
    )


def rule_of(row: StatefulRuleRow) -> Rule:
    """Return a stored rule."""
    settings = settings_of(row)
    return Rule(
        row.id,
        row.environment_id,
        row.environment,
        row.name,
        settings,
        row.webhook,
        row.private,
        row.sealed,
        row.shipped,
        row.muted_until,
        row.status or "ok",
        row.since,
        row.fired_at,
        row.resolved_at,
        row.summary or "",
        tuple(row.subjects or ()),
    )


def list_rules(engine: Engine, environment: str | None = None) -> list[Rule]:
    """Return rules by environment and name; shipped ones before they are stored too.

    Rules of a newer release, whose kind is not known here, are left out. Raises UnknownName.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        places = [environment_row(reader, environment)] if environment else None
        rows = stored.rules(connection, places[0].id if places else None, active=False)
        places = places or reader.all(EnvironmentRow)
    names = {(row.environment_id, row.name) for row in rows}
    rules = [rule_of(row) for row in rows if row.active and row.kind in set(Kind)]
    rules += [
        Rule(None, place.id, place.name, name, RuleSettings.of(kind), shipped=True)
        for place in places
        for name, kind in SHIPPED.items()
        if (place.id, name) not in names
    ]
    return sorted(rules, key=lambda rule: (rule.environment, rule.name))


def find_rule(engine: Engine, environment: str, name: str) -> Rule:
    """Return a rule. Raises UnknownName with the nearest name."""
    rules = {rule.name: rule for rule in list_rules(engine, environment)}
    if name not in rules:
        raise UnknownName(f"alert rule in {quoted(environment)}", name, rules)
    return rules[name]


def values_of(settings: RuleSettings) -> dict[AnyColumn, object]:
    """Return the columns of the settings of a rule."""
    return {
        AlertRuleRow.kind: settings.kind.value,
        AlertRuleRow.threshold: settings.threshold,
        AlertRuleRow.hold: settings.hold_s,
        AlertRuleRow.window: settings.window_s,
        AlertRuleRow.minimum: settings.minimum,
        AlertRuleRow.pipeline: settings.pipeline,
        AlertRuleRow.reason: settings.reason,
        AlertRuleRow.emails: list(settings.emails),
    }


def new_values(environment_id: int, name: str, settings: RuleSettings) -> dict[AnyColumn, object]:
    """Return the columns of a new rule without a webhook."""
    return {
        AlertRuleRow.environment_id: environment_id,
        AlertRuleRow.name: name,
        **values_of(settings),
        AlertRuleRow.webhook: "",
        AlertRuleRow.private: False,
        AlertRuleRow.sealed: b"",
        AlertRuleRow.shipped: SHIPPED.get(name) is settings.kind,
        AlertRuleRow.active: True,
        AlertRuleRow.muted_until: None,
    }


def with_emails(settings: RuleSettings, emails: Sequence[str]) -> RuleSettings:
    """Return settings with other addresses, each once."""
    return replace(settings, emails=tuple(dict.fromkeys(emails)))
