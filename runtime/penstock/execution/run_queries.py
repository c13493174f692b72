"""Find runs for operators: one by its id, or the newest that match some filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penstock.access.encryption import SecretBox
from penstock.access.lookup import consumer_row, environment_row
from penstock.contracts.csv_lines import csv_line
from penstock.db import run_log_lines
from penstock.db import runs as stored
from penstock.db.api_keys import last_characters
from penstock.db.consumers import names_of
from penstock.db.engine import Engine, reading
from penstock.db.run_tables import RunRow
from penstock.db.runs import FullRunRow, RunFilter
from penstock.db.tables import ApiKeyRow, EnvironmentRow
from penstock.db.unit_of_work import RowReader
from penstock.durable.engine import RunStore
from penstock.durable.run_view import RunView, view_of, with_details, with_engine_state, with_log
from penstock.errors import UnknownName
from penstock.runs.ids import first_id, is_run_id

COLUMNS = (
    "id", "at", "environment", "pipeline", "route", "consumer", "key", "status", "http_status",
    "error_type", "ms", "durable",
)  # fmt: skip
RUNS_PER_READ = 1000
TOP = 6  # values of a list of the most frequent ones
NO_CONSUMER = 0  # the id that no consumer has


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs are asked for, by names. `key` is the id of a key.

    `since` and `until` are in seconds since the epoch, `seconds` is the least duration. `search` is
    a text in the pipeline's id or in the consumer's name.
    """

    environment: str | None = None
    pipelines: Sequence[str] = ()
    consumer: str | None = None
    key: str | None = None
    status: str | None = None
    error_type: str | None = None
    request_id: str | None = None
    seconds: float | None = None
    since: float | None = None
    until: float | None = None
    search: str = ""

    def chosen(self, reader: RowReader) -> RunFilter:
        """Return the filter of stored rows. Raises UnknownName."""
        consumer = consumer_row(reader, self.consumer).id if self.consumer else None
        if consumer is None and self.key:  # there is an index by consumer, and none by key
            key = reader.find(ApiKeyRow, {ApiKeyRow.id: self.key})
            consumer = key.consumer_id if key is not None else NO_CONSUMER
        return RunFilter(
            environment_row(reader, self.environment).id if self.environment else None,
            self.pipelines,
            consumer,
            self.key,
            self.status,
            self.error_type,
            self.request_id,
            int(self.seconds * 1e6) if self.seconds is not None else None,
            first_id(self.since) if self.since is not None else None,
            first_id(self.until) if self.until is not None else None,
            self.search,
        )


def list_runs(
    engine: Engine, asked: RunQuery, *, before: str | None = None, limit: int = 50
) -> list[RunView]:
    """Return runs, newest first; `before` is the last id of the page before.

    Raises UnknownName for an environment or a consumer that does not exist.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        rows = stored.page(connection, asked.chosen(reader), before=before, limit=limit)
        return _views(connection, rows)


def every_run(engine: Engine, asked: RunQuery, *, limit: int) -> Iterator[RunView]:
    """Yield runs, newest first, at most `limit`; only one page of them is in memory."""
    before, left = None, limit
    while left > 0 and (
        page := list_runs(engine, asked, before=before, limit=min(left, RUNS_PER_READ))
    ):
        yield from page
        before, left = page[-1].id, left - len(page)


def as_csv(runs: Iterable[RunView]) -> Iterator[str]:
    """Yield runs as CSV (RFC 4180), with an apostrophe before the formulas of spreadsheets."""
    yield csv_line(COLUMNS)
    for run in runs:
        document = run.document()
        yield csv_line(_cell(document[name]) for name in COLUMNS)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class MostFrequent:
    """The most frequent values among runs, each with the number of its runs."""

    statuses: list[tuple[str, int]]
    pipelines: list[tuple[str, int]]
    error_types: list[tuple[str, int]]


def most_frequent(engine: Engine, asked: RunQuery) -> MostFrequent:
    """Return the most frequent statuses, pipelines and error types. Raises UnknownName."""
    columns = (RunRow.status, RunRow.pipeline, RunRow.error_type)
    with reading(engine) as connection:
        chosen = asked.chosen(RowReader(connection))
        return MostFrequent(*stored.most_frequent(connection, chosen, columns, limit=TOP))


def find_run(
    engine: Engine, box: SecretBox, store_of: Callable[[str], RunStore], run: str
) -> RunView:
    """Return a run with its steps, its recorded bodies and the runs that it started.

    `store_of` returns the store of an environment's durable runs. Raises UnknownName.
    """
    with reading(engine) as connection:
        row = run_row(connection, run)
        view = _views(connection, [row])[0]
        view = with_details(view, row, _views(connection, stored.children(connection, run)), box)
        view = with_log(view, run_log_lines.of_run(connection, run))
    if not view.durable or view.environment is None:
        return view
    store = store_of(view.environment)
    engine_run = store.look([run], outcomes=True).get(run)
    return with_engine_state(
        view, row, engine_run, store.steps(run) if engine_run is not None else ()
    )


def environment_of(engine: Engine, run: str) -> tuple[FullRunRow, str]:
    """Return the record of a run and the name of its environment. Raises UnknownName."""
    with reading(engine) as connection:
        row = run_row(connection, run)
        return row, RowReader(connection).names_by_id(EnvironmentRow)[row.environment_id]


def run_row(connection: Any, run: str) -> FullRunRow:  # noqa: ANN401  a connection of db
    """Return the record of a run. Raises UnknownName."""
    row = stored.find(connection, run) if is_run_id(run) else None
    if row is None:
        raise UnknownName("run", run, fix="`penstock runs list` shows their ids")
    return row


def _views(
    connection: Any,  # noqa: ANN401  a connection of db
    rows: Sequence[RunRow],
) -> list[RunView]:
    environments = RowReader(connection).names_by_id(EnvironmentRow)
    ids = {row.consumer_id for row in rows if row.consumer_id is not None}
    consumers = names_of(connection, ids)
    ends = last_characters(connection, {row.key_id for row in rows if row.key_id is not None})
    return [
        view_of(
            row,
            environments.get(row.environment_id),
            consumers.get(row.consumer_id) if row.consumer_id is not None else None,
            ends.get(row.key_id) if row.key_id is not None else None,
        )
        for row in rows
    ]
