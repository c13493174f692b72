"""Paused schedules, and the runs of ticks."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from penstock.db.run_tables import PausedScheduleRow, RunRow

IDS_AT_A_TIME = 500


def pause_of(connection: sa.Connection, schedule: str) -> PausedScheduleRow | None:
    """Return the pause of a schedule, by its id; None where it is not paused."""
    query = PausedScheduleRow.select().where(PausedScheduleRow.id == schedule)
    return PausedScheduleRow.fetch_first(connection, query)


def pauses(connection: sa.Connection, environment_id: int) -> dict[str, PausedScheduleRow]:
    """Return the paused schedules of an environment, by id."""
    query = PausedScheduleRow.select().where(PausedScheduleRow.environment_id == environment_id)
    return {row.id: row for row in PausedScheduleRow.fetch(connection, query)}


def runs_of(connection: sa.Connection, ids: Sequence[str]) -> dict[str, RunRow]:
    """Return the runs that exist among some ids."""
    rows: list[RunRow] = []
    for start in range(0, len(ids), IDS_AT_A_TIME):
        part = ids[start : start + IDS_AT_A_TIME]
        rows += RunRow.fetch(connection, RunRow.select().where(RunRow.id.in_(part)))
    return {row.id: row for row in rows}
