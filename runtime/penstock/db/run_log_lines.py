"""Lines that plugin code logged within runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.engine import Engine, writing
from penstock.db.run_tables import RunLogLineRow

MAX_READ = 2_000  # lines of one run


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a run: `at` in microseconds since the epoch, `number` by its process.

    `left_out` is the number of lines that were not kept, in place of which this one is.
    """

    run_id: str
    at: int
    number: int
    level: str
    logger: str
    text: str
    left_out: int | None = None


def write(engine: Engine, lines: Sequence[LogLine]) -> None:
    """Write lines; of those that exist, only `left_out` changes. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(RunLogLineRow.table)
        key = [RunLogLineRow.run_id, RunLogLineRow.at, RunLogLineRow.number]
        query = insert.on_conflict_do_update(
            index_elements=key, set_={RunLogLineRow.left_out: insert.excluded.left_out}
        )
        connection.execute(query, [asdict(line) for line in lines])


def of_run(connection: sa.Connection, run: str) -> list[RunLogLineRow]:
    """Return the lines of a run, oldest first."""
    query = (
        RunLogLineRow.select()
        .where(RunLogLineRow.run_id == run)
        .order_by(RunLogLineRow.at, RunLogLineRow.number)
        .limit(MAX_READ)
    )
    return RunLogLineRow.fetch(connection, query)
