"""Declare that the database was restored from a backup."""

from __future__ import annotations

from typing import NamedTuple

from penstock import audit
from penstock.db import durable_runs
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow


class Restored(NamedTuple):
    """What a restored database contains.

    The revision at which its new history begins, and the number of unfinished runs by environment.
    """

    revision: int
    unfinished: dict[str, int]


def declare_restored(engine: Engine, actor: str) -> Restored:
    """Make every process read all access data again. Raises DatabaseUnavailable.

    Processes detect a restore themselves except in one case: data that was restored into tables
    with primary keys (`pg_restore --data-only`) may have been read half-way.
    """
    with audit.change(engine, actor, audit.Action.DATABASE_RESTORED, "access data") as (
        rows,
        detail,
    ):
        rows.delete_history()
        names = rows.names_by_id(EnvironmentRow)
        revision = rows.revision
        detail["revision"] = revision
    with reading(engine) as connection:
        counts = durable_runs.count_unfinished(connection)
    return Restored(
        revision,
        {names[number]: count for number, count in sorted(counts.items()) if number in names},
    )
