"""Change alert rules: create, set, remove, mute and test them, each with an event of the audit."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from penstock import audit, clock
from penstock.access.callbacks import encode_secret
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row
from penstock.access.seen import require_seen
from penstock.alerts.kinds import SHIPPED
from penstock.alerts.rules import (
    Rule,
    RuleSettings,
    find_rule,
    new_values,
    settings_of,
    values_of,
)
from penstock.alerts.targets import check_webhook, origin_of
from penstock.db.alert_tables import AlertRuleRow
from penstock.db.engine import Engine
from penstock.db.rows import AnyColumn
from penstock.db.unit_of_work import AccessChange, Values
from penstock.errors import UnknownName, UsageError, quoted

NAME = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
MAX_MUTED = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL that gets messages, and the secret that signs them. An empty URL removes it."""

    url: str = field(repr=False)
    private: bool = False
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def values(self, box: SecretBox) -> dict[AnyColumn, object]:
        """Return the columns of a rule. Raises UsageError."""
        if self.url:
            check_webhook(self.url, private=self.private)
        document = {"url": self.url, "secret": encode_secret(self.secret)}
        sealed = box.encrypt(json.dumps(document).encode()) if self.url else b""
        return {
            AlertRuleRow.webhook: origin_of(self.url) if self.url else "",
            AlertRuleRow.private: self.private and bool(self.url),
            AlertRuleRow.sealed: sealed,
        }

    @property
    def shown_secret(self) -> str | None:
        """The secret as its receiver needs it, at the only moment at which it can be seen."""
        return encode_secret(self.secret) if self.url else None


def create_rule(
    engine: Engine,
    actor: str,
    environment: str,
    name: str,
    settings: RuleSettings,
    box: SecretBox,
    webhook: Webhook | None = None,
) -> str | None:
    """Create a rule and return the secret that signs its webhook, None without one.

    Raises UsageError and UnknownName.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} can't name a rule; use lower-case letters, digits and dashes, a letter"
            " first (63 at most)"
        )
    settings.check()
    sent = webhook.values(box) if webhook is not None else {}
    with audit.change(engine, actor, audit.Action.ALERT_CREATED, name, environment=environment) as (
        rows,
        detail,
    ):
        place = environment_row(rows, environment)
        match: Values = {AlertRuleRow.environment_id: place.id, AlertRuleRow.name: name}
        row = rows.find(AlertRuleRow, match)
        if (row is not None and row.active) or (row is None and name in SHIPPED):
            raise UsageError(
                f"there is a rule {name} in {environment}; change it with `penstock alert set`"
            )
        values = {**new_values(place.id, name, settings), **sent}
        if row is None:
            rows.add(AlertRuleRow, values)
        else:
            rows.set(AlertRuleRow, {AlertRuleRow.id: row.id}, values)
        detail.update(settings.document(), **_shown(sent))
    return webhook.shown_secret if webhook is not None else None


def _shown(sent: dict[AnyColumn, object]) -> dict[str, object]:
    return {"webhook": sent[AlertRuleRow.webhook]} if sent else {}


def set_rule(  # noqa: PLR0913  one argument a fact
    engine: Engine,
    actor: str,
    environment: str,
    name: str,
    settings: RuleSettings,
    box: SecretBox,
    webhook: Webhook | None = None,
    *,
    seen: str | None = None,
) -> str | None:
    """Replace the settings of a rule; `webhook` None leaves its webhook as it is.

    Return the secret that signs a new webhook. `seen` is the token of the settings that the user
    saw. Raises UsageError, UnknownName and Outdated.
    """
    settings.check()
    sent = webhook.values(box) if webhook is not None else {}
    with _stored(engine, actor, audit.Action.ALERT_CHANGED, environment, name) as (
        rows,
        row,
        detail,
    ):
        before = settings_of(row)
        require_seen(seen, before.document(), f"alert rule {name}")
        if settings.kind is not before.kind:
            raise UsageError(f"rule {name} is of kind {before.kind}; create another rule")
        rows.set(AlertRuleRow, {AlertRuleRow.id: row.id}, {**values_of(settings), **sent})
        old, new = before.document(), settings.document()
        changed = [key for key in new if new[key] != old[key]]
        detail.update({key: new[key] for key in changed}, **_shown(sent))
        detail["before"] = {key: old[key] for key in changed}
        detail["before"] |= {"webhook": row.webhook} if sent else {}
    return webhook.shown_secret if webhook is not None else None


@contextmanager
def _stored(
    engine: Engine, actor: str, action: audit.Action, environment: str, name: str
) -> Iterator[tuple[AccessChange, AlertRuleRow, dict[str, Any]]]:
    """Open a change of a rule; a shipped one is stored first. Raises UnknownName."""
    with audit.change(engine, actor, action, name, environment=environment) as (rows, detail):
        place = environment_row(rows, environment)
        match: Values = {AlertRuleRow.environment_id: place.id, AlertRuleRow.name: name}
        row = rows.find(AlertRuleRow, match)
        if row is None and name in SHIPPED:
            rows.add(AlertRuleRow, new_values(place.id, name, RuleSettings.of(SHIPPED[name])))
            row = rows.find(AlertRuleRow, match)
        if row is None or not row.active:
            of_place: Values = {AlertRuleRow.environment_id: place.id, AlertRuleRow.active: True}
            active = [each.name for each in rows.all(AlertRuleRow, of_place)]
            raise UnknownName(f"alert rule in {quoted(environment)}", name, [*active, *SHIPPED])
        yield rows, row, detail


def remove_rule(engine: Engine, actor: str, environment: str, name: str) -> None:
    """Remove a rule, and delete the URL and the secret of its webhook. Raises UnknownName."""
    with _stored(engine, actor, audit.Action.ALERT_REMOVED, environment, name) as (rows, row, _):
        rows.set(
            AlertRuleRow,
            {AlertRuleRow.id: row.id},
            {AlertRuleRow.active: False, AlertRuleRow.webhook: "", AlertRuleRow.sealed: b""},
        )


def mute_rule(
    engine: Engine, actor: str, environment: str, name: str, length: timedelta | None
) -> datetime | None:
    """Let a rule send nothing for a time, None: let it send again. Return the end of the time.

    Raises UsageError and UnknownName.
    """
    if length is not None and length > MAX_MUTED:
        raise UsageError("a rule can be muted for at most 365d")
    until = clock.utc_now() + length if length is not None else None
    action = audit.Action.ALERT_MUTED if until else audit.Action.ALERT_UNMUTED
    with _stored(engine, actor, action, environment, name) as (rows, row, detail):
        rows.set(AlertRuleRow, {AlertRuleRow.id: row.id}, {AlertRuleRow.muted_until: until})
        if until is not None:
            detail["until"] = until.isoformat(timespec="minutes")
    return until


def stored_rule(engine: Engine, actor: str, environment: str, name: str) -> Rule:
    """Return a rule whose test is recorded in the audit log; a shipped one is stored first.

    Raises UnknownName.
    """
    with _stored(engine, actor, audit.Action.ALERT_TESTED, environment, name):
        pass
    return find_rule(engine, environment, name)
