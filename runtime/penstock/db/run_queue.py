"""When durable runs of a pipeline started."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from penstock.db.run_tables import RunRow

SCANNED = 2_000  # newest runs of a pipeline among which its durable ones are looked for


def starts(
    connection: sa.Connection, environment_id: int, pipeline: str, since: str
) -> list[tuple[str, datetime]]:
    """Return the ids of durable runs that started, each with the moment.

    They are among the newest 2,000 runs of the pipeline, and not older than the id `since`.
    """
    newest = (
        sa.select(RunRow.id, RunRow.started_at, RunRow.durable)
        .where(
            RunRow.environment_id == environment_id,
            RunRow.pipeline == pipeline,
            RunRow.id >= since,
        )
        .order_by(RunRow.id.desc())
        .limit(SCANNED)
        .subquery()
    )
    query = sa.select(newest.c.id, newest.c.started_at).where(
        newest.c.durable, newest.c.started_at.is_not(None)
    )
    return [(row[0], row[1]) for row in connection.execute(query)]
