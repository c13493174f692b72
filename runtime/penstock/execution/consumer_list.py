"""List consumers with their calls of the last days, their keys and their access."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penstock.access.lookup import environment_row
from penstock.db import consumer_activity as stored
from penstock.db.consumer_activity import ConsumerFilter, Interval, KeyFacts, Place
from penstock.db.consumer_counts import DAY, HOUR, UsageFilter
from penstock.db.consumers import counts
from penstock.db.engine import Engine, reading
from penstock.db.tables import ConsumerRow
from penstock.db.unit_of_work import RowReader

DAYS = 7  # whose calls are shown
STEP = 12 * HOUR  # of an interval of the small chart
INTERVALS = DAYS * DAY // STEP
SOON = timedelta(days=14)  # a key that ends before then is about to expire
ORDERS = ("name", "calls", "rejected", "last")


@dataclass(frozen=True, slots=True)
class ActiveConsumer:
    """A consumer with its calls of seven days, oldest interval first, and its usable keys.

    `last_call` is the last one that is known: of those days, or of a key. `pipelines` are the
    numbers of pipelines that it may call by environment; `value` is what the list is ordered by.
    """

    name: str
    description: str
    enabled: bool
    calls: Sequence[int]
    rejected: int
    last_call: datetime | None
    keys: int
    expiring_keys: int
    pipelines: Mapping[str, int]
    value: int

    @property
    def sum(self) -> int:
        """The number of calls."""
        return sum(self.calls)

    @property
    def cursor(self) -> str:
        """What the next page begins after."""
        return f"{self.value}:{self.name}"


@dataclass(frozen=True, slots=True)
class ConsumerQuery:
    """Which consumers are listed, in which order, and the environments whose calls are shown."""

    environments: Collection[str]
    find: str = ""
    enabled: bool | None = None
    by: str = "name"
    descending: bool = False

    @property
    def chosen(self) -> ConsumerFilter:
        """The filter of rows."""
        return ConsumerFilter(self.find, self.enabled)


def place_of(cursor: str | None) -> Place | None:
    """Return the place of a cursor; None for one that no page has."""
    value, _, name = (cursor or "").partition(":")
    readable = value.isascii() and value.isdigit() and len(value) < 19  # noqa: PLR2004  digits of a BIGINT
    return Place(int(value), name) if readable and name else None


def list_active(
    engine: Engine, asked: ConsumerQuery, *, after: Place | None = None, limit: int
) -> list[ActiveConsumer]:
    """Return consumers with their activity. Raises UnknownName for an environment."""
    since = int(time.time()) // STEP * STEP - (INTERVALS - 1) * STEP
    now = datetime.now(UTC)
    with reading(engine) as connection:
        reader = RowReader(connection)
        names = {environment_row(reader, name).id: name for name in asked.environments}
        if asked.by == "name":
            rows = [
                (row, 0)
                for row in stored.page_by_name(
                    connection,
                    asked.chosen,
                    descending=asked.descending,
                    after=after,
                    limit=limit,
                )
            ]
        else:
            rows = stored.page_by_calls(
                connection,
                asked.chosen,
                UsageFilter(since=since, environments=list(names)),
                asked.by,
                descending=asked.descending,
                after=after,
                limit=limit,
            )
        ids = [row.id for row, _ in rows]
        calls = stored.over_time(connection, ids, list(names), since, STEP)
        keys = stored.key_facts(connection, ids, list(names), now, now + SOON)
        pipelines, _ = counts(connection, ids, now)
    return [
        _active(
            row,
            value,
            calls.get(row.id, {}),
            keys.get(row.id, KeyFacts(0, 0, None)),
            {
                name: pipelines[row.id, number]
                for number, name in names.items()
                if pipelines.get((row.id, number))
            },
        )
        for row, value in rows
    ]


def _active(
    row: ConsumerRow,
    value: int,
    intervals: Mapping[int, Interval],
    keys: KeyFacts,
    pipelines: Mapping[str, int],
) -> ActiveConsumer:
    counted = [datetime.fromtimestamp(item.last, UTC) for item in intervals.values()]
    used = [keys.last_used] if keys.last_used is not None else []
    return ActiveConsumer(
        name=row.name,
        description=row.description,
        enabled=row.enabled,
        calls=[intervals[n].calls if n in intervals else 0 for n in range(INTERVALS)],
        rejected=sum(item.rejected for item in intervals.values()),
        last_call=max([*counted, *used], default=None),
        keys=keys.usable,
        expiring_keys=keys.expiring,
        pipelines=pipelines,
        value=value,
    )


def count_consumers(engine: Engine, find: str = "") -> tuple[int, int]:
    """Return the numbers of enabled and of disabled consumers with a text in their names."""
    with reading(engine) as connection:
        numbers = stored.count_by_state(connection, ConsumerFilter(find))
    return numbers.get(True, 0), numbers.get(False, 0)
