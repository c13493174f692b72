"""Every migration can be undone, step by step, in a database with data."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from support.place import Place

from penstock.access import callbacks, issuers, limits, users, variables
from penstock.access.users import Role
from penstock.contracts.rates import Rate
from penstock.db import migrate
from penstock.db.engine import reading, writing
from penstock.db.schema import metadata

COUNT = sa.text(
    "INSERT INTO call_counts (environment_id, span, since, pipeline, outcome, process, calls,"
    " micros, buckets) VALUES (1, :span, 0, 'v1/orders', :outcome, 'p', 1, 1, '[]')"
)
OUTCOMES = sa.text("SELECT span, outcome FROM call_counts")


def test_each_migration_is_undone_and_run_again(place: Place) -> None:
    place.consumer("acme", "orders")
    place.key("acme")
    limits.set_limit(place.engine, "tester", "acme", "test", Rate("5/minute"))
    limits.set_networks(place.engine, "tester", "acme", "test", ["192.0.2.0/24"], allowed=True)
    variables.set_variable(place.engine, "tester", "test", "region", "porto")
    variables.set_secret(place.engine, "tester", "test", "erp", "x", place.box)
    callbacks.allow_callbacks(
        place.engine, "tester", "acme", "test", "https://a.example", place.box, private=False
    )
    trusted = issuers.parse_issuer("https://id.example", "us", consumer="acme")
    issuers.trust_issuer(place.engine, "tester", "test", trusted, own="penstock")
    users.create_user(place.engine, "tester", "vic", Role.VIEWER, None, environments=["test"])
    config = migrate._config()  # noqa: SLF001  only tests go back
    scripts = ScriptDirectory.from_config(config)
    steps = [script.down_revision or "base" for script in scripts.walk_revisions()]

    def run(step: Any, target: str) -> None:
        with writing(place.engine) as connection:
            config.attributes["connection"] = connection
            step(config, target)

    with writing(place.engine) as connection:
        for outcome in ("client_error", "refused", "timed_out"):
            connection.execute(COUNT, {"outcome": outcome, "span": 3600})
        connection.execute(COUNT, {"outcome": "client_error", "span": 60})
    outcomes = set()
    for target in steps:
        run(command.downgrade, str(target))
        if target == "20261127_history":
            with reading(place.engine) as connection:
                outcomes = set(connection.execute(OUTCOMES))
    left = {*sa.inspect(place.engine).get_table_names()}
    run(command.upgrade, "head")

    assert steps[-1] == "base"
    assert left.isdisjoint(metadata.tables)
    assert {tuple(row) for row in outcomes} == {
        (60, "refused"),
        (3600, "refused"),
        (3600, "client_error"),  # it has both names
        (3600, "timed_out"),
    }
    assert migrate.current(place.engine) == migrate.head()
