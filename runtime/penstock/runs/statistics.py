"""How many calls there were, what became of them and how long they took.

The figures come from what is counted, and are for people to look at.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from penstock.contracts.run_status import Status
from penstock.db import call_counts
from penstock.db.engine import Engine, reading
from penstock.metrics import LATENCY_BUCKETS_S

ALL = ""  # where the calls of all pipelines stand together
SETTLED = 300  # seconds after which no process adds to a minute any more
KEPT = 8 * 86_400  # seconds that settled counts are kept in memory
# Seconds, and seconds of one point.
SPANS = {"hour": (3600, 60), "day": (86_400, 3600), "week": (7 * 86_400, 3600)}
FAULTS = frozenset(
    {
        Status.FAILED,
        Status.TIMED_OUT,
        "pipeline-busy",
        "pipeline-unavailable",
        "host-stopping",
        "given-up",
        "not-begun",
    }
)


@dataclass(slots=True)
class Sum:
    """What was counted within some time: calls by outcome, and how long they took."""

    outcomes: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))

    def add(self, outcome: str, calls: int, buckets: Sequence[int]) -> None:
        """Add calls."""
        self.outcomes[outcome] += calls
        for index, number in enumerate(buckets):
            self.buckets[index] += number

    def merge(self, other: Sum) -> None:
        """Add all that another one has."""
        self.outcomes += other.outcomes
        for index, number in enumerate(other.buckets):
            self.buckets[index] += number

    @property
    def calls(self) -> int:
        """All calls."""
        return self.outcomes.total()

    @property
    def succeeded(self) -> int:
        """Those that did what they should."""
        return self.outcomes[Status.SUCCEEDED]

    @property
    def faults(self) -> int:
        """Those that went wrong here, whoever called."""
        return sum(number for outcome, number in self.outcomes.items() if outcome in FAULTS)

    @property
    def turned_away(self) -> int:
        """Those that were refused, by the gate or a handler, or cancelled."""
        return self.calls - self.succeeded - self.faults

    def errors(self) -> list[tuple[str, int, bool]]:
        """Return what else became of calls than success, the most frequent first.

        True is a fault of ours.
        """
        return [
            (name, number, name in FAULTS)
            for name, number in self.outcomes.most_common()
            if name != Status.SUCCEEDED
        ]

    def quantile(self, part: float) -> float | None:
        """Return the seconds within which so large a part of the calls was answered.

        Return None where nothing was timed.
        """
        total = sum(self.buckets)
        if not total:
            return None
        rank, passed = part * total, 0
        for index, number in enumerate(self.buckets):
            if number and passed + number >= rank:
                low = LATENCY_BUCKETS_S[index - 1] if index else 0.0
                high = (
                    LATENCY_BUCKETS_S[index]
                    if index < len(LATENCY_BUCKETS_S)
                    else LATENCY_BUCKETS_S[-1]
                )
                return low + (high - low) * (rank - passed) / number
            passed += number
        return LATENCY_BUCKETS_S[-1]


@dataclass(frozen=True, slots=True)
class Seen:
    """The calls of some time up to now.

    All together, point by point (seconds since the epoch), and by pipeline.
    """

    total: Sum
    points: list[tuple[int, Sum]]
    pipelines: dict[str, Sum]


@dataclass(slots=True)
class _Kept:
    """What was counted from one moment until another, by moment and pipeline."""

    since: int
    until: int
    moments: dict[int, dict[str, Sum]] = field(default_factory=dict)


def calls_of(engine: Engine, environment_id: int, span: str, now: float) -> Counter[str]:
    """Return how many calls each pipeline (its id) had in the last hour, day or week."""
    length, step = SPANS[span]
    with reading(engine) as connection:
        return Counter(
            call_counts.calls(
                connection, environment_id, since=int(now - length) // step * step + step
            )
        )


class Traffic:
    """Adds up what is counted.

    What is settled is read once in a process, for it can be a hundred thousand rows.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._lock = threading.Lock()

    def seen(
        self,
        engine: Engine,
        environment_id: int,
        span: str,
        now: float,
        *,
        pipelines: frozenset[str] | None = None,
        apart: bool = False,
    ) -> Seen:
        """Return the calls of the last hour, day or week, of some pipelines (their ids) or of all.

        `apart` also each one's by itself.
        """
        length, step = SPANS[span]
        first = int(now - length) // step * step + step
        points = {moment: Sum() for moment in range(first, int(now) // step * step + step, step)}
        by_pipeline: dict[str, Sum] = {}
        wanted = {ALL} if pipelines is None else pipelines
        with self._lock:
            for moment, found in self._known(engine, environment_id, first, int(now)):
                point = points.get(moment // step * step)
                if point is None:
                    continue
                for name in wanted & found.keys():
                    point.merge(found[name])
                for name, item in found.items() if apart else ():
                    by_pipeline.setdefault(name, Sum()).merge(item)
        by_pipeline.pop(ALL, None)
        total = Sum()
        for point in points.values():
            total.merge(point)
        return Seen(total, sorted(points.items()), by_pipeline)

    def _known(
        self, engine: Engine, environment_id: int, first: int, now: int
    ) -> Iterator[tuple[int, dict[str, Sum]]]:
        # Minutes become hours, and none may be counted twice.
        first = first // call_counts.HOUR * call_counts.HOUR
        settled = (now - SETTLED) // call_counts.MINUTE * call_counts.MINUTE
        kept = self._kept.get(environment_id)
        if kept is None or first < kept.since:
            kept = self._kept[environment_id] = _Kept(first, first)
        if kept.until < settled:
            _read(engine, environment_id, kept.moments, kept.until, settled)
            kept.until = settled
        for moment in [moment for moment in kept.moments if moment < now - KEPT]:
            del kept.moments[moment]
        fresh: dict[int, dict[str, Sum]] = {}
        _read(engine, environment_id, fresh, kept.until, now + call_counts.MINUTE)
        yield from ((moment, found) for moment, found in kept.moments.items() if moment >= first)
        yield from fresh.items()


def _read(
    engine: Engine, environment_id: int, into: dict[int, dict[str, Sum]], since: int, until: int
) -> None:
    with reading(engine) as connection:
        rows = call_counts.outcomes(connection, environment_id, since=since, until=until)
    for moment, pipeline, outcome, calls, buckets in rows:
        found, timed = into.setdefault(moment, {}), msgspec.json.decode(buckets, type=list[int])
        for name in (pipeline, ALL):
            found.setdefault(name, Sum()).add(outcome, calls, timed)
