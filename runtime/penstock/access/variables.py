"""Variables and secrets of an environment, for its pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from penstock import audit
from penstock.access.by_name import is_name
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row
from penstock.access.pipelines import Offered, in_order, meant_by, stored_in
from penstock.contracts.variables import NAME, Secret
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName, UsageError

LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret as a process knows it.

    `expires_at` in seconds since the epoch, `pipelines` their ids, None for all.
    """

    value: Secret
    expires_at: float | None
    pipelines: frozenset[str] | None

    def usable(self, pipeline: str, now: float) -> bool:
        """Say whether a pipeline may have it now."""
        return (self.pipelines is None or pipeline in self.pipelines) and (
            self.expires_at is None or now < self.expires_at
        )


def _check(kind: str, name: str, value: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name a {kind}; use lower-case letters, digits and underscores, a"
            " letter first, 64 at most"
        )
    if len(value.encode()) > LONGEST:
        raise UsageError(f"the {kind} {name!r} is longer than {LONGEST} bytes")


def set_variable(engine: Engine, actor: str, environment: str, name: str, value: str) -> None:
    """Set a plain value."""
    _check("variable", name, value)
    with audit.change(engine, actor, audit.Action.VARIABLE_SET, name, environment=environment) as (
        rows,
        detail,
    ):
        rows.put(
            "variables",
            {"environment_id": environment_row(rows, environment)["id"], "name": name},
            value=value,
            active=True,
        )
        detail["value"] = value


def unset_variable(engine: Engine, actor: str, environment: str, name: str) -> None:
    """Take a variable away; pipelines that need it are refused."""
    with audit.change(
        engine, actor, audit.Action.VARIABLE_UNSET, name, environment=environment
    ) as (rows, _):
        environment_id = environment_row(rows, environment)["id"]
        _known(rows, "variable", "variables", environment_id, name)
        rows.set(
            "variables", {"environment_id": environment_id, "name": name}, value="", active=False
        )


def list_variables(engine: Engine, environment: str | None = None) -> list[dict[str, object]]:
    """Return variables with their values."""
    return _listed(engine, "variables", ("value",), environment)


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
) -> datetime | None:
    """Keep a secret, sealed, for all pipelines or those that names or ids mean.

    Return when it expires.
    """
    _check("secret", name, value)
    if not value:
        raise UsageError(f"the secret {name!r} is empty")
    expires_at = datetime.now(UTC) + expires if expires else None
    with audit.change(engine, actor, audit.Action.SECRET_SET, name, environment=environment) as (
        rows,
        detail,
    ):
        environment_id = environment_row(rows, environment)["id"]
        stored = stored_in(rows, environment_id)
        allowed = in_order(
            {identifier for word in pipelines for identifier in meant_by(word, offered, stored)}
        )
        sealed = box.encrypt(value.encode())
        where = {"environment_id": environment_id, "name": name}
        rows.put(
            "pipeline_secrets",
            where,
            sealed=sealed,
            expires_at=expires_at,
            pipelines=allowed or None,
            active=True,
        )
        detail.update(
            expires_at=expires_at.isoformat() if expires_at else None, pipelines=allowed or None
        )
    return expires_at


def unset_secret(engine: Engine, actor: str, environment: str, name: str) -> None:
    """Wipe a secret; pipelines that need it are refused."""
    with audit.change(engine, actor, audit.Action.SECRET_UNSET, name, environment=environment) as (
        rows,
        _,
    ):
        environment_id = environment_row(rows, environment)["id"]
        _known(rows, "secret", "pipeline_secrets", environment_id, name)
        rows.set(
            "pipeline_secrets",
            {"environment_id": environment_id, "name": name},
            sealed=b"",
            active=False,
        )


def list_secrets(engine: Engine, environment: str | None = None) -> list[dict[str, object]]:
    """Return secrets, never their values."""
    rows = _listed(engine, "pipeline_secrets", ("expires_at", "pipelines"), environment)
    for row in rows:
        # Beside ids there may be names, which the release before looks at.
        if isinstance(row["pipelines"], list):
            row["pipelines"] = [item for item in row["pipelines"] if not is_name(item)] or row[
                "pipelines"
            ]
    return rows


def _known(rows: RowReader, kind: str, table: str, environment_id: int, name: str) -> None:
    names = [row["name"] for row in rows.all(table, environment_id=environment_id, active=True)]
    if name not in names:
        raise UnknownName(kind, name, names)


def _listed(
    engine: Engine, table: str, columns: tuple[str, ...], environment: str | None
) -> list[dict[str, object]]:
    with reading(engine) as connection:
        reader = RowReader(connection)
        match = (
            {"environment_id": environment_row(reader, environment)["id"]} if environment else {}
        )
        environments = reader.names_by_id("environments")
        rows = [
            {
                "environment": environments[row["environment_id"]],
                "name": row["name"],
                **{column: row[column] for column in columns},
            }
            for row in reader.all(table, **match, active=True)
        ]
    return sorted(rows, key=lambda row: (str(row["environment"]), str(row["name"])))
