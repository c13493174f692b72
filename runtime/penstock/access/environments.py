"""Environments, their policy versions, and what operators decide about pipelines in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row
from penstock.access.parsing import RECORDED, RETENTION
from penstock.access.signing_keys import ALGORITHMS, add_signing_key
from penstock.contracts.access import MAX_TOKEN_LIFETIME
from penstock.db import policies as stored
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import Row, RowReader
from penstock.errors import AlreadyExists, UsageError
from penstock.settings import ENVIRONMENT

STRICTEST = "jwt-api-key"
INTERNAL = "api-key"  # the internal policy of a new environment
TOKEN_LIFETIME = 3600


def create_environment(engine: Engine, actor: str, name: str, box: SecretBox) -> None:
    """Make an environment: the strictest policy, and a key to sign its tokens."""
    if not ENVIRONMENT.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name an environment; use 1 to 31 lower-case letters, digits and"
            " dashes, a letter first"
        )
    now = datetime.now(UTC)
    with audit.change(engine, actor, audit.Action.ENVIRONMENT_CREATED, name, environment=name) as (
        rows,
        detail,
    ):
        if rows.find("environments", name=name):
            raise AlreadyExists("environment", name)
        environment_id = rows.add(
            "environments", name=name, policy=STRICTEST, policy_version=1,
            token_lifetime=TOKEN_LIFETIME, keys_in_query=False,
            algorithm=ALGORITHMS[0], by_id=True, created_at=now,
        )  # fmt: skip
        rows.add(
            "policy_versions",
            environment_id=environment_id,
            version=1,
            policy=STRICTEST,
            reason="a new environment",
            actor=actor,
            created_at=now,
        )
        detail["policy"] = STRICTEST
        detail["kid"] = add_signing_key(rows, environment_id, ALGORITHMS[0], box)


def check_change(
    *,
    token_lifetime: int | None = None,
    keys_in_query: bool | None = None,
    run_retention: int | None = None,
    record_bodies: str | None = None,
) -> dict[str, object]:
    """Return what would be changed of an environment. Raises UsageError where it can't be so."""
    if run_retention is not None and not RETENTION[0] <= run_retention <= RETENTION[1]:
        raise UsageError("runs are remembered for at least 1m and at most ten years")
    if record_bodies is not None and record_bodies not in RECORDED:
        raise UsageError(
            f"{record_bodies!r} is nothing that can be kept of bodies; choose one of"
            f" {', '.join(RECORDED)}"
        )
    if token_lifetime is not None and not 1 <= token_lifetime <= MAX_TOKEN_LIFETIME.total_seconds():
        raise UsageError("a token lives at least 1s and at most 24h")
    said = {
        "run_retention": run_retention,
        "record_bodies": record_bodies,
        "token_lifetime": token_lifetime,
        "keys_in_query": keys_in_query,
    }
    return {name: value for name, value in said.items() if value is not None}


def change_environment(
    engine: Engine,
    actor: str,
    name: str,
    *,
    token_lifetime: int | None = None,
    keys_in_query: bool | None = None,
    run_retention: int | None = None,
    record_bodies: str | None = None,
) -> None:
    """Change an environment's token lifetime, retention of runs, query keys and kept bodies.

    Times are in seconds.
    """
    values = check_change(
        token_lifetime=token_lifetime,
        keys_in_query=keys_in_query,
        run_retention=run_retention,
        record_bodies=record_bodies,
    )
    if not values:
        raise UsageError("nothing to change; `penstock env set --help` says what can be")
    with audit.change(engine, actor, audit.Action.ENVIRONMENT_CHANGED, name, environment=name) as (
        rows,
        detail,
    ):
        rows.set("environments", {"id": environment_row(rows, name)["id"]}, **values)
        detail.update(values)


def list_environments(engine: Engine) -> list[Row]:
    """Return all environments by name."""
    with reading(engine) as connection:
        return sorted(RowReader(connection).all("environments"), key=lambda row: row["name"])


def set_policy(  # noqa: PLR0913  one argument a fact
    engine: Engine,
    actor: str,
    environment: str,
    policy: str,
    *,
    served: Mapping[str, frozenset[str]],
    stopping: Iterable[str],
    grace: timedelta | None = None,
    reason: str = "",
    internal: bool = False,
) -> None:
    """Make a new policy version, in force at once.

    `served` says what each pipeline that is served now requires, by its id, and `stopping` which of
    them would stop. With `grace` those keep their old gate that long. Grace never loosens: one that
    runs is ended or shortened, not extended. `internal` means the policy of the internal listener,
    which knows no grace.
    """
    if internal and grace:
        raise UsageError("the internal policy knows no grace; leave it out")
    now = datetime.now(UTC)
    until = now + grace if grace else None
    with audit.change(
        engine, actor, audit.Action.POLICY_SET, environment, environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        version = row["policy_version"] + 1
        which, exposure = ("internal_policy", "internal") if internal else ("policy", "external")
        rows.set("environments", {"id": row["id"]}, **{which: policy}, policy_version=version)
        rows.add(
            "policy_versions",
            environment_id=row["id"],
            version=version,
            exposure=exposure,
            policy=policy,
            reason=reason,
            actor=actor,
            grace_until=until,
            created_at=now,
        )
        detail.update(
            exposure=exposure,
            policy=policy,
            before=row[which],
            version=version,
            reason=reason,
            stopping=sorted(stopping),
        )
        if internal:
            return
        if until:
            detail["grace_until"] = until.isoformat()
        running = {
            old["pipeline"]: old["until"]
            for old in rows.all("graces", environment_id=row["id"], active=True)
            if old["until"] > now
        }
        granted = (
            {name: min(until, running.get(name, until)) for name in stopping if name in served}
            if until
            else {}
        )
        for name, end in granted.items():
            rows.put(
                "graces",
                {"environment_id": row["id"], "pipeline": name},
                requires=sorted(served[name]),
                until=end,
                active=True,
            )
        for name in running.keys() - granted.keys():
            rows.set("graces", {"environment_id": row["id"], "pipeline": name}, active=False)


def policy_versions(
    engine: Engine, environment: str, *, before: int | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """Return an environment's policy versions, newest first.

    `replaced` is the policy that each took the place of, None where it is the first.

    A page goes on before the last version of the one before.
    """
    with reading(engine) as connection:
        rows = stored.versions(
            connection,
            environment_row(RowReader(connection), environment)["id"],
            before=before,
            limit=limit,
        )
    return [
        dict(row)
        | {"replaced": row["replaced"] or (INTERNAL if row["exposure"] == "internal" else None)}
        for row in rows
    ]
