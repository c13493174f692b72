"""Variables and secrets of an environment, which its pipelines can read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from penstock import audit
from penstock.access.by_name import is_name
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row, in_environment
from penstock.access.pipelines import Offered, in_order, meant_by, stored_in
from penstock.access.seen import require_seen, state_token
from penstock.contracts.variables import NAME, Secret
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow, PipelineSecretRow, VariableRow
from penstock.db.unit_of_work import RowReader, Values
from penstock.errors import UnknownName, UsageError, quoted

MAX_VALUE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A decrypted secret and the pipelines that may read it.

    `expires_at` is in seconds since the epoch. `pipelines` are ids; None: all pipelines.
    """

    value: Secret
    expires_at: float | None
    pipelines: frozenset[str] | None

    def is_readable(self, pipeline: str, now: float) -> bool:
        """Return whether a pipeline may read it now."""
        return (self.pipelines is None or pipeline in self.pipelines) and (
            self.expires_at is None or now < self.expires_at
        )


@dataclass(frozen=True, slots=True)
class ListedVariable:
    """A variable of an environment."""

    environment: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class SetSecret:
    """When a secret that was set expires, and whether it replaced another value."""

    expires_at: datetime | None
    replaced: bool


@dataclass(frozen=True, slots=True)
class ListedSecret:
    """A secret as operators see it, without its value. `pipelines` are ids; None: all pipelines."""

    environment: str
    name: str
    expires_at: datetime | None
    pipelines: list[str] | None


def _check(kind: str, name: str, value: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} can't name a {kind}; use lower-case letters, digits and underscores, a"
            " letter first, 64 at most"
        )
    if len(value.encode()) > MAX_VALUE_BYTES:
        raise UsageError(f"the {kind} {quoted(name)} is longer than {MAX_VALUE_BYTES} bytes")


def set_variable(
    engine: Engine,
    actor: str,
    environment: str,
    name: str,
    value: str,
    *,
    seen: str | None = None,
) -> str | None:
    """Set a variable, and return its value before; None for a new one.

    `seen` is the token of the value before, None for a new one (`access.seen`). Raises UsageError,
    UnknownName and Outdated.
    """
    _check("variable", name, value)
    with audit.change(engine, actor, audit.Action.VARIABLE_SET, name, environment=environment) as (
        rows,
        detail,
    ):
        match: Values = {
            VariableRow.environment_id: environment_row(rows, environment).id,
            VariableRow.name: name,
        }
        row = rows.find(VariableRow, match)
        before = row.value if row is not None and row.active else None
        saved = [(name, "deleted" if before is None else before)]
        require_seen(seen, before, f"variable {name}", saved)
        rows.put(VariableRow, match, {VariableRow.value: value, VariableRow.active: True})
        detail["value"] = value
        if before is not None:
            detail["before"] = before
    return before


def unset_variable(engine: Engine, actor: str, environment: str, name: str) -> None:
    """Delete a variable; pipelines that require it are blocked. Raises UnknownName."""
    with audit.change(
        engine, actor, audit.Action.VARIABLE_UNSET, name, environment=environment
    ) as (rows, _):
        match: Values = {VariableRow.environment_id: environment_row(rows, environment).id}
        active = rows.all(VariableRow, {**match, VariableRow.active: True})
        _require("variable", name, [row.name for row in active])
        rows.set(
            VariableRow,
            {**match, VariableRow.name: name},
            {VariableRow.value: "", VariableRow.active: False},
        )


def list_variables(engine: Engine, environment: str | None = None) -> list[ListedVariable]:
    """Return variables by environment and name. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        match = in_environment(reader, VariableRow, environment)
        environments = reader.names_by_id(EnvironmentRow)
        rows = reader.all(VariableRow, {**match, VariableRow.active: True})
    variables = [
        ListedVariable(environments[row.environment_id], row.name, row.value) for row in rows
    ]
    return sorted(variables, key=lambda item: (item.environment, str(item.name)))


def set_secret(  # noqa: PLR0913  one argument a fact
    engine: Engine,
    actor: str,
    environment: str,
    name: str,
    value: str,
    box: SecretBox,
    *,
    expires: timedelta | None = None,
    pipelines: Iterable[str] = (),
    offered: Offered = MappingProxyType({}),
    seen: str | None = None,
) -> SetSecret:
    """Store a secret, encrypted, for some pipelines by name or id, or for all.

    `seen` is the token that `secret_token` returned. Raises UsageError, UnknownName and Outdated.
    """
    _check("secret", name, value)
    if not value:
        raise UsageError(f"the secret {quoted(name)} is empty")
    expires_at = datetime.now(UTC) + expires if expires else None
    with audit.change(engine, actor, audit.Action.SECRET_SET, name, environment=environment) as (
        rows,
        detail,
    ):
        environment_id = environment_row(rows, environment).id
        state = _secret_state(rows, environment_id, name)
        saved = [(name, "deleted" if state is None else "another value, which no page shows")]
        require_seen(seen, state, f"secret {name}", saved)
        stored_ids = stored_in(rows, environment_id)
        allowed = in_order(
            {identifier for word in pipelines for identifier in meant_by(word, offered, stored_ids)}
        )
        rows.put(
            PipelineSecretRow,
            {PipelineSecretRow.environment_id: environment_id, PipelineSecretRow.name: name},
            {
                PipelineSecretRow.sealed: box.encrypt(value.encode()),
                PipelineSecretRow.expires_at: expires_at,
                PipelineSecretRow.pipelines: allowed or None,
                PipelineSecretRow.active: True,
            },
        )
        detail.update(
            expires_at=expires_at.isoformat() if expires_at else None, pipelines=allowed or None
        )
    return SetSecret(expires_at, replaced=state is not None)


def _secret_state(reader: RowReader, environment_id: int, name: str) -> int | None:
    """Return the revision of a secret; None where there is none."""
    row = reader.find(
        PipelineSecretRow,
        {PipelineSecretRow.environment_id: environment_id, PipelineSecretRow.name: name},
    )
    return row.revision if row is not None and row.active else None


def secret_token(engine: Engine, environment: str, name: str) -> str:
    """Return the token of a secret's state, for the form that replaces it. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        row = environment_row(reader, environment)
        return state_token(_secret_state(reader, row.id, name))


def unset_secret(engine: Engine, actor: str, environment: str, name: str) -> None:
    """Delete a secret; pipelines that require it are blocked. Raises UnknownName."""
    with audit.change(engine, actor, audit.Action.SECRET_UNSET, name, environment=environment) as (
        rows,
        _,
    ):
        match: Values = {PipelineSecretRow.environment_id: environment_row(rows, environment).id}
        active = rows.all(PipelineSecretRow, {**match, PipelineSecretRow.active: True})
        _require("secret", name, [row.name for row in active])
        rows.set(
            PipelineSecretRow,
            {**match, PipelineSecretRow.name: name},
            {PipelineSecretRow.sealed: b"", PipelineSecretRow.active: False},
        )


def list_secrets(engine: Engine, environment: str | None = None) -> list[ListedSecret]:
    """Return secrets by environment and name. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        match = in_environment(reader, PipelineSecretRow, environment)
        environments = reader.names_by_id(EnvironmentRow)
        rows = reader.all(PipelineSecretRow, {**match, PipelineSecretRow.active: True})
    listed = [
        ListedSecret(
            environments[row.environment_id], row.name, row.expires_at, _ids(row.pipelines)
        )
        for row in rows
    ]
    return sorted(listed, key=lambda item: (item.environment, str(item.name)))


def _ids(pipelines: list[str] | None) -> list[str] | None:
    """Return the ids of pipelines alone where there are some; the previous release reads names."""
    if not isinstance(pipelines, list):
        return pipelines
    return [identifier for identifier in pipelines if not is_name(identifier)] or pipelines


def _require(kind: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UnknownName(kind, name, names)
