"""Statistics of calls for the console: numbers, outcomes and latency, from stored counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from penstock.contracts.outcomes import FAULTS, RUN, SUCCESSES
from penstock.db import call_counts, call_sums
from penstock.db.call_sums import Intervals
from penstock.db.engine import Engine, reading
from penstock.metrics import LATENCY_BUCKETS_S

ALL = ""  # in place of a pipeline's id: all of them together
SETTLED_AFTER_S = 300  # no process adds to a minute after that
CACHE_RETENTION_S = 8 * 86_400  # in memory, of settled counts
# length of a span and of one of its points, in seconds
SPANS = {"hour": (3600, 60), "day": (86_400, 3600), "week": (7 * 86_400, 3600)}


@dataclass(slots=True)
class Sum:
    """Calls by outcome, and a histogram of their latency."""

    outcomes: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))

    def add(self, outcome: str, calls: int, buckets: Sequence[int]) -> None:
        """Add calls of one outcome."""
        self.outcomes[outcome] += calls
        for index, number in enumerate(buckets):
            self.buckets[index] += number

    def merge(self, other: Sum) -> None:
        """Add another sum."""
        self.outcomes += other.outcomes
        for index, number in enumerate(other.buckets):
            self.buckets[index] += number

    @property
    def calls(self) -> int:
        """The number of calls."""
        return self.outcomes.total()

    @property
    def succeeded(self) -> int:
        """The number of calls that succeeded, those accepted with 202 among them."""
        return sum(number for outcome, number in self.outcomes.items() if outcome in SUCCESSES)

    @property
    def faults(self) -> int:
        """The number of server faults."""
        return sum(number for outcome, number in self.outcomes.items() if outcome in FAULTS)

    @property
    def turned_away(self) -> int:
        """The number of calls that were rejected, cancelled or answered 4xx by their handler."""
        return self.calls - self.succeeded - self.faults

    def errors(self) -> list[tuple[str, int, bool]]:
        """Return outcome, number and whether it is a server fault, except for success.

        The most frequent is first.
        """
        return [
            (name, number, name in FAULTS)
            for name, number in self.outcomes.most_common()
            if name not in SUCCESSES
        ]

    def quantile(self, part: float) -> float | None:
        """Return a quantile of the latency in seconds, for example `quantile(0.95)`.

        Return None where no call has a duration.
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
    """The calls of a span that ends now: in total, by point and by pipeline.

    A point is its start in seconds since the epoch, with its calls.
    """

    total: Sum
    points: list[tuple[int, Sum]]
    pipelines: dict[str, Sum]


@dataclass(slots=True)
class _Settled:
    """Settled counts between two moments, by moment and pipeline."""

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


def rejections(
    engine: Engine, environment_id: int, start: float, end: float, step: int
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the times of intervals of `step` seconds, and rejected calls by problem type.

    `start` and `end` are in seconds since the epoch. Each list has one number for each time.
    """
    chosen = Intervals(environment_id, int(start) // step * step, int(end) + 1, step)
    times = chosen.times
    with reading(engine) as connection:
        rows = call_sums.sums(connection, chosen, "rejections", "outcome")
    numbers: dict[str, list[int]] = {}
    for moment, outcome, calls in rows:
        numbers.setdefault(outcome, [0] * len(times))[(moment - chosen.start) // step] += calls
    return times, numbers


class Traffic:
    """Adds up stored counts.

    Settled counts are read once in a process: a week of them can be a hundred thousand rows.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Settled] = {}
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
        """Return the calls of the last hour, day or week.

        `pipelines` are ids, None for all. With `apart` the result has each pipeline by itself too.
        """
        length, step = SPANS[span]
        first = int(now - length) // step * step + step
        points = {moment: Sum() for moment in range(first, int(now) // step * step + step, step)}
        by_pipeline: dict[str, Sum] = {}
        names = {ALL} if pipelines is None else pipelines
        with self._lock:
            for moment, sums in self._known(engine, environment_id, first, int(now)):
                point = points.get(moment // step * step)
                if point is None:
                    continue
                for name in names & sums.keys():
                    point.merge(sums[name])
                for name, item in sums.items() if apart else ():
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
        settled = (now - SETTLED_AFTER_S) // call_counts.MINUTE * call_counts.MINUTE
        cache = self._kept.get(environment_id)
        if cache is None or first < cache.since:
            cache = self._kept[environment_id] = _Settled(first, first)
        if cache.until < settled:
            _read(engine, environment_id, cache.moments, cache.until, settled)
            cache.until = settled
        for moment in [moment for moment in cache.moments if moment < now - CACHE_RETENTION_S]:
            del cache.moments[moment]
        fresh: dict[int, dict[str, Sum]] = {}
        _read(engine, environment_id, fresh, cache.until, now + call_counts.MINUTE)
        yield from ((moment, sums) for moment, sums in cache.moments.items() if moment >= first)
        yield from fresh.items()


def _read(
    engine: Engine, environment_id: int, into: dict[int, dict[str, Sum]], since: int, until: int
) -> None:
    with reading(engine) as connection:
        rows = call_counts.outcomes(connection, environment_id, since=since, until=until)
    for moment, pipeline, outcome, calls, buckets in rows:
        if outcome.startswith(RUN):
            continue
        sums, timed = into.setdefault(moment, {}), msgspec.json.decode(buckets, type=list[int])
        for name in (pipeline, ALL):
            sums.setdefault(name, Sum()).add(outcome, calls, timed)
