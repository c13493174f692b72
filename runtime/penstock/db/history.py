"""The history of access data: which changes a process has read.

A revision belongs to a history. A database that is restored from a backup continues from an earlier
revision, and its next changes reach the numbers of those that were lost. So each change also writes
a random mark. A process whose revision has another mark in the database, or none, has read another
history than that of the database.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import sqlalchemy as sa

from penstock.db.access_rows import CHANGED_ROW_TABLES, WHOLE_TABLES
from penstock.db.failures import DatabaseUnavailable
from penstock.db.rows import Row
from penstock.db.tables import ApiKeyRow, EnvironmentRow, HistoryRow, RevisionRow

MARK_BYTES = 16
MAX_MARKS = 10_000  # a process at an older revision reads everything again


class HistoryPoint(NamedTuple):
    """A point in the history of access data.

    `mark` is None where the previous release wrote the revision, or where its mark was deleted.
    """

    revision: int
    mark: bytes | None

    def leads_to(self, now: HistoryPoint, mark: bytes | None) -> bool:
        """Return whether the database has come from this point to `now`.

        `mark` is the mark that the database has for the revision of this point.
        """
        return self.revision <= now.revision and self.mark == mark


def read_history(connection: sa.Connection, since: int) -> tuple[HistoryPoint, bytes | None]:
    """Return the point of the last change, and the mark of revision `since`."""
    last, before = HistoryRow.table.alias(), HistoryRow.table.alias()
    value = RevisionRow.value
    source = RevisionRow.table.outerjoin(last, last.c.revision == value).outerjoin(
        before, before.c.revision == since
    )
    row = connection.execute(
        sa.select(value, last.c.mark, before.c.mark).select_from(source)
    ).first()
    return (
        (HistoryPoint(row[0], row[1]), row[2]) if row is not None else (HistoryPoint(0, None), None)
    )


def next_revision(connection: sa.Connection) -> int:
    """Write the next revision with its mark, and return it.

    The update locks the row of the revision until the transaction ends, so revisions become visible
    in their order.
    """
    increment = (
        sa.update(RevisionRow.table)
        .values({RevisionRow.value: RevisionRow.value + 1})
        .returning(RevisionRow.value)
    )
    number: int = connection.execute(increment).scalar_one()
    connection.execute(
        sa.delete(HistoryRow.table).where(
            (HistoryRow.revision <= number - MAX_MARKS) | (HistoryRow.revision >= number)
        )
    )
    connection.execute(
        sa.insert(HistoryRow.table).values(
            {HistoryRow.revision: number, HistoryRow.mark: secrets.token_bytes(MARK_BYTES)}
        )
    )
    return number


def delete_marks_before(connection: sa.Connection, revision: int) -> None:
    """Delete the marks of all earlier revisions: every process then reads all access data again."""
    connection.execute(sa.delete(HistoryRow.table).where(HistoryRow.revision < revision))


def require_no_restore(connection: sa.Connection) -> None:
    """Raise DatabaseUnavailable while a PostgreSQL database is being restored in transactions.

    pg_restore fills a table before it creates its primary key, also with several jobs. So a table
    without a primary key may lack rows. (pg_dump writes a table's data ahead of its constraints:
    https://www.postgresql.org/docs/current/app-pgdump.html, --section.)
    """
    if connection.dialect.name != "postgresql":
        return
    kinds: tuple[type[Row], ...] = (
        HistoryRow,
        EnvironmentRow,
        ApiKeyRow,
        *WHOLE_TABLES,
        *CHANGED_ROW_TABLES,
    )
    names = [kind.table.name for kind in kinds]
    with_key = sa.text(
        "SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid = ANY (SELECT"
        " to_regclass(name) FROM unnest(CAST(:names AS text[])) AS name)"
    )
    if connection.scalar(with_key, {"names": names}) != len(names):
        raise DatabaseUnavailable(
            "the database is being restored: not every table has its primary key yet"
        )
