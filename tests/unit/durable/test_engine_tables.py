"""What is done to the engine's own tables, past its client: a run is postponed, and can begin at
once again; on its real tables."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from support.place import Place

from penstock.access.encryption import SecretBox, make_secret_key
from penstock.db import engine_tables
from penstock.db.engine import reading, writing
from penstock.durable.engine import State
from penstock.durable.engine_dbos.serializer import EncryptedSerializer, UndecryptableCall
from penstock.durable.engine_dbos.store import DbosRunStore

COLUMNS = (
    "workflow_uuid",
    "status",
    "executor_id",
    "workflow_deadline_epoch_ms",
    "delay_until_epoch_ms",
)


def test_a_run_is_postponed_by_its_holder_alone_and_nothing_else_is_hastened_with_it(
    place: Place,
) -> None:
    ledger = DbosRunStore(place.url, "test", place.box)
    table = engine_tables.table("workflow_status", *COLUMNS, dialect=place.engine.dialect.name)

    def row(run: str) -> sa.RowMapping:
        with reading(place.engine) as connection:
            return (
                connection.execute(sa.select(table).where(table.c.workflow_uuid == run))
                .mappings()
                .one()
            )

    with writing(place.engine) as connection:
        for run, delay in (("begun", 0.0), ("new", 0.0), ("later", 500.0)):
            ledger.enqueue(connection, run, "queue", {"n": 1}, priority=1, timeout=5, delay=delay)
        taken = {"status": "PENDING", "executor_id": "worker", "workflow_deadline_epoch_ms": 1}
        connection.execute(
            sa.update(table).where(table.c.workflow_uuid.in_(["begun", "new"])).values(taken)
        )

    given = [
        ledger.defer("new", holder, 400, 3, begun=False)
        for holder in ("another", "worker", "worker")
    ]
    ledger.defer("begun", "worker", 400, 1, begun=True)

    assert given == [False, True, False]
    assert [(item.state, item.deferrals) for item in ledger.look(["new"]).values()] == [
        (State.WAITING, 3)
    ]
    assert [row(run)["workflow_deadline_epoch_ms"] for run in ("new", "begun")] == [None, 1]
    assert row("new")["delay_until_epoch_ms"] > (time.time() + 300) * 1000

    ledger.release_deferred()

    assert [
        row(run)["delay_until_epoch_ms"] <= time.time() * 1000 for run in ("new", "begun", "later")
    ] == [True, True, False]
    ledger.close()


def test_what_there_is_no_key_for_stands_for_itself(sqlite_place: Place) -> None:
    mine, other = (
        EncryptedSerializer(sqlite_place.box),
        EncryptedSerializer(SecretBox((make_secret_key(),))),
    )

    unopened = mine.deserialize(other.serialize({"args": ("moment", "context"), "kwargs": {}}))

    assert isinstance(unopened, UndecryptableCall)
    # A run gets it as what it is given, and gives itself back.
    assert (unopened["args"], unopened["kwargs"]) == ((unopened,), {})
    with pytest.raises(UndecryptableCall):  # a schedule has no tick of it
        mine.serialize({"args": ("moment", unopened), "kwargs": {}})
