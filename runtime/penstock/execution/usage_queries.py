"""Add up who called what: calls by consumer, key or pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.access.lookup import consumer_row, environment_row
from penstock.db import consumer_counts
from penstock.db.consumer_counts import HOUR, UsageFilter
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader

BY = ("consumer", "key", "pipeline")
NOT_KNOWN = "(not known)"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which calls are added up, by names. Moments are in seconds since the epoch, by the hour.

    `environments` restricts the calls to those of some environments; None: all.
    """

    environment: str | None = None
    consumer: str | None = None
    key: str | None = None
    pipelines: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    search: str = ""
    environments: Sequence[str] | None = None

    def chosen(self, reader: RowReader) -> UsageFilter:
        """Return the filter of stored counts. Raises UnknownName."""
        return UsageFilter(
            environment_row(reader, self.environment).id if self.environment else None,
            consumer_row(reader, self.consumer).id if self.consumer else None,
            self.key,
            self.pipelines,
            int(self.since) if self.since is not None else None,
            int(self.until) if self.until is not None else None,
            self.search,
            [environment_row(reader, name).id for name in self.environments]
            if self.environments is not None
            else None,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """The calls of a consumer, a key or a pipeline in an environment.

    `key` shows the end of the key alone. `last` is the start of the hour of the last call.
    """

    environment: str
    consumer: str | None
    key: str | None
    key_id: str | None
    pipeline: str | None
    calls: int
    succeeded: int
    client_errors: int
    rejected: int
    failed: int
    last: datetime

    @property
    def known(self) -> bool:
        """Whether the row is of a consumer that is known."""
        return self.consumer not in {None, NOT_KNOWN}

    def document(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


def usage_of(engine: Engine, asked: UsageQuery, by: str, *, limit: int = 100) -> list[Usage]:
    """Return calls by consumer, key or pipeline, the most first. Raises UnknownName."""
    with reading(engine) as connection:
        chosen = asked.chosen(RowReader(connection))
        rows = consumer_counts.usage(connection, chosen, by, limit)
    return [
        Usage(
            environment=row.environment or "",
            consumer=None if by == "pipeline" else row.consumer or NOT_KNOWN,
            key=f"pk_{row.environment}_…{row.key_end}" if row.key_end else None,
            key_id=row.key_id or None,
            pipeline=row.pipeline,
            calls=row.calls,
            succeeded=row.succeeded,
            client_errors=row.client_errors,
            rejected=row.rejected,
            failed=row.failed,
            last=datetime.fromtimestamp(row.last, UTC),
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class CallerActivity:
    """The calls of a consumer to a pipeline. `last` is the start of the hour of the last one."""

    calls: int
    failed: int
    rejected: int
    last: datetime


def callers_of(
    engine: Engine, environment: str, pipeline: str, consumers: Sequence[int], since: float
) -> dict[int, CallerActivity]:
    """Return the calls of some consumers to a pipeline since a moment, by their ids.

    Raises UnknownName.
    """
    asked = UsageQuery(environment, pipelines=(pipeline,), since=since)
    with reading(engine) as connection:
        chosen = asked.chosen(RowReader(connection))
        found = consumer_counts.of_consumers(connection, chosen, consumers)
    return {
        number: CallerActivity(
            row.calls, row.failed, row.rejected, datetime.fromtimestamp(row.last, UTC)
        )
        for number, row in found.items()
    }


def calls_by_interval(
    engine: Engine, asked: UsageQuery, start: float, end: float, step: int
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the starts of intervals of `step` seconds, and calls by class in each.

    Counts are stored by the hour, so an interval is one hour at least. Raises UnknownName.
    """
    step = max(step, HOUR)
    times = list(range(int(start) // step * step, int(end) + 1, step))
    numbers: dict[str, list[int]] = {}
    with reading(engine) as connection:
        for moment, name, calls in consumer_counts.by_interval(
            connection, asked.chosen(RowReader(connection)), step
        ):
            index = (moment - times[0]) // step
            if 0 <= index < len(times):
                numbers.setdefault(name, [0] * len(times))[index] += calls
    return times, numbers
