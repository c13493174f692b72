"""Outcomes that the release before has written are read, filtered, counted and converted under
their present names."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import sqlalchemy as sa
import tables_before as before
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from support.place import Place

from penstock.db import call_counts, call_sums, migrate
from penstock.db import runs as stored
from penstock.db.call_sums import Intervals
from penstock.db.engine import reading, writing
from penstock.runs.ids import new_run_id

NOW = int(time.time()) // 3600 * 3600 + 1800


def write_as_before(place: Place, table: sa.Table, **values: Any) -> None:
    with writing(place.engine) as connection:
        connection.execute(sa.insert(table).values(environment_id=1, **values))


def write_run(place: Place, status: str) -> str:
    run = new_run_id()
    columns = {"version": "1.0.0", "route": "POST /", "durable": False}
    write_as_before(place, before.runs, id=run, pipeline="v1/orders", status=status, **columns)
    return run


def write_count(
    place: Place, outcome: str, calls: int, *, ago: int = 0, span: int = 60, process: str = "p"
) -> None:
    write_as_before(
        place,
        before.call_counts,
        span=span,
        since=(NOW - ago) // span * span,
        pipeline="v1/orders",
        outcome=outcome,
        process=process,
        calls=calls,
        micros=0,
        buckets=[calls],
    )


def column(place: Place, column: str, table: str) -> list[str]:
    """Return what is stored, not what the types of this release read."""
    with reading(place.engine) as connection:
        rows = connection.exec_driver_sql(f"SELECT {column} FROM {table}")
        return sorted(rows.scalars())


class TestReader:
    def test_runs_have_the_present_status_and_are_found_by_it(self, place: Place) -> None:
        runs = [write_run(place, status) for status in ("refused", "client_error", "failed")]
        with reading(place.engine) as connection:
            listed = stored.page(connection, stored.RunFilter(status="client_error"))
            row = stored.find(connection, runs[0])

        assert [(row.id, row.status) for row in listed] == [
            (run, "client_error") for run in reversed(runs[:2])
        ]
        assert row is not None
        assert row.status == "client_error"

    def test_counts_of_both_names_add_up(self, place: Place) -> None:
        for outcome in ("refused", "client_error", "address-refused"):
            write_count(place, outcome, 2)
        chosen = Intervals(1, int(NOW) - 3600, int(NOW) + 1, int(NOW) + 1)
        with reading(place.engine) as connection:
            rows = call_sums.sums(connection, chosen, "calls", "outcome")

        found = Counter[str]()
        for _, name, calls in rows:
            found[name] += calls
        assert found == {"client_error": 4, "address-not-allowed": 2}

    def test_minutes_of_both_names_become_one_hour_of_the_present_name(self, place: Place) -> None:
        for outcome in ("refused", "client_error"):
            write_count(place, outcome, 2, ago=3 * 3600)
        call_counts.roll_up(place.engine, 1, NOW)

        assert column(place, "outcome", "call_counts") == ["client_error"]
        assert column(place, "calls", "call_counts") == [4]


class TestMigration:
    def upgrade(self, place: Place) -> None:
        """Run this migration alone: those after it have run already."""
        script = ScriptDirectory(str(migrate.migrations())).get_revision("20261127_outcomes")
        with (
            writing(place.engine) as connection,
            Operations.context(MigrationContext.configure(connection)),
        ):
            script.module.upgrade()

    def test_runs_and_samples_are_converted(self, place: Place) -> None:
        for status in ("refused", "succeeded", "failed"):
            write_run(place, status)
        for problem in ("address-refused", "credentials-missing"):
            write_as_before(
                place,
                before.refusals,
                id=new_run_id(),
                pipeline="v1/orders",
                problem=problem,
                address="192.0.2.1",
            )
        self.upgrade(place)

        assert column(place, "status", "runs") == ["client_error", "failed", "succeeded"]
        assert column(place, "problem", "refusals") == [
            "address-not-allowed",
            "credentials-missing",
        ]

    def test_settled_counts_are_converted_and_those_of_this_minute_stay(self, place: Place) -> None:
        write_count(place, "refused", 1, ago=3 * 3600, span=3600, process="")
        write_count(place, "address-refused", 1, ago=2 * 3600)
        write_count(place, "succeeded", 1, ago=2 * 3600)
        write_count(place, "refused", 1, ago=int(NOW - time.time()))
        self.upgrade(place)

        assert column(place, "outcome", "call_counts") == [
            "address-not-allowed",
            "client_error",
            "refused",
            "succeeded",
        ]
