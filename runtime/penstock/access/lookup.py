"""Find environments and consumers by the names that operators use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from penstock.db.consumer_settings import list_settings
from penstock.db.engine import Engine, reading
from penstock.db.rows import AnyColumn
from penstock.db.tables import (
    ConsumerRow,
    ConsumerScopedRow,
    EnvironmentRow,
    EnvironmentScopedRow,
    NamedRow,
)
from penstock.db.unit_of_work import RowReader, Values
from penstock.errors import UnknownName

Named = TypeVar("Named", bound=NamedRow)
Setting = TypeVar("Setting", bound=ConsumerScopedRow)


@dataclass(frozen=True, slots=True)
class ConsumerPlace:
    """A consumer in an environment, by their ids."""

    environment_id: int
    consumer_id: int

    def of(self, kind: type[ConsumerScopedRow]) -> Values:
        """Return the values that select its rows of a table."""
        return {kind.environment_id: self.environment_id, kind.consumer_id: self.consumer_id}


def environment_row(reader: RowReader, name: str) -> EnvironmentRow:
    """Return the environment of that name. Raises UnknownName with the nearest name."""
    return _row(reader, EnvironmentRow, name, "environment", "env")


def consumer_row(reader: RowReader, name: str) -> ConsumerRow:
    """Return the consumer of that name. Raises UnknownName with the nearest name."""
    return _row(reader, ConsumerRow, name, "consumer", "consumer")


def _row(reader: RowReader, kind: type[Named], name: str, noun: str, command: str) -> Named:
    row = reader.find(kind, {kind.name: name})
    if row is None:
        raise UnknownName(
            noun,
            name,
            reader.near(kind.name, name),
            fix=f"`penstock {command} create {name}` creates it",
        )
    return row


def consumer_in(reader: RowReader, consumer: str, environment: str) -> ConsumerPlace:
    """Return a consumer in an environment. Raises UnknownName."""
    return ConsumerPlace(environment_row(reader, environment).id, consumer_row(reader, consumer).id)


def environment_of(reader: RowReader, place: ConsumerPlace) -> EnvironmentRow:
    """Return the row of an environment. Raises UnknownName."""
    row = reader.find(EnvironmentRow, {EnvironmentRow.id: place.environment_id})
    if row is None:
        raise UnknownName("environment", str(place.environment_id))
    return row


def in_environment(
    reader: RowReader, kind: type[EnvironmentScopedRow], environment: str | None
) -> Values:
    """Return the values that select an environment's rows of a table; None: of all environments.

    Raises UnknownName.
    """
    if not environment:
        return {}
    return {kind.environment_id: environment_row(reader, environment).id}


def list_named_settings(  # noqa: PLR0913  one argument a filter
    engine: Engine,
    kind: type[Setting],
    order_by: AnyColumn,
    environment: str | None,
    consumer: str | None,
    *,
    search: str = "",
    after: int | None = None,
    limit: int | None = None,
) -> list[Setting]:
    """Return active settings by environment, consumer and a column; see `list_settings`.

    Raises UnknownName.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        environment_id = environment_row(reader, environment).id if environment else None
        consumer_id = consumer_row(reader, consumer).id if consumer else None
        return list_settings(
            connection,
            kind,
            order_by,
            environment_id,
            consumer_id,
            search=search,
            after=after,
            limit=limit,
        )
