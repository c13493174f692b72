"""What is counted of calls: by minute while an hour runs, by hour from then on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.engine import Engine, writing
from penstock.db.tables import call_counts as counts
from penstock.db.unit_of_work import Row

MINUTE, HOUR = 60, 3600
FINE = 2 * HOUR  # seconds that minutes are kept
KEY = ("environment_id", "span", "since", "pipeline", "outcome", "process")
VALUES = ("calls", "micros", "buckets")


def write(engine: Engine, rows: Sequence[Mapping[str, object]]) -> None:
    """Write what a process has counted so far of a minute.

    It replaces what that process wrote of it before.
    """
    with writing(engine) as connection:
        _put(connection, rows)


def _put(connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> None:
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(counts)
    query = insert.on_conflict_do_update(
        index_elements=KEY, set_={name: insert.excluded[name] for name in VALUES}
    )
    connection.execute(query, [dict(row) for row in rows])


def roll_up(engine: Engine, environment_id: int, now: float) -> None:
    """Add the minutes of hours that are over to those hours.

    Several processes may do so: what one deletes, no other sees.
    """
    until = int(now - FINE) // HOUR * HOUR
    with writing(engine) as connection:
        over = sa.delete(counts).where(
            counts.c.environment_id == environment_id,
            counts.c.span == MINUTE,
            counts.c.since < until,
        )
        hours: dict[tuple[int, str, str], dict[str, object]] = {}
        for row in connection.execute(over.returning(counts)).mappings():
            hour = row["since"] // HOUR * HOUR
            total = hours.setdefault(
                (hour, row["pipeline"], row["outcome"]), {"calls": 0, "micros": 0, "buckets": []}
            )
            _add(total, row)
        for (hour, pipeline, outcome), total in hours.items():
            key = {
                "environment_id": environment_id,
                "span": HOUR,
                "since": hour,
                "pipeline": pipeline,
                "outcome": outcome,
                "process": "",
            }
            known = (
                connection.execute(sa.select(counts).filter_by(**key).with_for_update())
                .mappings()
                .first()
            )
            if known is not None:
                _add(total, known)
            _put(connection, [{**key, **total}])


def _add(total: dict[str, object], row: Row) -> None:
    total["calls"] += row["calls"]
    total["micros"] += row["micros"]
    total["buckets"] = add_buckets(total["buckets"], row["buckets"])  # type: ignore[arg-type]  # both are lists


def add_buckets(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Return the sums of two histograms' buckets."""
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    return [
        value + (shorter[index] if index < len(shorter) else 0)
        for index, value in enumerate(longer)
    ]


def read(
    connection: sa.Connection, environment_id: int, *, since: int, span: int | None = None
) -> list[Row]:
    """Return what was counted from a moment on, oldest first."""
    query = (
        sa.select(counts)
        .where(counts.c.environment_id == environment_id, counts.c.since >= since)
        .order_by(counts.c.since)
    )
    if span is not None:
        query = query.where(counts.c.span == span)
    return list(connection.execute(query).mappings())


def outcomes(
    connection: sa.Connection, environment_id: int, *, since: int, until: int
) -> list[tuple[int, str, str, int, str]]:
    """Return what was counted from a moment on and before another.

    Each row has since, pipeline, outcome, calls and buckets (JSON).
    """
    columns = (
        counts.c.since,
        counts.c.pipeline,
        counts.c.outcome,
        counts.c.calls,
        sa.cast(counts.c.buckets, sa.Text),
    )
    query = sa.select(*columns).where(
        counts.c.environment_id == environment_id, counts.c.since >= since, counts.c.since < until
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in connection.execute(query)]


def calls(connection: sa.Connection, environment_id: int, *, since: int) -> dict[str, int]:
    """Return how many calls each pipeline had from a moment on."""
    # The spans are named so that the primary key, which has them before the moments, is of use.
    query = sa.select(counts.c.pipeline, sa.func.sum(counts.c.calls)).group_by(counts.c.pipeline)
    query = query.where(
        counts.c.environment_id == environment_id,
        counts.c.span.in_((MINUTE, HOUR)),
        counts.c.since >= since,
    )
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def purge(engine: Engine, environment_id: int, before: int) -> None:
    """Forget what is older than a moment."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(counts).where(
                counts.c.environment_id == environment_id, counts.c.since < before
            )
        )
