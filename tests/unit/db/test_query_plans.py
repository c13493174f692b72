"""The queries of listings find their rows by an index, on both databases.

The database is asked for its plan of each statement that a function sends. PostgreSQL prefers a
sequential scan of little data, so it may use one only where no index serves.
"""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from benchmarks.console_data import GOOD_KEY, Names, Size, fill
from support.place import Place

from penstock import audit
from penstock.access.api_keys import KeyQuery, list_keys
from penstock.access.consumers import page_consumers
from penstock.db import call_sums, call_totals, consumer_totals, rejected_calls, runs
from penstock.db.call_sums import Intervals
from penstock.db.engine import Engine, reading
from penstock.execution.rejected_queries import RejectedQuery, list_rejected, most_frequent
from penstock.execution.run_queries import RunQuery, list_runs
from penstock.execution.run_queries import most_frequent as frequent_runs
from penstock.execution.search import search
from penstock.execution.usage_queries import UsageQuery, usage_of
from penstock.runs.ids import first_id

LARGE = "runs|refusals|audit_events|api_keys|associations|call_counts|consumer_counts"
# A line of a plan that reads a whole table: on SQLite, on PostgreSQL.
WHOLE = re.compile(rf"^SCAN (?:{LARGE})$|Seq Scan on (?:{LARGE})\b")
SIZE = Size(runs=2_000, consumers=50, keys=500, rejected=500, events=1_000, days=3, counts=20)
NOW = time.time()
WEEK = NOW - 7 * 86_400


@dataclass(frozen=True)
class Filled:
    """A database with some data, and names of it."""

    engine: Engine
    names: Names

    def plan(self, work: Callable[[Filled], object]) -> list[str]:
        """Return the lines of the plans of all queries that a function sends."""
        sent: list[tuple[str, Any]] = []

        def note(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
            if statement.startswith(("SELECT", "DELETE")):
                sent.append((statement, values))

        sa.event.listen(self.engine, "before_cursor_execute", note)
        try:
            work(self)
        finally:
            sa.event.remove(self.engine, "before_cursor_execute", note)
        assert sent
        with self.engine.connect() as connection:
            explain = "EXPLAIN QUERY PLAN "
            if connection.dialect.name == "postgresql":
                explain = "EXPLAIN "
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            return [
                str(row[-1]).strip()
                for statement, values in sent
                for row in connection.exec_driver_sql(explain + statement, values)
            ]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    """A filled database of each kind; no test changes it."""
    folder = tmp_path_factory.mktemp("filled")
    if request.param == "sqlite":
        url = f"sqlite:///{folder}/penstock.db"
        shutil.copyfile(request.getfixturevalue("upgraded_file"), folder / "penstock.db")
    else:
        server = request.getfixturevalue("postgres")
        template = request.getfixturevalue("upgraded_database")
        name = f"plans{uuid.uuid4().hex}"  # another worker fills one of its own
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = f"{server}/{name}"
    place = Place.make(url, folder)
    names = fill(place, SIZE)
    call_totals.add_up(place.engine, 1, NOW - 7200)
    consumer_totals.add_up(place.engine, 1, NOW)
    yield Filled(place.engine, names)
    place.engine.dispose()


def runs_of(**chosen: Any) -> Callable[[Filled], object]:
    return lambda filled: list_runs(filled.engine, RunQuery("test", since=WEEK, **chosen))


def keys_of(**chosen: Any) -> Callable[[Filled], object]:
    return lambda filled: list_keys(filled.engine, KeyQuery(**chosen), limit=50)


def events_of(**chosen: Any) -> Callable[[Filled], object]:
    return lambda filled: audit.events(filled.engine, limit=50, **chosen)


def with_connection(work: Callable[[sa.Connection], object]) -> Callable[[Filled], object]:
    def read(filled: Filled) -> None:
        with reading(filled.engine) as connection:
            work(connection)

    return read


INTERVALS = Intervals(1, int(WEEK) // 86_400 * 86_400, int(NOW), 3600)
QUERIES: dict[str, Callable[[Filled], object]] = {
    "runs": runs_of(),
    "runs of a pipeline": runs_of(pipelines=["v1/p7"]),
    "runs of a consumer": runs_of(consumer="c00007"),
    "runs of a key": runs_of(key="key_000007000000"),
    "runs of a status": runs_of(status="timed_out"),
    "runs with an error": runs_of(error_type="KeyError"),
    "slow runs": runs_of(seconds=10.0),
    "runs of a request": runs_of(request_id="request-000000000003"),
    "frequent values of runs": lambda filled: frequent_runs(
        filled.engine, RunQuery("test", since=WEEK)
    ),
    "rejected calls": lambda filled: list_rejected(filled.engine, RejectedQuery("test")),
    "rejected calls of a consumer": lambda filled: list_rejected(
        filled.engine, RejectedQuery("test", consumer="c00007")
    ),
    "frequent values of rejected calls": lambda filled: most_frequent(
        filled.engine, RejectedQuery("test", since=WEEK)
    ),
    "keys": keys_of(),
    "keys of a consumer": keys_of(consumer="c00007"),
    "keys that expire": keys_of(expiring=timedelta(days=14)),
    "consumers": lambda filled: page_consumers(filled.engine, after="c00010"),
    "events of an actor": events_of(actor="unknown"),
    "events of an action": events_of(action="run:purged"),
    "usage by key": lambda filled: usage_of(filled.engine, UsageQuery("test", since=WEEK), "key"),
    "usage of a consumer": lambda filled: usage_of(
        filled.engine, UsageQuery("test", consumer="c00007", since=WEEK), "pipeline"
    ),
    "calls by outcome": with_connection(
        lambda connection: call_sums.sums(connection, INTERVALS, "calls", "outcome")
    ),
    "calls by pipeline": with_connection(
        lambda connection: call_sums.by_pipeline(connection, INTERVALS)
    ),
    "latencies": with_connection(
        lambda connection: call_sums.histograms(connection, INTERVALS, ["v1/p7"])
    ),
    "search of a run": lambda filled: search(filled.engine, filled.names.run),
    "search of a request": lambda filled: search(filled.engine, "request-000000000003"),
    "search of a key": lambda filled: search(filled.engine, GOOD_KEY),
    "search of the end of a key": lambda filled: search(filled.engine, "…0007"),
    "purge of runs": lambda filled: runs.purge(filled.engine, 1, first_id(WEEK - 86_400)),
    "purge of rejected calls": lambda filled: rejected_calls.purge(
        filled.engine, 1, first_id(NOW - 40 * 86_400)
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_no_large_table_is_read_as_a_whole(filled: Filled, name: str) -> None:
    plan = filled.plan(QUERIES[name])

    assert [line for line in plan if WHOLE.search(line)] == [], plan


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("runs of a pipeline", "ix_runs_pipeline"),
        ("runs of a consumer", "ix_runs_consumer"),
        ("runs of a key", "ix_runs_consumer"),
        ("runs of a request", "ix_runs_request_id"),
        ("events of an actor", "ix_audit_events_actor"),
        ("events of an action", "ix_audit_events_action"),
        ("search of the end of a key", "ix_api_keys_last_four"),
    ],
)
def test_filters_have_their_own_index(filled: Filled, name: str, index: str) -> None:
    assert index in " ".join(filled.plan(QUERIES[name]))


def test_a_query_without_an_index_is_noticed(filled: Filled) -> None:
    def read(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT id FROM runs WHERE version = 'x'"))

    assert any(WHOLE.search(line) for line in filled.plan(with_connection(read)))
