"""The consumers that called each pipeline in the last seven days, from the records of runs."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from penstock.db import runs
from penstock.db.engine import Engine, reading
from penstock.db.tables import ConsumerRow
from penstock.db.unit_of_work import RowReader
from penstock.errors import PenstockError
from penstock.runs.ids import first_id

HOUR_S = 3600
SETTLED_AFTER_S = 600  # no call of an hour is recorded after that
DAYS = 7


Pairs = dict[str, frozenset[int]]  # consumers by pipeline
NO_CONSUMERS: frozenset[int] = frozenset()


class Callers:
    """Callers of pipelines, hour by hour.

    A settled hour is read once in a process: a week can hold a million runs.
    """

    def __init__(self) -> None:
        self._settled: dict[int, dict[int, Pairs]] = {}
        self._together: dict[int, tuple[tuple[int, ...], Pairs]] = {}
        self._lock = threading.Lock()

    def of(
        self, engine: Engine, environment_id: int, pipelines: Collection[str], now: float
    ) -> dict[str, list[str]]:
        """Return the names of the consumers that called each pipeline (id) in the last 7 days."""
        with reading(engine) as connection:
            with self._lock:
                parts = self._known(connection, environment_id, now)
            names = RowReader(connection).names_by_id(ConsumerRow)
        return {
            pipeline: sorted(
                names[consumer]
                for consumer in NO_CONSUMERS.union(
                    *(part.get(pipeline, NO_CONSUMERS) for part in parts)
                )
                if consumer in names
            )
            for pipeline in pipelines
        }

    def get_ready(self, engine: Engine, environments: Iterable[int], now: float) -> None:
        """Read the settled hours in a thread, where they were not read yet."""
        missing = [identifier for identifier in environments if identifier not in self._settled]
        if missing:
            threading.Thread(
                target=self._get_ready,
                args=(engine, missing, now),
                name="penstock-callers",
                daemon=True,
            ).start()

    def _get_ready(self, engine: Engine, environments: Iterable[int], now: float) -> None:
        with suppress(PenstockError):  # `of` reads them later, or raises
            for identifier in environments:
                self.of(engine, identifier, (), now)

    def _known(self, connection: Any, environment_id: int, now: float) -> list[Pairs]:  # noqa: ANN401  a connection of db
        """Return the callers of all settled hours together, and of each hour since."""
        settled = self._settled.setdefault(environment_id, {})
        last = int(now) // HOUR_S
        hours = range(last - DAYS * 24, last + 1)
        over = [hour for hour in hours if (hour + 1) * HOUR_S + SETTLED_AFTER_S < now]
        for hour in settled.keys() - set(over):
            del settled[hour]
        for hour in over:
            if hour not in settled:
                settled[hour] = _read(connection, environment_id, hour)
        together = self._together.get(environment_id)
        if together is None or together[0] != tuple(over):
            together = self._together[environment_id] = tuple(over), _joined(settled.values())
        return [
            together[1],
            *(_read(connection, environment_id, hour) for hour in hours[len(over) :]),
        ]


def _joined(parts: Iterable[Pairs]) -> Pairs:
    consumers_of: defaultdict[str, set[int]] = defaultdict(set)
    for part in parts:
        for pipeline, consumers in part.items():
            consumers_of[pipeline] |= consumers
    return {pipeline: frozenset(consumers) for pipeline, consumers in consumers_of.items()}


def _read(connection: Any, environment_id: int, hour: int) -> Pairs:  # noqa: ANN401  a connection of db
    consumers_of: defaultdict[str, set[int]] = defaultdict(set)
    for pipeline, consumer in runs.callers(
        connection, environment_id, first_id(hour * HOUR_S), first_id((hour + 1) * HOUR_S)
    ):
        consumers_of[pipeline].add(consumer)
    return {pipeline: frozenset(consumers) for pipeline, consumers in consumers_of.items()}
