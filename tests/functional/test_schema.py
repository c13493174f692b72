"""A rollback is safe where the schema was only expanded, and `penstock db check` says where it
is not; two upgrades at once take turns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import tables_before as before
from support.place import ZYGOTE, Place

from penstock.access.encryption import SecretBox, make_secret_key
from penstock.db import migrate
from penstock.db.compatibility import contracted
from penstock.db.engine import open_engine, writing
from penstock.runs.ids import new_run_id

VALUES: list[tuple[Any, Callable[[], object]]] = [
    (before.RunId, new_run_id),
    (before.Moment, lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    (before.Flag | sa.Boolean, lambda: True),
    (before.Json | sa.JSON, lambda: {"a": [1]}),
    (before.Blob | sa.LargeBinary, lambda: b"x" * 32),
    (sa.Integer, lambda: 4711),
]
LATER = "UPDATE alembic_version SET version_num = '29991231_later'"


def change(place: Place, *statements: str) -> None:
    with writing(place.engine) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("statements", "safe", "message"),
    [
        ((), True, "the newest of this release"),
        (
            ("UPDATE alembic_version SET version_num = '20261124_runs'",),
            False,
            "run `penstock db upgrade`",
        ),
        (
            (
                LATER,
                "ALTER TABLE runs ADD COLUMN later VARCHAR(8)",
                "CREATE TABLE later (id INTEGER)",
            ),
            True,
            "of a newer release that only adds",
        ),
        (
            (LATER, "ALTER TABLE runs ADD COLUMN later INTEGER DEFAULT 1 NOT NULL"),
            True,
            "of a newer release that only adds",
        ),
        ((LATER, "ALTER TABLE runs DROP COLUMN detail"), False, "column runs.detail is gone"),
        ((LATER, "ALTER TABLE run_details RENAME TO details"), False, "table run_details is gone"),
        (
            (LATER, "CREATE UNIQUE INDEX later ON runs (request_id, pipeline)"),
            False,
            "runs must be unique by pipeline, request_id",
        ),
    ],
    ids=["equal", "older", "expanded", "with a default", "column gone", "table gone", "new rule"],
)
def test_a_start_is_reported_safe_where_the_schema_was_only_expanded(
    place: Place, statements: tuple[str, ...], safe: bool, message: str
) -> None:
    change(place, *statements)

    checked = place.run("db", "check")

    assert (checked.returncode, checked.stderr) == (int(not safe), "")
    assert checked.stdout.startswith("safe: " if safe else "not safe: ")
    assert message in checked.stdout
    assert checked.stdout.count("\n") == 1


def test_an_upgrade_by_a_release_that_can_t_work_with_the_schema_keeps_the_host_down(
    sqlite_place: Place,
) -> None:
    change(sqlite_place, LATER, "ALTER TABLE runs DROP COLUMN detail")

    upgraded = sqlite_place.run("db", "upgrade")

    assert (upgraded.returncode, "runs.detail" in upgraded.stdout) == (3, True)


def test_what_a_server_alone_can_change_is_seen(new_database: Callable[..., str]) -> None:
    engine = open_engine(new_database("postgresql", upgraded=True))
    with writing(engine) as connection:
        for statement in (
            "ALTER TABLE runs ALTER COLUMN detail SET NOT NULL",
            "ALTER TABLE runs ALTER COLUMN micros TYPE integer",
            "ALTER TABLE refusals ADD CONSTRAINT later CHECK (address <> '')",
            "ALTER TABLE refusals ALTER COLUMN address TYPE varchar(8)",
            "ALTER TABLE refusals ALTER COLUMN problem TYPE varchar(99)",
            "ALTER TABLE processes ADD COLUMN later integer NOT NULL",
        ):
            connection.exec_driver_sql(statement)

    problems = contracted(engine)

    engine.dispose()
    assert [text.partition(" has the new rule")[0] for text in sorted(problems)] == [
        "column processes.later is new and must have a value",
        "column refusals.address has another type",
        "column runs.detail must have a value",
        "column runs.micros has another type",
        "refusals",
    ]


class TestReleaseBefore:
    """What it had is in tests/contracts/tables_before.py."""

    def test_its_tables_are_in_the_schema_of_this_release(self, place: Place) -> None:
        assert contracted(place.engine, before.metadata) == []

    def test_its_statements_work_on_the_schema_of_this_release(self, place: Place) -> None:
        written: dict[str, dict[str, Any]] = {}
        with place.engine.connect() as connection:
            for table in before.metadata.sorted_tables:
                written[table.name] = {
                    column.name: _value(column, written) for column in table.columns
                }
                connection.execute(
                    sa.delete(table) if table.name == "revision" else sa.select(table)
                )
                connection.execute(sa.insert(table).values(written[table.name]))
                key = [column == written[table.name][column.name] for column in table.primary_key]
                connection.execute(sa.update(table).where(*key).values(written[table.name]))
                row = connection.execute(sa.select(table).where(*key)).mappings().one()
                assert dict(row) == written[table.name]
            for table in reversed(before.metadata.sorted_tables):
                key = [column == written[table.name][column.name] for column in table.primary_key]
                assert connection.execute(sa.delete(table).where(*key)).rowcount == 1


def _value(column: sa.Column[Any], written: dict[str, dict[str, Any]]) -> object:
    """Return a value that the column holds; of a foreign key, that of the row it refers to."""
    for key in column.foreign_keys:
        return written[key.column.table.name][key.column.name]
    return next((make() for kinds, make in VALUES if isinstance(column.type, kinds)), "x")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_hosts_may_upgrade_at_once(
    kind: str, new_database: Callable[..., str], tmp_path: Path
) -> None:
    url = new_database(kind)
    secret = make_secret_key()
    place = Place(url, tmp_path, secret, open_engine(url), SecretBox((secret,)))
    logs = [tmp_path / f"upgrade-{number}" for number in range(3)]

    hosts = [ZYGOTE.start(("db", "upgrade"), place.environ(), tmp_path, log) for log in logs]

    assert ([host.wait(60) for host in hosts], [log.read_text().count("\n") for log in logs]) == (
        [0, 0, 0],
        [2, 2, 2],
    )
    results = sorted(log.read_text().splitlines()[1].partition(" ")[0] for log in logs)
    assert results == ["already", "already", "upgraded"]
    assert migrate.current(place.engine) == migrate.head()
    assert place.run("db", "check").returncode == 0
    place.engine.dispose()
