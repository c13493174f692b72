"""How often a pipeline may be called."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
WRITTEN = re.compile(r"([1-9][0-9]{0,8})/(?:([1-9][0-9]{0,7}) )?(second|minute|hour|day)s?")
MAX_CALLS = 10_000_000  # each call within a window is remembered
MAX_SECONDS = 366 * 86_400
BY = ("consumer", "key", "address", "pipeline")
# A pipeline's own rates that do not count for a consumer whom operators set a limit there.
OVERRIDDEN_BY_CONSUMER_LIMIT = frozenset({"consumer", "key"})


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many calls within a window that moves along.

    `Rate("100/second")`, `Rate("5000/12 hours", by="key")`.

    `by` says whose calls are counted together: those of a `consumer`, a `key`, an `address`, or all
    of the `pipeline`. What makes no sense is reported when the plugin is loaded, and refuses the
    pipeline.
    """

    text: str
    by: str = "consumer"

    @property
    def count(self) -> int:
        """The calls that a window has room for."""
        return _parsed(self.text)[0]

    @property
    def seconds(self) -> int:
        """The length of the window."""
        return _parsed(self.text)[1]

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what makes no sense, each with its mend."""
        try:
            _parsed(self.text if isinstance(self.text, str) else "")
        except ValueError:
            yield (
                f"{self.text!r} is no rate",
                'write a number and a window, such as "100/second" or "5000/12 hours"',
            )
        else:
            if self.count > MAX_CALLS or self.seconds > MAX_SECONDS:
                yield (
                    f"the rate {self.text} is out of bounds",
                    f"give {MAX_CALLS:,} calls at most, within 366 days at most",
                )
        if not isinstance(self.by, str) or self.by not in BY:
            yield f"a rate can't be counted by {self.by!r}", f"use one of {', '.join(BY)}"

    def __str__(self) -> str:
        """Name it as the developer wrote it."""
        return f"{self.text} by {self.by}"


@functools.cache
def _parsed(text: str) -> tuple[int, int]:
    """Return a rate's calls and seconds. Raises ValueError."""
    match = WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no rate")
    return int(match[1]), int(match[2] or 1) * SECONDS[match[3]]


def unused_beside(rate: Rate, others: Iterable[Rate]) -> Rate | None:
    """Return the rate beside which another can never be used up.

    One that is counted in the same way and allows no more calls.
    """
    for other in others:
        windows = math.ceil(rate.seconds / other.seconds)
        if (
            other.by == rate.by
            and other.seconds != rate.seconds
            and rate.count >= other.count * windows
        ):
            return other
    return None


def problems_of(rates: Sequence[object], *, toggles: frozenset[str]) -> Iterable[tuple[str, str]]:
    """Yield what makes no sense about a trigger's rates, each with its mend."""
    seen: list[Rate] = []
    for rate in rates:
        if not isinstance(rate, Rate):
            yield f"{rate!r} is no rate", 'give rate=[Rate("100/second", by="consumer")]'
            continue
        wrong = list(rate.problems())
        yield from wrong
        if wrong:
            continue
        if (rate.by == "consumer" and not toggles) or (
            rate.by == "key" and "api_key" not in toggles
        ):
            yield (
                f"the rate {rate} would not count calls without a key",
                'set api_key=True, or count by="address"',
            )
        if any((rate.by, rate.seconds) == (other.by, other.seconds) for other in seen):
            yield (
                f"two rates count by {rate.by} within {rate.seconds} seconds",
                "keep the one that is meant",
            )
        seen.append(rate)
    for rate in seen:
        other = unused_beside(rate, seen)
        if other is not None:
            yield (
                f"the rate {rate} can never be used up beside {other}",
                "leave it out, or give it fewer calls",
            )
