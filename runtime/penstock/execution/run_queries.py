"""Find runs for operators: one by its id, or the newest that match some filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from penstock.access.encryption import SecretBox
from penstock.access.lookup import consumer_row, environment_row
from penstock.db import runs as stored
from penstock.db.engine import Engine, reading
from penstock.db.run_tables import RunRow
from penstock.db.runs import FullRunRow
from penstock.db.tables import ConsumerRow, EnvironmentRow
from penstock.db.unit_of_work import RowReader
from penstock.durable.engine import RunStore
from penstock.durable.run_view import RunView, view_of, with_details, with_engine_state
from penstock.errors import UnknownName
from penstock.runs.ids import first_id, is_run_id


def list_runs(  # noqa: PLR0913  one argument a filter
    engine: Engine,
    *,
    environment: str | None = None,
    pipelines: Sequence[str] = (),
    consumer: str | None = None,
    status: str | None = None,
    request_id: str | None = None,
    since: float | None = None,
    before: str | None = None,
    search: str = "",
    limit: int = 50,
) -> list[RunView]:
    """Return runs, newest first.

    `since` is in seconds since the epoch, `before` the last id of the page before. `search` is a
    text in the pipeline's id or in the consumer's name. Raises UnknownName for an environment or a
    consumer that does not exist.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        rows = stored.page(
            connection,
            environment_id=environment_row(reader, environment).id if environment else None,
            pipelines=pipelines,
            consumer_id=consumer_row(reader, consumer).id if consumer else None,
            status=status,
            request_id=request_id,
            since=first_id(since) if since is not None else None,
            before=before,
            search=search,
            limit=limit,
        )
        return _views(reader, rows)


def find_run(
    engine: Engine, box: SecretBox, store_of: Callable[[str], RunStore], run: str
) -> RunView:
    """Return a run with its steps, its recorded bodies and the runs that it started.

    `store_of` returns the store of an environment's durable runs. Raises UnknownName.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        row = run_row(connection, run)
        view = _views(reader, [row])[0]
        view = with_details(view, row, _views(reader, stored.children(connection, run)), box)
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


def _views(reader: RowReader, rows: Sequence[RunRow]) -> list[RunView]:
    environments, consumers = reader.names_by_id(EnvironmentRow), reader.names_by_id(ConsumerRow)
    return [
        view_of(
            row,
            environments.get(row.environment_id),
            consumers.get(row.consumer_id) if row.consumer_id is not None else None,
        )
        for row in rows
    ]
