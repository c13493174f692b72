"""Statistics of calls for the console: numbers, outcomes and latency, from stored counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.contracts.outcomes import FAULTS, SUCCESSES
from penstock.db import call_sums
from penstock.db.call_sums import Intervals
from penstock.db.engine import Engine, reading
from penstock.metrics import LATENCY_BUCKETS_S


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
