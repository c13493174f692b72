"""How long operators wait for runs when there are millions of records: each question of
`penstock runs`, on SQLite or with `--url` on PostgreSQL."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from support.place import Place

from penstock.db import runs as stored
from penstock.db.engine import Engine, reading, writing
from penstock.execution.run_queries import RunQuery, list_runs
from penstock.runs.ids import first_id

ROUNDS = 15
DAYS = 30
# Of a thousand runs 3 were refused, 2 failed and 1 was cut off; forty pipelines and a hundred
# consumers take turns, one of each rarely.
MADE = """
INSERT INTO runs (id, environment_id, pipeline, version, route, durable, consumer_id, status, http_status, micros, problem, request_id)
SELECT {id}, 1, 'v1/p' || CASE WHEN n % 100000 = 7 THEN 99 ELSE n % 40 END, '1.0.0', 'POST /', {no},
       CASE WHEN n % 100000 = 9 THEN 999 ELSE n % 100 END,
       CASE WHEN n % 1000 IN (1, 2, 3) THEN 'refused' WHEN n % 1000 IN (4, 5) THEN 'failed' WHEN n % 1000 = 6 THEN 'timed_out' ELSE 'succeeded' END,
       200, 1500 + n % 5000, NULL, CASE WHEN n % 10 = 0 THEN 'r' || n END
FROM {numbers}
"""  # noqa: E501  text as it is
OF_SQLITE = {
    "id": "from_hex(printf('%012x7%03x8000%012x', {first} + n * {step}, n % 4096, n))",
    "numbers": (
        "(WITH RECURSIVE count(n) AS (SELECT {begin} UNION ALL SELECT n + 1 FROM count WHERE n + 1"
        " < {end}) SELECT n FROM count)"
    ),
    "no": "0",
}
OF_POSTGRESQL = {
    "id": (
        "CAST(lpad(to_hex({first} + n * {step}), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0')"
        " || '8000' || lpad(to_hex(n), 12, '0') AS uuid)"
    ),
    "numbers": "generate_series(CAST({begin} AS bigint), {end} - 1) AS n",
    "no": "false",
}
AT_A_TIME = 1_000_000


def fill(engine: Engine, rows: int) -> None:
    """Write so many runs, spread over thirty days."""
    parts = OF_SQLITE if engine.dialect.name == "sqlite" else OF_POSTGRESQL
    span = DAYS * 86_400_000
    first = int(time.time() * 1000) - span
    for begin in range(0, rows, AT_A_TIME):
        numbers = {
            "first": first,
            "step": span // rows,
            "begin": begin,
            "end": min(begin + AT_A_TIME, rows),
        }
        made = {name: text.format(**numbers) for name, text in parts.items()}
        with writing(engine) as connection:
            if engine.dialect.name == "sqlite":
                connection.connection.create_function("from_hex", 1, bytes.fromhex)
            connection.execute(sa.text(MADE.format(**made)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def questions(engine: Engine, rows: int) -> dict[str, Callable[[], object]]:
    """Return what operators ask, by what it is."""
    middle = first_id(time.time() - DAYS / 2 * 86_400)
    day, half = time.time() - 86_400, time.time() - DAYS / 2 * 86_400

    def purge() -> object:
        return stored.purge(engine, 1, first_id(time.time() - (DAYS - 1) * 86_400))

    def one() -> object:
        with reading(engine) as connection:
            return stored.find(connection, str(newest[0].id))

    newest = list_runs(engine, RunQuery("test"), limit=1)
    ask = list_runs
    return {
        "the newest 50": lambda: ask(engine, RunQuery("test")),
        "50 in the middle": lambda: ask(engine, RunQuery("test"), before=middle),
        "one by its id": one,
        "of a pipeline": lambda: ask(engine, environment="test", pipelines=["v1/p7"]),
        "of a pipeline seldom called": lambda: ask(
            engine, environment="test", pipelines=["v1/p99"]
        ),
        "of a consumer": lambda: ask(engine, environment="test", consumer="acme"),
        "of a consumer that seldom calls": lambda: ask(engine, environment="test", consumer="rare"),
        "that failed": lambda: ask(engine, environment="test", status="failed"),
        "that timed out, of a day": lambda: ask(
            engine, environment="test", status="timed_out", since=day
        ),
        "that failed, of a pipeline": lambda: ask(
            engine, environment="test", status="failed", pipelines=["v1/p4"], since=half
        ),
        "by their request id": lambda: ask(
            engine, environment="test", request_id=f"r{rows // 20 * 10}"
        ),
        "that wait (none)": lambda: ask(engine, environment="test", status="accepted"),
        "forget a batch": purge,
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", help="a database, by default SQLite in a temporary folder")
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Place.make(chosen.url or f"sqlite:///{folder}/records.db", Path(folder))
        place.consumer("acme")
        place.consumer("rare")
        with writing(place.engine) as connection:  # the made runs are those of consumers 7 and 999
            for name, number in (("acme", 7), ("rare", 999)):
                connection.execute(
                    sa.text("UPDATE consumers SET id = :number WHERE name = :name"),
                    {"number": number, "name": name},
                )
        began = time.perf_counter()
        fill(place.engine, chosen.rows)
        print(  # noqa: T201  the result
            f"\n{chosen.rows:,} runs on {place.engine.dialect.name}, made in"
            f" {time.perf_counter() - began:.0f} s\n"
        )
        print(f"{'runs':34}{'rows':>6}{'median ms':>12}{'longest ms':>12}")  # noqa: T201
        for name, ask in questions(place.engine, chosen.rows).items():
            times, numbers = [], []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                found = ask()
                times.append((time.perf_counter() - began) * 1000)
                numbers.append(
                    len(found)
                    if isinstance(found, list)
                    else found[0]
                    if isinstance(found, tuple)
                    else 1
                )
            number = max(numbers)
            print(f"{name:34}{number:6}{statistics.median(times):12.2f}{max(times):12.2f}")  # noqa: T201
        place.engine.dispose()


if __name__ == "__main__":
    main()
