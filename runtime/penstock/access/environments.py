"""Environments and their rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row
from penstock.access.parsing import RECORDED, RETENTION
from penstock.access.seen import require_seen
from penstock.access.signing_keys import ALGORITHMS, add_signing_key
from penstock.audit.approvals import Kind, gate, is_applying
from penstock.contracts.access import MAX_TOKEN_LIFETIME
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow, PolicyVersionRow
from penstock.db.unit_of_work import RowReader, Values
from penstock.errors import AlreadyExists, UsageError, quoted
from penstock.settings import ENVIRONMENT

STRICTEST_POLICY = "jwt-api-key"
TOKEN_LIFETIME_S = 3600


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """What changes in an environment; None stays. Times are in seconds."""

    token_lifetime: int | None = None
    keys_in_query: bool | None = None
    run_retention: int | None = None
    record_bodies: str | None = None
    second_approval: bool | None = None

    def check(self) -> None:
        """Raise UsageError where a value is out of range."""
        if (
            self.run_retention is not None
            and not RETENTION[0] <= self.run_retention <= RETENTION[1]
        ):
            raise UsageError("runs are remembered for at least 1m and at most ten years")
        if self.record_bodies is not None and self.record_bodies not in RECORDED:
            raise UsageError(
                f"{quoted(self.record_bodies)} is nothing that can be kept of bodies; choose one of"
                f" {', '.join(RECORDED)}"
            )
        longest = MAX_TOKEN_LIFETIME.total_seconds()
        if self.token_lifetime is not None and not 1 <= self.token_lifetime <= longest:
            raise UsageError("a token lives at least 1s and at most 24h")

    def widens(self, row: EnvironmentRow) -> bool:
        """Return whether callers may do more afterwards, or fewer people must agree to that."""
        return (
            (self.keys_in_query is True and not row.keys_in_query)
            or (self.second_approval is False and row.second_approval)
            or (self.token_lifetime is not None and self.token_lifetime > row.token_lifetime)
        )

    def values(self) -> Values:
        """Return the columns that change."""
        values: Values = {
            EnvironmentRow.run_retention: self.run_retention,
            EnvironmentRow.record_bodies: self.record_bodies,
            EnvironmentRow.token_lifetime: self.token_lifetime,
            EnvironmentRow.keys_in_query: self.keys_in_query,
            EnvironmentRow.second_approval: self.second_approval,
        }
        return {column: value for column, value in values.items() if value is not None}


def create_environment(engine: Engine, actor: str, name: str, box: SecretBox) -> None:
    """Create an environment with the strictest policy and a key that signs its tokens.

    Raises UsageError and AlreadyExists.
    """
    if not ENVIRONMENT.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} can't name an environment; use 1 to 31 lower-case letters, digits and"
            " dashes, a letter first"
        )
    now = datetime.now(UTC)
    with audit.change(engine, actor, audit.Action.ENVIRONMENT_CREATED, name, environment=name) as (
        rows,
        detail,
    ):
        if rows.find(EnvironmentRow, {EnvironmentRow.name: name}):
            raise AlreadyExists("environment", name)
        environment_id = rows.add(
            EnvironmentRow,
            {
                EnvironmentRow.name: name,
                EnvironmentRow.policy: STRICTEST_POLICY,
                EnvironmentRow.policy_version: 1,
                EnvironmentRow.token_lifetime: TOKEN_LIFETIME_S,
                EnvironmentRow.keys_in_query: False,
                EnvironmentRow.algorithm: ALGORITHMS[0],
                EnvironmentRow.by_id: True,
                EnvironmentRow.created_at: now,
            },
        )
        rows.add(
            PolicyVersionRow,
            {
                PolicyVersionRow.environment_id: environment_id,
                PolicyVersionRow.version: 1,
                PolicyVersionRow.policy: STRICTEST_POLICY,
                PolicyVersionRow.reason: "a new environment",
                PolicyVersionRow.actor: actor,
                PolicyVersionRow.created_at: now,
            },
        )
        detail["policy"] = STRICTEST_POLICY
        detail["kid"] = add_signing_key(rows, environment_id, ALGORITHMS[0], box)


def settings_of(row: EnvironmentRow) -> list[object]:
    """Return the values that an `EnvironmentChange` replaces."""
    return [
        row.token_lifetime,
        row.keys_in_query,
        row.run_retention,
        row.record_bodies,
        row.second_approval,
    ]


def change_environment(
    engine: Engine, actor: str, name: str, change: EnvironmentChange, *, seen: str | None = None
) -> None:
    """Change the rules of an environment.

    `seen` is the token of the settings that the author saw (`access.seen`). Raises UsageError,
    UnknownName and Outdated.
    """
    change.check()
    values = change.values()
    if not values:
        raise UsageError("nothing to change; `penstock env set --help` says what can be")
    with audit.change(engine, actor, audit.Action.ENVIRONMENT_CHANGED, name, environment=name) as (
        rows,
        detail,
    ):
        row = environment_row(rows, name)
        require_seen(seen, settings_of(row), f"environment {name}")
        before = {column.key: getattr(row, column.key) for column in values}
        if change.widens(row) or is_applying():
            request = {column.key: value for column, value in values.items()}
            gate(rows, detail, row, Kind.ENVIRONMENT, name, request=request, state=before)
        rows.set(EnvironmentRow, {EnvironmentRow.id: row.id}, values)
        detail.update({column.key: value for column, value in values.items()})
        detail["before"] = before


def list_environments(engine: Engine) -> list[EnvironmentRow]:
    """Return all environments by name."""
    with reading(engine) as connection:
        return sorted(RowReader(connection).all(EnvironmentRow), key=lambda row: row.name)
