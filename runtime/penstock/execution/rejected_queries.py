"""Find rejected calls for operators: one by the id of its reply, or the newest of some filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.access.lookup import consumer_row, environment_row
from penstock.db import rejected_calls as stored
from penstock.db.engine import Engine, reading
from penstock.db.rejected_calls import NamedRejectedCallRow, RejectedFilter
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName
from penstock.runs.ids import first_id, is_run_id, millis_of

MAX_COUNTED_CALLS = 1_000
TOP = 6  # values of a list of the most frequent ones


@dataclass(frozen=True, slots=True)
class RejectedQuery:
    """Which rejected calls are asked for, by names; `since` and `until` in seconds since the epoch.

    `key` is the id of a key, `search` a text in pipeline, path, reason, address or consumer.
    """

    environment: str | None = None
    reason: str | None = None
    consumer: str | None = None
    key: str | None = None
    pipelines: Sequence[str] = ()
    address: str | None = None
    request_id: str | None = None
    since: float | None = None
    until: float | None = None
    search: str = ""

    def chosen(self, reader: RowReader) -> RejectedFilter:
        """Return the filter of stored rows. Raises UnknownName."""
        return RejectedFilter(
            environment_row(reader, self.environment).id if self.environment else None,
            self.reason,
            consumer_row(reader, self.consumer).id if self.consumer else None,
            self.key,
            self.pipelines,
            self.address,
            self.request_id,
            first_id(self.since) if self.since is not None else None,
            first_id(self.until) if self.until is not None else None,
            self.search,
        )


@dataclass(frozen=True, slots=True)
class RejectedView:
    """A rejected call as operators see it.

    `id` is the `run` of the reply. `key` shows the end of the key alone; `reason` is the problem
    type, `cause` why a credential was not valid, which the caller did not learn. `left_out` is how
    many later calls of the consumer in the same minute were not kept.
    """

    id: str
    at: datetime
    environment: str
    pipeline: str
    reason: str
    http_status: int | None
    method: str | None
    path: str | None
    route: str | None
    detail: str | None
    cause: str | None
    consumer: str | None
    key: str | None
    key_id: str | None
    scopes: str | None
    address: str
    request_id: str | None
    left_out: int

    def document(self) -> dict[str, Any]:
        """Return the call as plain values."""
        return asdict(self)


def list_rejected(
    engine: Engine, asked: RejectedQuery, *, before: str | None = None, limit: int = 50
) -> list[RejectedView]:
    """Return rejected calls, newest first; `before` is the last id of the page before.

    Raises UnknownName for an environment or a consumer that does not exist.
    """
    with reading(engine) as connection:
        chosen = asked.chosen(RowReader(connection))
        rows = stored.page(connection, chosen, before=before, limit=limit)
    return [_view(row) for row in rows]


def find_rejected(engine: Engine, identifier: str) -> RejectedView:
    """Return the rejected call whose reply had this id. Raises UnknownName."""
    row = None
    if is_run_id(identifier):
        with reading(engine) as connection:
            row = stored.named(connection, identifier)
    if row is None:
        raise UnknownName(
            "rejected call", identifier, fix="`penstock rejected list` shows the ids of those kept"
        )
    return _view(row)


@dataclass(frozen=True, slots=True)
class MostFrequent:
    """The most frequent values among rejected calls, each with the number of its calls."""

    reasons: list[tuple[str, int]]
    consumers: list[tuple[str, int]]
    addresses: list[tuple[str, int]]


def most_frequent(engine: Engine, asked: RejectedQuery) -> MostFrequent:
    """Return the most frequent reasons, consumers and addresses of calls. Raises UnknownName."""
    with reading(engine) as connection:
        chosen = asked.chosen(RowReader(connection))
        return MostFrequent(*stored.most_frequent(connection, chosen, limit=TOP))


def count_of_consumers(engine: Engine, environment_id: int, since: float) -> int:
    """Return how many calls of known consumers were rejected since a moment, at most 1,000.

    The moment is in seconds since the epoch.
    """
    with reading(engine) as connection:
        return stored.count_of_consumers(
            connection, environment_id, first_id(since), limit=MAX_COUNTED_CALLS
        )


def _view(row: NamedRejectedCallRow) -> RejectedView:
    return RejectedView(
        id=row.id,
        at=datetime.fromtimestamp(millis_of(row.id) / 1000, UTC),
        environment=row.environment,
        pipeline=row.pipeline,
        reason=row.problem,
        http_status=row.http_status,
        method=row.method,
        path=row.path,
        route=row.route,
        detail=row.detail,
        cause=row.reason,
        consumer=row.consumer,
        key=f"pk_{row.environment}_…{row.key_end}" if row.key_end else None,
        key_id=row.key_id,
        scopes=row.scopes,
        address=row.address,
        request_id=row.request_id,
        left_out=row.left_out or 0,
    )
