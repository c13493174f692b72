"""What operators tell Penstock of the database itself."""

from __future__ import annotations

from typing import NamedTuple

from penstock import audit
from penstock.db import runs
from penstock.db.engine import Engine, reading


class Restored(NamedTuple):
    """What a restored database holds.

    The revision from which its new history goes on, and runs by environment that have not ended.
    """

    revision: int
    unfinished: dict[str, int]


def restored(engine: Engine, actor: str) -> Restored:
    """Say that the database was restored.

    Every process reads all access data anew, whatever it knows. Raises DatabaseUnavailable.

    Processes find out by themselves, but for one case: data that was restored into tables that kept
    their keys (`pg_restore --data-only`) may have been read half.
    """
    with audit.change(engine, actor, audit.Action.DATABASE_RESTORED, "access data") as (
        rows,
        detail,
    ):
        rows.forget_history()
        names = rows.names_by_id("environments")
        revision = rows.revision
        detail["revision"] = revision
    with reading(engine) as connection:
        counts = runs.count_unfinished(connection)
    return Restored(
        revision,
        {names[number]: count for number, count in sorted(counts.items()) if number in names},
    )
