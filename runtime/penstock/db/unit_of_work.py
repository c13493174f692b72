"""Read and write rows.

Everything that changes access data goes through a `AccessChange`, which stamps one revision on all
of it.

A revision belongs to a *history*. A database that is restored from a backup goes on from an earlier
revision, and its next changes come to the numbers of those that were lost. So each change also
writes a random mark: a process whose revision has another mark in the database, or none, knows
another history than the database has.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from penstock.db import tables
from penstock.db.engine import DatabaseUnavailable, Engine, writing
from penstock.db.postgres import CHANNEL

Row = sa.RowMapping
AT_A_TIME = 10_000  # keys that are fetched together
MARK = 16  # bytes
REMEMBERED = 10_000  # revisions whose marks are kept: who knows an older one reads everything anew

# Tables that are read as a whole where any row has changed: what a row said before is forgotten,
# however it was changed.
SMALL = (
    "graces",
    "pipelines",
    "credentials",
    "signing_keys",
    "issuers",
    "limits",
    "address_rules",
    "variables",
    "pipeline_secrets",
    "sensitive_fields",
    "callback_targets",
)
# And API keys: the rows alone that have changed.
LARGE = ("consumers", "associations", "revocations")

KeyRow = tuple[bytes, str, int, datetime | None, bool | None, bool]


class RowReader:
    """Finds rows by the values of their columns."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def find(self, table: str, **match: object) -> Row | None:
        """Return the first row that matches, or None."""
        return self._connection.execute(_select(table, match).limit(1)).mappings().first()

    def all(self, table: str, **match: object) -> list[Row]:
        """Return every row that matches, in order of creation."""
        return list(self._connection.execute(_select(table, match)).mappings())

    def latest(self, table: str, limit: int, **match: object) -> list[Row]:
        """Return the newest rows that match, newest first."""
        source = tables.metadata.tables[table]
        query = sa.select(source).filter_by(**match).order_by(source.c.id.desc()).limit(limit)
        return list(self._connection.execute(query).mappings())

    def names_by_id(self, table: str) -> dict[int, str]:
        """Return all names in a table that has them, by primary key."""
        source = tables.metadata.tables[table]
        return {
            row.id: row.name
            for row in self._connection.execute(sa.select(source.c.id, source.c.name))
        }

    def names(self, table: str) -> list[str]:
        """Return all names in a table that has them."""
        column = tables.metadata.tables[table].c.name
        return list(self._connection.scalars(sa.select(column).order_by(column)))


class AccessChange(RowReader):
    """One transaction on access data; all rows it touches carry `revision`."""

    def __init__(self, connection: sa.Connection, revision: int) -> None:
        super().__init__(connection)
        self.revision = revision

    def add(self, table: str, **values: object) -> Any:  # noqa: ANN401  the type of its primary key
        """Insert a row and return its primary key."""
        source = tables.metadata.tables[table]
        result = self._connection.execute(sa.insert(source).values(**self._stamped(source, values)))
        return result.inserted_primary_key[0] if result.inserted_primary_key else None

    def set(self, table: str, match: Mapping[str, object], **values: object) -> int:
        """Update the rows that match and return how many there were."""
        source = tables.metadata.tables[table]
        return self._connection.execute(
            sa.update(source).filter_by(**match).values(**self._stamped(source, values))
        ).rowcount

    def put(self, table: str, match: Mapping[str, object], **values: object) -> bool:
        """Update the row that matches, or insert it; return whether anything is different now."""
        row = self.find(table, **match)
        if row is None:
            self.add(table, **match, **values)
        elif any(row[name] != value for name, value in values.items()):
            self.set(table, match, **values)
        else:
            return False
        return True

    def copy(self, table: str, match: Mapping[str, object], **changed: object) -> None:
        """Insert a copy of each row that matches, with some values changed.

        A copy that a unique constraint forbids, because such a row is there, is left out.
        """
        source = tables.metadata.tables[table]
        other = source.alias()
        key = next(
            set(item.columns.keys())
            for item in source.constraints
            if isinstance(item, sa.UniqueConstraint)
        )
        values: dict[str, sa.ColumnElement[Any]] = {
            column.name: column for column in source.columns if not column.primary_key
        }
        values |= {
            name: sa.literal(value, source.c[name].type)
            for name, value in self._stamped(source, changed).items()
        }
        there = sa.exists().where(*(other.c[name] == values[name] for name in key))
        query = sa.select(*values.values()).filter_by(**match).where(~there)
        self._connection.execute(sa.insert(source).from_select(list(values), query))

    def forget_history(self) -> None:
        """Forget the marks of all earlier revisions.

        Every process then reads all access data anew.
        """
        self._connection.execute(
            sa.delete(tables.history).where(tables.history.c.revision < self.revision)
        )

    def end_sessions(
        self, user_id: int, *, session_id: int | None = None, keep: int | None = None
    ) -> int:
        """Delete one session of a user of the console, or all of them but the one to keep.

        Return how many there were.
        """
        query = sa.delete(tables.user_sessions).filter_by(user_id=user_id)
        if session_id is not None:
            query = query.where(tables.user_sessions.c.id == session_id)
        if keep is not None:
            query = query.where(tables.user_sessions.c.id != keep)
        return self._connection.execute(query).rowcount

    def _stamped(self, source: sa.Table, values: Mapping[str, object]) -> dict[str, object]:
        return {**values, "revision": self.revision} if "revision" in source.c else dict(values)


def _select(table: str, match: Mapping[str, object]) -> sa.Select[Any]:
    source = tables.metadata.tables[table]
    return sa.select(source).filter_by(**match).order_by(*source.primary_key.columns)


@contextmanager
def access_change(engine: Engine) -> Iterator[AccessChange]:
    """Open a transaction that bumps the revision once.

    On PostgreSQL it tells the listening processes when it commits.

    The bump locks the revision's row until the end, so revisions become visible in their order.
    """
    history = tables.history
    with writing(engine) as connection:
        bump = (
            sa.update(tables.revision)
            .values(value=tables.revision.c.value + 1)
            .returning(tables.revision.c.value)
        )
        number = connection.execute(bump).scalar_one()
        connection.execute(
            sa.delete(history).where(
                (history.c.revision <= number - REMEMBERED) | (history.c.revision >= number)
            )
        )
        connection.execute(
            sa.insert(history).values(revision=number, mark=secrets.token_bytes(MARK))
        )
        yield AccessChange(connection, number)
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.text("SELECT pg_notify(:channel, :revision)"),
                {"channel": CHANNEL, "revision": str(number)},
            )


class Point(NamedTuple):
    """A point in the history of access data.

    There is no mark where the release before wrote the revision, or its mark was forgotten.
    """

    revision: int
    mark: bytes | None

    def leads_to(self, now: Point, mark: bytes | None) -> bool:
        """Say whether the database has come from here to `now`.

        `mark` is what it has for this revision.
        """
        return self.revision <= now.revision and self.mark == mark


def look_at_history(connection: sa.Connection, since: int) -> tuple[Point, bytes | None]:
    """Return the point of the last change, and the mark of another revision."""
    last, before = tables.history.alias(), tables.history.alias()
    value = tables.revision.c.value
    source = tables.revision.outerjoin(last, last.c.revision == value).outerjoin(
        before, before.c.revision == since
    )
    row = connection.execute(
        sa.select(value, last.c.mark, before.c.mark).select_from(source)
    ).first()
    return (Point(row[0], row[1]), row[2]) if row is not None else (Point(0, None), None)


def wait_for_restore(connection: sa.Connection) -> None:
    """Raise DatabaseUnavailable while a PostgreSQL database is being restored in transactions.

    pg_restore fills a table before it gives it its primary key, also with several jobs: rows may be
    missing of a table that has none. (pg_dump writes a table's data ahead of its constraints:
    https://www.postgresql.org/docs/current/app-pgdump.html, --section.)
    """
    if connection.dialect.name != "postgresql":
        return
    names = [tables.history.name, "environments", "api_keys", *SMALL, *LARGE]
    keyed = sa.text(
        "SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid = ANY (SELECT"
        " to_regclass(name) FROM unnest(CAST(:names AS text[])) AS name)"
    )
    if connection.scalar(keyed, {"names": names}) != len(names):
        raise DatabaseUnavailable(
            "the database is being restored: not every table has its primary key yet"
        )


def changed_since(
    connection: sa.Connection, environment_id: int, since: int
) -> dict[str, list[Row]]:
    """Return what changed in one environment after a revision, by table.

    All rows of a small table, the changed ones of a large table.
    """
    changed: dict[str, list[Row]] = {}
    for name in (*SMALL, *LARGE):
        source = tables.metadata.tables[name]
        here = (
            source.c.environment_id == environment_id if "environment_id" in source.c else sa.true()
        )
        after = source.c.revision > since
        if name in SMALL:
            other = source.alias()
            after = sa.exists().where(
                other.c.environment_id == environment_id, other.c.revision > since
            )
        query = (
            sa.select(source)
            .where(here, after)
            .order_by(source.c.revision, *source.primary_key.columns)
        )
        changed[name] = list(connection.execute(query).mappings())
    return changed


def keys_since(connection: sa.Connection, environment_id: int, since: int) -> Iterator[KeyRow]:
    """Return one environment's API keys that changed after a revision, one after the other.

    There may be a million. Each has digest, id, consumer, end, whether it is enabled and whether it
    was revoked.
    """
    keys = tables.api_keys
    query = (
        sa.select(
            keys.c.digest,
            keys.c.id,
            keys.c.consumer_id,
            keys.c.expires_at,
            keys.c.enabled,
            keys.c.revoked_at.is_not(None),
        )
        .where(keys.c.environment_id == environment_id, keys.c.revision > since)
        .order_by(keys.c.revision)
    )
    for row in connection.execution_options(yield_per=AT_A_TIME).execute(query):
        yield tuple(row)


def touch_keys(engine: Engine, used: Mapping[str, datetime]) -> None:
    """Note when keys were last used; this is no change to access and bumps no revision."""
    keys = tables.api_keys
    later = sa.or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < sa.bindparam("moment"))
    query = (
        sa.update(keys)
        .where(keys.c.id == sa.bindparam("key"), later)
        .values(last_used_at=sa.bindparam("moment"))
    )
    with writing(engine) as connection:
        connection.execute(
            query, [{"key": key, "moment": moment} for key, moment in sorted(used.items())]
        )


def keys_of(
    connection: sa.Connection, environment_id: int | None, consumer_id: int | None
) -> Iterable[Row]:
    """Return keys with their consumer's and environment's names, oldest first."""
    keys = tables.api_keys
    query = (
        sa.select(
            keys,
            tables.consumers.c.name.label("consumer"),
            tables.environments.c.name.label("environment"),
        )
        .join(tables.consumers, tables.consumers.c.id == keys.c.consumer_id)
        .join(tables.environments, tables.environments.c.id == keys.c.environment_id)
        .order_by(keys.c.created_at, keys.c.id)
    )
    if environment_id is not None:
        query = query.where(keys.c.environment_id == environment_id)
    if consumer_id is not None:
        query = query.where(keys.c.consumer_id == consumer_id)
    return connection.execute(query).mappings().all()


def of_consumers(
    connection: sa.Connection,
    table: str,
    key: str,
    environment_id: int | None,
    consumer_id: int | None,
    *,
    after: int | None = None,
    limit: int | None = None,
) -> list[Row]:
    """Return what is in force for consumers, with the names of them and of their environments.

    The order is environment, consumer and a column.

    A page goes on after a row's id, and has no more than `limit` rows.
    """
    source, consumers, environments = (
        tables.metadata.tables[table],
        tables.consumers,
        tables.environments,
    )
    joined = source.join(consumers, consumers.c.id == source.c.consumer_id).join(
        environments, environments.c.id == source.c.environment_id
    )
    order = (environments.c.name, consumers.c.name, source.c[key], source.c.id)
    query = sa.select(
        source, consumers.c.name.label("consumer"), environments.c.name.label("environment")
    ).select_from(joined)
    query = query.where(source.c.active).order_by(*order)
    if "pipeline" in source.c:  # a name alone is of the release before
        query = query.where(source.c.pipeline.contains("/") | (source.c.pipeline == ""))
    if environment_id is not None:
        query = query.where(source.c.environment_id == environment_id)
    if consumer_id is not None:
        query = query.where(source.c.consumer_id == consumer_id)
    if after is not None:
        last = connection.execute(
            sa.select(*order).select_from(joined).where(source.c.id == after)
        ).first()
        if last is not None:
            query = query.where(sa.tuple_(*order) > sa.tuple_(*last))
    return list(connection.execute(query.limit(limit)).mappings())
