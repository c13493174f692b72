"""External and internal access policies of environments, and their versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penstock import audit
from penstock.access.lookup import environment_row
from penstock.access.texts import check_text
from penstock.audit.approvals import Kind, gate
from penstock.db import policies as stored
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow, GraceRow, PolicyVersionRow
from penstock.db.unit_of_work import AccessChange, RowReader, Values
from penstock.errors import UsageError

INTERNAL_POLICY = "api-key"  # of a new environment


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version of an environment's policy on one of its listeners.

    `exposure` is external or internal. `replaced` is the policy before it, None of the first.
    """

    version: int
    exposure: str
    policy: str
    reason: str
    actor: str
    grace_until: datetime | None
    created_at: datetime
    replaced: str | None


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
    """Set a policy, in force at once, as a new version.

    `served` is what each pipeline that is served now requires, by its id; `stopping` are those that
    would stop. With `grace` they keep their previous gate for that time. Grace never loosens: a
    running grace is ended or shortened, never extended. `internal` sets the policy of the internal
    listener, which has no grace. Raises UsageError and UnknownName.
    """
    if internal and grace:
        raise UsageError("the internal policy knows no grace; leave it out")
    check_text("reason", reason)
    now = datetime.now(UTC)
    until = now + grace if grace else None
    with audit.change(
        engine, actor, audit.Action.POLICY_SET, environment, environment=environment
    ) as (rows, detail):
        row, stops = environment_row(rows, environment), sorted(stopping)
        request = _request(policy, grace, reason, internal=internal)
        state = _state_of(row, stops, served)
        gate(rows, detail, row, Kind.POLICY, environment, request=request, state=state)
        version: Values = {
            PolicyVersionRow.exposure: "internal" if internal else "external",
            PolicyVersionRow.policy: policy,
            PolicyVersionRow.reason: reason,
            PolicyVersionRow.actor: actor,
            PolicyVersionRow.grace_until: until,
            PolicyVersionRow.created_at: now,
        }
        _add_version(rows, row, version, internal=internal)
        detail.update(
            exposure="internal" if internal else "external",
            policy=policy,
            before=row.internal_policy if internal else row.policy,
            version=row.policy_version + 1,
            reason=reason,
            stopping=stops,
        )
        if internal:
            return
        if until:
            detail["grace_until"] = until.isoformat()
        granted = {name: served[name] for name in stops if name in served} if until else {}
        _set_graces(rows, row.id, granted, until, now)


def _request(
    policy: str, grace: timedelta | None, reason: str, *, internal: bool
) -> dict[str, object]:
    """Return what an approval of a policy change applies."""
    grace_s = grace.total_seconds() if grace else None
    return {"policy": policy, "internal": internal, "grace_s": grace_s, "reason": reason}


def _state_of(
    row: EnvironmentRow, stopping: list[str], served: Mapping[str, frozenset[str]]
) -> object:
    """Return what an approval of a policy change is based on: the policies and the effects."""
    effects = {name: sorted(requires) for name, requires in served.items()}
    return [row.policy, row.internal_policy, row.policy_version, stopping, effects]


def _add_version(
    rows: AccessChange, row: EnvironmentRow, values: Values, *, internal: bool
) -> None:
    number = row.policy_version + 1
    column = EnvironmentRow.internal_policy if internal else EnvironmentRow.policy
    rows.set(
        EnvironmentRow,
        {EnvironmentRow.id: row.id},
        {column: values[PolicyVersionRow.policy], EnvironmentRow.policy_version: number},
    )
    rows.add(
        PolicyVersionRow,
        {
            **values,
            PolicyVersionRow.environment_id: row.id,
            PolicyVersionRow.version: number,
        },
    )


def _set_graces(
    rows: AccessChange,
    environment_id: int,
    granted: Mapping[str, frozenset[str]],
    until: datetime | None,
    now: datetime,
) -> None:
    """Grant graces until a moment, unless they run already and end earlier; end all others.

    `granted` is what each pipeline requires, by its id.
    """
    match: Values = {GraceRow.environment_id: environment_id}
    active = rows.all(GraceRow, {**match, GraceRow.active: True})
    running = {row.pipeline: row.until for row in active if row.until > now}
    for pipeline, requires in granted.items():
        if until is not None:
            rows.put(
                GraceRow,
                {**match, GraceRow.pipeline: pipeline},
                {
                    GraceRow.requires: sorted(requires),
                    GraceRow.until: min(until, running.get(pipeline, until)),
                    GraceRow.active: True,
                },
            )
    for pipeline in running.keys() - granted.keys():
        rows.set(GraceRow, {**match, GraceRow.pipeline: pipeline}, {GraceRow.active: False})


def record_preview(
    engine: Engine, actor: str, environment: str, policy: str, *, internal: bool
) -> None:
    """Write to the audit log that a user looked at what a policy would change."""
    detail = {"policy": policy, "exposure": "internal" if internal else "external"}
    action = audit.Action.POLICY_PREVIEWED
    audit.record(engine, actor, action, environment, detail, environment=environment)


def policy_versions(
    engine: Engine, environment: str, *, before: int | None = None, limit: int = 100
) -> list[PolicyVersion]:
    """Return an environment's policy versions before a version, newest first.

    Raises UnknownName.
    """
    with reading(engine) as connection:
        environment_id = environment_row(RowReader(connection), environment).id
        rows = stored.versions(connection, environment_id, before=before, limit=limit)
    return [
        PolicyVersion(
            row.version,
            row.exposure,
            row.policy,
            row.reason,
            row.actor,
            row.grace_until,
            row.created_at,
            replaced=row.replaced or (INTERNAL_POLICY if row.exposure == "internal" else None),
        )
        for row in rows
    ]
