"""Rate limits: how many calls are accepted within a sliding window."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from penstock.contracts.options import Check, Problem, option, problems_of_options
from penstock.errors import quoted

By = Literal["consumer", "key", "address", "pipeline"]
BY: tuple[By, ...] = get_args(By)
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
WRITTEN = re.compile(r"([1-9][0-9]{0,8})/(?:([1-9][0-9]{0,7}) )?(second|minute|hour|day)s?")
MAX_CALLS = 10_000_000  # every call of a window is stored
MAX_WINDOW_S = 366 * 86_400
# A pipeline's own rates that do not apply to a consumer with a limit set by operators there.
OVERRIDDEN_BY_CONSUMER_LIMIT = frozenset({"consumer", "key"})


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit of calls within a sliding window.

    Examples: `Rate("100/second")`, `Rate("5000/12 hours", by="key")`.

    A wrong rate blocks the pipeline and is reported when the plugin is loaded.

    Args:
        text: Number of calls and window: second, minute, hour or day, or several of them.
        by: Which calls are counted together: those of one "consumer" (default), one "key", one
            "address", or all of the "pipeline".

    """

    text: str
    by: By = option(
        "consumer",
        Check(
            lambda value: isinstance(value, str) and value in BY,
            "is not known",
            f"use one of {', '.join(BY)}",
        ),
    )

    @classmethod
    def of(cls, text: str, by: str) -> Self:
        """Return a rate from a form, a command or a database, where `by` may be any text."""
        return cls(text, by=cast("By", by))

    @property
    def count(self) -> int:
        """The number of calls within a window."""
        return _parsed(self.text)[0]

    @property
    def seconds(self) -> int:
        """The length of the window, in seconds."""
        return _parsed(self.text)[1]

    def problems(self) -> Iterable[Problem]:
        """Yield what is wrong with the rate, each with its fix."""
        try:
            _parsed(self.text if isinstance(self.text, str) else "")
        except ValueError:
            yield (
                f"{quoted(self.text)} is no rate",
                'write a number and a window, such as "100/second" or "5000/12 hours"',
            )
        else:
            if self.count > MAX_CALLS or self.seconds > MAX_WINDOW_S:
                yield (
                    f"the rate {self.text} is out of bounds",
                    f"give {MAX_CALLS:,} calls at most, within 366 days at most",
                )
        yield from problems_of_options(self)

    def __str__(self) -> str:
        """Name it as the developer wrote it."""
        return f"{self.text} by {self.by}"


@functools.cache
def _parsed(text: str) -> tuple[int, int]:
    """Return a rate's calls and seconds. Raises ValueError."""
    match = WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is no rate")
    return int(match[1]), int(match[2] or 1) * SECONDS[match[3]]


def unused_beside(rate: Rate, others: Iterable[Rate]) -> Rate | None:
    """Return the rate that makes another one useless, or None.

    Such a rate counts the same calls, has another window, and always reaches its limit first.
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


def problems_of_rates(rates: Sequence[object], *, toggles: frozenset[str]) -> Iterable[Problem]:
    """Yield what is wrong with the rates of a trigger, each with its fix."""
    seen: list[Rate] = []
    for rate in rates:
        if not isinstance(rate, Rate):
            yield f"{quoted(rate)} is no rate", 'give rate=[Rate("100/second", by="consumer")]'
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
