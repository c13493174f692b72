"""Pipelines in access data: what operators decide about them, and which have been seen.

Every decision is stored for an id (`v1/orders`). A name (`orders`) is a shorthand in commands: it
stands for all major versions that one plugin offers now, and is stored as their ids. A name that
two plugins share stands for neither.

`offered` is what the plugins of this process offer: the plugin of each id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock import audit
from penstock.access import by_name
from penstock.access.lookup import environment_row
from penstock.audit.approvals import Kind, gate
from penstock.db.engine import Engine, reading
from penstock.db.tables import (
    AssociationRow,
    EnvironmentRow,
    GraceRow,
    NewPipelinesRow,
    PipelineRow,
)
from penstock.db.unit_of_work import AccessChange, RowReader, Values
from penstock.errors import UnknownName, UsageError, quoted

Offered = Mapping[str, str]


def name_of(identifier: str) -> str:
    """Return the name in an id, or a name itself."""
    return identifier.rpartition("/")[2]


def in_order(identifiers: Iterable[str]) -> list[str]:
    """Return ids by name and major version."""
    return sorted(identifiers, key=lambda text: (name_of(text), len(text), text))


def meant_by(word: str, offered: Offered, stored: Iterable[str] = ()) -> list[str]:
    """Return the ids that a name or an id stands for where access is granted.

    `stored` are ids in the database. Raises UnknownName, and UsageError where a name is ambiguous.
    """
    if "/" in word:
        if word not in offered and word not in set(stored):
            raise UnknownName("pipeline", word, {*offered, *stored})
        return [word]
    identifiers = [identifier for identifier in offered if name_of(identifier) == word]
    plugins = sorted({offered[identifier] for identifier in identifiers})
    if len(plugins) > 1:
        raise UsageError(
            f"{quoted(word)} is offered by plugins {' and '.join(plugins)}; write an id, such as"
            f" {in_order(identifiers)[0]}"
        )
    if not identifiers:
        seen = in_order(identifier for identifier in stored if name_of(identifier) == word)
        if seen:
            raise UsageError(
                f"no plugin offers {quoted(word)} here; write the id: {' or '.join(seen)}"
            )
        raise UnknownName("pipeline", word, {*map(name_of, offered), *map(name_of, stored)})
    return in_order(identifiers)


def among(word: str, identifiers: Iterable[str], noun: str) -> list[str]:
    """Return the ids that a name or an id stands for where access is removed.

    A name stands for all its ids, of any plugin. Raises UnknownName.
    """
    candidates = list(identifiers)
    matches = [identifier for identifier in candidates if word in {identifier, name_of(identifier)}]
    if not matches:
        raise UnknownName(noun, word, {*candidates, *map(name_of, candidates)})
    return in_order(matches)


def stored_in(rows: RowReader, environment_id: int) -> set[str]:
    """Return the ids of an environment's pipelines in the database."""
    return {row.name for row in _pipelines(rows, environment_id) if "/" in row.name}


def _pipelines(rows: RowReader, environment_id: int) -> list[PipelineRow]:
    return rows.all(PipelineRow, {PipelineRow.environment_id: environment_id})


def set_pipeline_enabled(
    engine: Engine, actor: str, environment: str, word: str, offered: Offered, *, enabled: bool
) -> list[str]:
    """Enable or disable the pipelines that a name or an id stands for; return their ids.

    Raises UsageError and UnknownName.
    """
    action = audit.Action.PIPELINE_ENABLED if enabled else audit.Action.PIPELINE_DISABLED
    values: Values = {PipelineRow.enabled: enabled}
    return _set(engine, actor, action, environment, word, offered, values, grants=enabled)


def set_login_flow(
    engine: Engine, actor: str, environment: str, word: str, offered: Offered, *, designated: bool
) -> list[str]:
    """Designate the pipelines that a name or an id stands for as login flows, or withdraw that.

    Return their ids. Raises UsageError and UnknownName.
    """
    action = audit.Action.LOGIN_FLOW_DESIGNATED if designated else audit.Action.LOGIN_FLOW_WITHDRAWN
    values: Values = {PipelineRow.login_flow: designated}
    return _set(engine, actor, action, environment, word, offered, values, grants=designated)


def _set(  # noqa: PLR0913  one argument a fact
    engine: Engine,
    actor: str,
    action: audit.Action,
    environment: str,
    word: str,
    offered: Offered,
    values: Values,
    *,
    grants: bool,
) -> list[str]:
    """Store a decision about pipelines.

    A decision that grants nothing may name pipelines that no plugin offers any more.
    """
    with audit.change(engine, actor, action, word, environment=environment) as (rows, detail):
        row = environment_row(rows, environment)
        environment_id = row.id
        stored = stored_in(rows, environment_id)
        identifiers = (
            meant_by(word, offered, stored)
            if grants
            else among(word, {*offered, *stored}, "pipeline")
        )
        detail["pipelines"] = identifiers
        if grants:
            login_flow = action is audit.Action.LOGIN_FLOW_DESIGNATED
            gate(
                rows,
                detail,
                row,
                Kind.LOGIN_FLOW if login_flow else Kind.ENABLE_PIPELINE,
                word,
                request={"pipelines": identifiers},
                state=[row.policy, row.internal_policy, row.policy_version],
            )
        for identifier in identifiers:
            _decide(rows, environment_id, identifier, values)
        by_name.update_name_rows(rows, environment_id, identifiers)
    return identifiers


def _decide(rows: AccessChange, environment_id: int, identifier: str, values: Values) -> None:
    match: Values = {
        PipelineRow.environment_id: environment_id,
        PipelineRow.name: identifier,
    }
    row = rows.find(PipelineRow, match)
    if row is None:
        defaults: Values = {
            PipelineRow.enabled: True,
            PipelineRow.login_flow: False,
            PipelineRow.seen: False,
        }
        rows.add(PipelineRow, {**match, **defaults, **values})
    else:
        rows.set(PipelineRow, {PipelineRow.id: row.id}, values)


def pipelines_seen(
    engine: Engine, actor: str, environment: str, offered: Offered
) -> Mapping[str, list[str]]:
    """Store which pipelines a process offers in an environment.

    Return the ids of names that the previous release stored, where this call converted them.

    Consumers with automatic access get access to pipelines that were never seen before. A grace of
    a pipeline that is not offered any more ends: if it is offered again it must comply at once.
    Nothing is written where nothing is new. Raises UnknownName and DatabaseUnavailable.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        row = environment_row(reader, environment)
        seen, ended = _seen(reader, row.id), _ended(reader, row.id, offered)
    if offered.keys() <= seen and not ended and row.by_id:
        return {}
    names: Mapping[str, list[str]] = {}
    with audit.change(
        engine, actor, audit.Action.PIPELINES_SEEN, environment, environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        if not row.by_id:
            detail["names"] = names = by_name.convert_names(rows, row.id, offered)
        new = in_order(offered.keys() - _seen(rows, row.id))
        for identifier in new:
            _decide(rows, row.id, identifier, {PipelineRow.seen: True})
            _grant_automatically(rows, row.id, identifier)
        ended = _ended(rows, row.id, offered)
        for identifier in ended:
            rows.set(
                GraceRow,
                {GraceRow.environment_id: row.id, GraceRow.pipeline: identifier},
                {GraceRow.active: False},
            )
        detail.update(new=new, grace_ended=ended)
    return names


def _grant_automatically(rows: AccessChange, environment_id: int, identifier: str) -> None:
    automatic = rows.all(
        NewPipelinesRow,
        {NewPipelinesRow.environment_id: environment_id, NewPipelinesRow.active: True},
    )
    for row in automatic:
        rows.put(
            AssociationRow,
            {
                AssociationRow.environment_id: environment_id,
                AssociationRow.consumer_id: row.consumer_id,
                AssociationRow.pipeline: identifier,
            },
            {AssociationRow.active: True},
        )


def has_unconverted_names(engine: Engine) -> bool:
    """Return whether an environment has names of the previous release without ids."""
    with reading(engine) as connection:
        return any(row.by_id is not True for row in RowReader(connection).all(EnvironmentRow))


def convert_names(
    engine: Engine, actor: str, offered: Offered
) -> dict[str, Mapping[str, list[str]]]:
    """Convert names that the previous release stored to ids, and return these by environment.

    Names of pipelines that no plugin offers here stay.
    """
    converted: dict[str, Mapping[str, list[str]]] = {}
    with reading(engine) as connection:
        reader = RowReader(connection)
        unconverted = [
            row
            for row in reader.all(EnvironmentRow)
            if row.by_id is not True and by_name.has_convertible_names(reader, row.id, offered)
        ]
    for row in unconverted:
        with audit.change(
            engine, actor, audit.Action.PIPELINES_SEEN, row.name, environment=row.name
        ) as (rows, detail):
            detail["names"] = converted[row.name] = by_name.convert_names(
                rows, row.id, offered, whole=False
            )
    return converted


def _seen(reader: RowReader, environment_id: int) -> set[str]:
    """Return the pipelines that were seen before.

    One whose flag can't be read counts as seen: access to new pipelines may be automatic.
    """
    return {row.name for row in _pipelines(reader, environment_id) if row.seen is not False}


def _ended(reader: RowReader, environment_id: int, offered: Offered) -> list[str]:
    active = reader.all(GraceRow, {GraceRow.environment_id: environment_id, GraceRow.active: True})
    return [row.pipeline for row in active if row.pipeline not in offered]
