"""Evaluate all rules: change their states, and write the messages that follow.

State and messages are written in one transaction, and only where the state is still the one that
was read. So of several processes that evaluate a rule at once, one writes its messages.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from penstock.alerts.conditions import find
from penstock.alerts.kinds import KINDS, SHIPPED, Kind
from penstock.alerts.messages import queued
from penstock.alerts.rules import Rule, RuleSettings, new_values, rule_of
from penstock.alerts.states import FIRING, OK, AlertState, Manner, following
from penstock.db import alerts as stored
from penstock.db.alert_tables import AlertStateRow
from penstock.db.alerts import StatefulRuleRow
from penstock.db.engine import Engine, reading, writing
from penstock.db.rows import AnyColumn
from penstock.db.tables import EnvironmentRow
from penstock.db.unit_of_work import RowReader
from penstock.errors import PenstockError


def store_shipped(engine: Engine) -> None:
    """Store the rules that ship, in environments that do not have them yet."""
    with reading(engine) as connection:
        places = RowReader(connection).names_by_id(EnvironmentRow)
        rows = stored.rules(connection, active=False)
    names = {(row.environment_id, row.name) for row in rows}
    missing = [
        new_values(place, name, RuleSettings.of(kind))
        for place in places
        for name, kind in SHIPPED.items()
        if (place, name) not in names
    ]
    if missing:
        with writing(engine) as connection:
            stored.add_missing(connection, missing)


def evaluate(engine: Engine, now: datetime) -> None:
    """Evaluate the rules of all environments; one that can't be evaluated keeps its state.

    Raises DatabaseUnavailable.
    """
    store_shipped(engine)
    with reading(engine) as connection:
        rows = stored.rules(connection)
    for row in rows:
        if row.kind not in set(Kind):  # of a newer release
            continue
        try:
            _evaluate_rule(engine, row, now)
        except PenstockError:
            raise
        except Exception:  # noqa: BLE001  one rule must not stop the others
            structlog.get_logger("penstock.alerts").exception(
                "can't evaluate an alert rule", rule=row.name, environment=row.environment
            )


def _evaluate_rule(engine: Engine, row: StatefulRuleRow, now: datetime) -> None:
    rule = rule_of(row)
    with reading(engine) as connection:
        finding = find(connection, rule, now)
    state = _state_of(row, now)
    manner = Manner(rule.settings.hold_s, rule.muted, KINDS[rule.kind].each)
    changed, announcement = following(state, finding, now, manner)
    if changed == state:
        return
    with writing(engine) as connection:
        if not stored.put_state(connection, row.id, row.sequence, _values(changed)):
            return  # another process was first
        if announcement is not None:
            stored.add_messages(connection, queued(rule, announcement, changed, now))
    _log(rule, state, changed)


def _state_of(row: StatefulRuleRow, now: datetime) -> AlertState:
    if row.status is None or row.since is None:
        return AlertState(OK, now)
    return AlertState(
        row.status,
        row.since,
        row.fired_at,
        row.resolved_at,
        row.summary or "",
        tuple(row.subjects or ()),
        None if row.announced is None else tuple(row.announced),
    )


def _values(state: AlertState) -> dict[AnyColumn, object]:
    return {
        AlertStateRow.status: state.status,
        AlertStateRow.since: state.since,
        AlertStateRow.fired_at: state.fired_at,
        AlertStateRow.resolved_at: state.resolved_at,
        AlertStateRow.summary: state.summary,
        AlertStateRow.subjects: list(state.subjects),
        AlertStateRow.announced: None if state.announced is None else list(state.announced),
    }


def _log(rule: Rule, before: AlertState, after: AlertState) -> None:
    log = structlog.get_logger("penstock.alerts")
    if after.status == FIRING != before.status:
        log.warning(
            "alert firing", rule=rule.name, environment=rule.environment, summary=after.summary
        )
    elif before.status == FIRING != after.status:
        log.info("alert resolved", rule=rule.name, environment=rule.environment)
