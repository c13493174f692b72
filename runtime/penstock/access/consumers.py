"""Consumers and the pipelines that they have access to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock import audit
from penstock.access import by_name
from penstock.access.api_keys import ListedKey, listed_key
from penstock.access.lookup import (
    ConsumerPlace,
    consumer_in,
    consumer_row,
    environment_of,
    environment_row,
)
from penstock.access.pipelines import Offered, among, in_order, meant_by, stored_in
from penstock.access.seen import require_seen
from penstock.access.texts import check_text
from penstock.audit.approvals import ApprovalRequired, Kind, gate, is_applying
from penstock.db import consumers as stored
from penstock.db.api_keys import KeyFilter, list_keys
from penstock.db.engine import Engine, reading
from penstock.db.tables import AssociationRow, ConsumerRow, EnvironmentRow, NewPipelinesRow
from penstock.db.unit_of_work import AccessChange, RowReader, access_change
from penstock.errors import AlreadyExists, UsageError, quoted

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListedConsumer:
    """A consumer with the numbers of its pipelines and usable keys, by environment."""

    name: str
    description: str
    enabled: bool
    created_at: datetime
    pipelines: Mapping[str, int]
    keys: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ConsumerDetails:
    """A consumer with its access and its keys.

    `associations` has ids of pipelines by environment; `new_pipelines` are the environments in
    which it gets access to new pipelines automatically.
    """

    name: str
    description: str
    enabled: bool
    created_at: datetime
    associations: Mapping[str, list[str]]
    new_pipelines: list[str]
    keys: list[ListedKey]


@dataclass(frozen=True, slots=True)
class Associations:
    """The access of a consumer in all environments.

    Pairs of an environment and a pipeline's id, and the environments in which it gets access to new
    pipelines automatically.
    """

    pipelines: frozenset[tuple[str, str]]
    new_pipelines: frozenset[str]

    def at(self, environment: str) -> set[str]:
        """Return the ids of the pipelines in one environment."""
        return {pipeline for name, pipeline in self.pipelines if name == environment}


def create_consumer(engine: Engine, actor: str, name: str, description: str = "") -> None:
    """Create a consumer without access. Raises UsageError and AlreadyExists."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} can't name a consumer; use letters, digits, dots, dashes and"
            " underscores, 64 at most"
        )
    check_text("description", description)
    with audit.change(engine, actor, audit.Action.CONSUMER_CREATED, name) as (rows, detail):
        if rows.find(ConsumerRow, {ConsumerRow.name: name}):
            raise AlreadyExists("consumer", name)
        rows.add(
            ConsumerRow,
            {
                ConsumerRow.name: name,
                ConsumerRow.description: description,
                ConsumerRow.enabled: True,
                ConsumerRow.created_at: datetime.now(UTC),
            },
        )
        detail["description"] = description


def describe_consumer(
    engine: Engine, actor: str, name: str, description: str, *, seen: str | None = None
) -> None:
    """Replace the description of a consumer.

    `seen` is the `state_token` of the description that its author saw; None: none was seen. Raises
    UsageError, UnknownName, and Outdated where another user replaced it meanwhile.
    """
    check_text("description", description)
    with audit.change(engine, actor, audit.Action.CONSUMER_DESCRIBED, name) as (rows, detail):
        row = consumer_row(rows, name)
        saved = [("Description", row.description or "none")]
        require_seen(seen, row.description, f"the description of {name}", saved)
        rows.set(ConsumerRow, {ConsumerRow.id: row.id}, {ConsumerRow.description: description})
        detail.update(before=row.description, description=description)


def set_consumer_enabled(engine: Engine, actor: str, name: str, *, enabled: bool) -> None:
    """Enable or disable a consumer in all environments. Raises UnknownName."""
    action = audit.Action.CONSUMER_ENABLED if enabled else audit.Action.CONSUMER_DISABLED
    with audit.change(engine, actor, action, name) as (rows, detail):
        row = consumer_row(rows, name)
        if enabled and not row.enabled:
            _gate_enabling(rows, detail, row)
        rows.set(ConsumerRow, {ConsumerRow.id: row.id}, {ConsumerRow.enabled: enabled})


def _gate_enabling(rows: AccessChange, detail: dict[str, object], row: ConsumerRow) -> None:
    """Require a second approval where the consumer has access in an environment that asks so."""
    asking = rows.all(EnvironmentRow, {EnvironmentRow.second_approval: True})
    for environment in sorted(asking, key=lambda item: item.name):
        access = _pipelines_of(rows, ConsumerPlace(environment.id, row.id))
        if access:
            gate(
                rows,
                detail,
                environment,
                Kind.ENABLE_CONSUMER,
                row.name,
                request={},
                state=sorted(access),
            )
            return


def list_consumers(
    engine: Engine, *, search: str = "", after: str | None = None, limit: int
) -> list[ConsumerRow]:
    """Return the consumers whose names contain a text, by name; a page begins after a name."""
    with reading(engine) as connection:
        return stored.page(connection, find=search, after=after, limit=limit)


def page_consumers(
    engine: Engine, *, find: str = "", after: str | None = None, limit: int = 50
) -> list[ListedConsumer]:
    """Return the consumers whose names contain a text, by name; a page begins after a name."""
    with reading(engine) as connection:
        rows = stored.page(connection, find=find, after=after, limit=limit)
        environments = RowReader(connection).names_by_id(EnvironmentRow)
        pipelines, keys = stored.counts(connection, [row.id for row in rows], datetime.now(UTC))
    return [
        ListedConsumer(
            row.name,
            row.description,
            row.enabled,
            row.created_at,
            pipelines={
                name: pipelines.get((row.id, number), 0) for number, name in environments.items()
            },
            keys={name: keys.get((row.id, number), 0) for number, name in environments.items()},
        )
        for row in rows
    ]


def consumers_of(
    engine: Engine, environment: str, pipeline: str, *, after: str | None = None, limit: int = 50
) -> tuple[int, list[ConsumerRow]]:
    """Return the number of consumers with access to a pipeline, and a page of them by name.

    Raises UnknownName.
    """
    with reading(engine) as connection:
        environment_id = environment_row(RowReader(connection), environment).id
        return stored.count_with_access(connection, environment_id, pipeline), stored.with_access(
            connection, environment_id, pipeline, after=after, limit=limit
        )


def show_consumer(engine: Engine, name: str) -> ConsumerDetails:
    """Return a consumer with its access and its keys. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        consumer = consumer_row(reader, name)
        environments = reader.names_by_id(EnvironmentRow)
        rows = reader.all(AssociationRow, {AssociationRow.consumer_id: consumer.id})
        associations: dict[str, list[str]] = {}
        for row in by_name.in_force(rows):
            associations.setdefault(environments[row.environment_id], []).append(row.pipeline)
        automatic = reader.all(
            NewPipelinesRow,
            {NewPipelinesRow.consumer_id: consumer.id, NewPipelinesRow.active: True},
        )
        keys = list_keys(connection, KeyFilter(consumer_id=consumer.id))
    return ConsumerDetails(
        name=consumer.name,
        description=consumer.description,
        enabled=consumer.enabled,
        created_at=consumer.created_at,
        associations={
            environment: in_order(pipelines)
            for environment, pipelines in sorted(associations.items())
        },
        new_pipelines=sorted(environments[row.environment_id] for row in automatic),
        keys=[listed_key(key) for key in keys],
    )


def associate(
    engine: Engine,
    actor: str,
    consumer: str,
    pipelines: Iterable[str],
    environment: str,
    offered: Offered,
    *,
    new_pipelines: bool | None = None,
) -> list[str]:
    """Grant a consumer access to pipelines in an environment, by name or id; return their ids.

    `new_pipelines` sets whether it gets access to new pipelines automatically. Raises UsageError
    and UnknownName.
    """
    words = sorted(set(pipelines))
    if not words and new_pipelines is None:
        raise UsageError("name at least one pipeline, or give --new-pipelines")
    with audit.change(
        engine, actor, audit.Action.CONSUMER_ASSOCIATED, consumer, environment=environment
    ) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        meant, current = _meant(rows, place, words, offered), _pipelines_of(rows, place)
        _gate(rows, detail, place, consumer, meant, new_pipelines, current)
        identifiers, facts = _associate(rows, place, words, offered, new_pipelines)
        detail.update(facts)
    return identifiers


def _meant(
    rows: RowReader, place: ConsumerPlace, words: Iterable[str], offered: Offered
) -> list[str]:
    stored_ids = stored_in(rows, place.environment_id)
    return in_order(
        {identifier for word in sorted(words) for identifier in meant_by(word, offered, stored_ids)}
    )


def _gate(
    rows: AccessChange,
    detail: dict[str, object],
    place: ConsumerPlace,
    consumer: str,
    identifiers: list[str],
    new_pipelines: bool | None,
    current: set[str],
) -> None:
    """Require a second approval where the consumer gets access beyond the current one."""
    if current.issuperset(identifiers) and not new_pipelines and not is_applying():
        return
    gate(
        rows,
        detail,
        environment_of(rows, place),
        Kind.ACCESS,
        consumer,
        request={"pipelines": identifiers, "new_pipelines": new_pipelines},
        state=sorted(current),
    )


def _associate(
    rows: AccessChange,
    place: ConsumerPlace,
    words: Iterable[str],
    offered: Offered,
    new_pipelines: bool | None,
) -> tuple[list[str], dict[str, object]]:
    identifiers = _meant(rows, place, words, offered)
    for identifier in identifiers:
        match = {**place.of(AssociationRow), AssociationRow.pipeline: identifier}
        active = {AssociationRow.active: True}
        if not rows.put(AssociationRow, match, active):
            # A new revision: newer than what the previous release may have removed by name.
            rows.set(AssociationRow, match, active)
    facts: dict[str, object] = {"pipelines": identifiers}
    if new_pipelines is not None:
        rows.put(
            NewPipelinesRow, place.of(NewPipelinesRow), {NewPipelinesRow.active: new_pipelines}
        )
        facts["new_pipelines"] = new_pipelines
    return identifiers, facts


def dissociate(
    engine: Engine, actor: str, consumer: str, pipelines: Iterable[str], environment: str
) -> list[str]:
    """Remove a consumer's access to pipelines in an environment, by name or id; return their ids.

    Raises UnknownName.
    """
    with audit.change(
        engine, actor, audit.Action.CONSUMER_DISSOCIATED, consumer, environment=environment
    ) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        current = _pipelines_of(rows, place)
        noun = f"pipeline associated with {quoted(consumer)} in {quoted(environment)}"
        identifiers = in_order(
            {identifier for word in pipelines for identifier in among(word, current, noun)}
        )
        detail["pipelines"] = identifiers
        _dissociate(rows, place, identifiers)
    return identifiers


def _pipelines_of(rows: RowReader, place: ConsumerPlace) -> set[str]:
    active = rows.all(AssociationRow, {**place.of(AssociationRow), AssociationRow.active: True})
    return {row.pipeline for row in active}


def _dissociate(rows: AccessChange, place: ConsumerPlace, identifiers: Iterable[str]) -> None:
    for identifier in identifiers:
        rows.set(
            AssociationRow,
            {**place.of(AssociationRow), AssociationRow.pipeline: identifier},
            {AssociationRow.active: False},
        )
    by_name.remove_names(rows, place, identifiers)


def save_associations(
    engine: Engine,
    actor: str,
    consumer: str,
    seen: Associations,
    chosen: Associations,
    offered: Offered,
) -> tuple[int, int, int]:
    """Apply the difference between two states of a consumer's access, in one transaction.

    What another user changed meanwhile, and this one did not, stays. Return how many pipelines were
    added and removed, and in how many environments the grant waits for a second approval. Raises
    UsageError and UnknownName.
    """
    added = removed = 0
    waiting: list[tuple[str, ApprovalRequired]] = []
    with access_change(engine) as rows:
        for environment in sorted(
            {name for name, _ in seen.pipelines ^ chosen.pipelines}
            | (seen.new_pipelines ^ chosen.new_pipelines)
        ):
            place = consumer_in(rows, consumer, environment)
            current = _pipelines_of(rows, place)
            granted = chosen.at(environment) - seen.at(environment) - current
            withdrawn = (seen.at(environment) - chosen.at(environment)) & current
            new_pipelines = (
                environment in chosen.new_pipelines
                if environment in seen.new_pipelines ^ chosen.new_pipelines
                else None
            )
            if granted or new_pipelines is not None:
                try:
                    meant, kept = in_order(granted), current - withdrawn
                    _gate(rows, {}, place, consumer, meant, new_pipelines, kept)
                    _, detail = _associate(rows, place, granted, offered, new_pipelines)
                except ApprovalRequired as required:
                    waiting.append((environment, required))
                    granted = set()
                else:
                    action = audit.Action.CONSUMER_ASSOCIATED
                    audit.note(rows, actor, action, consumer, detail, environment=environment)
            if withdrawn:
                _dissociate(rows, place, withdrawn)
                action, facts = audit.Action.CONSUMER_DISSOCIATED, {"pipelines": sorted(withdrawn)}
                audit.note(rows, actor, action, consumer, facts, environment=environment)
            added, removed = added + len(granted), removed + len(withdrawn)
    for environment, proposed in waiting:
        audit.propose_change(engine, actor, proposed, consumer, environment)
    return added, removed, len(waiting)
