"""The menu of the console: its entries in groups, and the counts beside them.

A count says where an operator has to act: blocked pipelines, keys about to expire. A module that
knows such a number registers it under the entry's endpoint with `@menu_count`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from penstock.access.users import Role
from penstock.console.context import ConsoleContext

COUNT_LIFETIME_S = 15
MAX_COUNT = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the menu: the endpoint of its page, its title, and the least role."""

    endpoint: str
    title: str
    needs: Role = Role.VIEWER


@dataclass(frozen=True, slots=True)
class Count:
    """A number beside an entry; `words` says what it counts: "keys expire within 14 days".

    Counters stop at MAX_COUNT: a page must not wait for a number that is only a sign.
    """

    number: int
    kind: str  # "warn" or "bad"
    words: str

    @property
    def text(self) -> str:
        """The number as it is shown."""
        return f"{MAX_COUNT}+" if self.number >= MAX_COUNT else str(self.number)


# Views of one page begin with the endpoint of its entry, so that the entry is marked on all of
# them.
MENU: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Observe",
        (
            Entry("overview", "Overview"),
            Entry("rejected", "Rejected"),
            Entry("runs", "Runs"),
            Entry("schedules", "Schedules"),
            Entry("queue", "Queue"),
        ),
    ),
    (
        "Access",
        (
            Entry("pipelines", "Pipelines"),
            Entry("consumers", "Consumers"),
            Entry("keys", "Keys"),
            Entry("policies", "Policies"),
            Entry("tokens", "Tokens"),
            Entry("limits", "Limits"),
        ),
    ),
    (
        "Operate",
        (
            Entry("deployments", "Deployments"),
            Entry("settings", "Settings"),
            Entry("alerts", "Alerts"),
        ),
    ),
    (
        "Govern",
        (
            Entry("changes", "Changes"),
            Entry("audit", "Audit"),
            Entry("users", "Users", Role.ADMIN),
        ),
    ),
)

Counter = Callable[[ConsoleContext, str], Count | None]
COUNTERS: dict[str, Counter] = {}


def menu_count(endpoint: str) -> Callable[[Counter], Counter]:
    """Register the function that returns the count of an entry in an environment, or None."""

    def register(counter: Counter) -> Counter:
        COUNTERS[endpoint] = counter
        return counter

    return register


def count_of(context: ConsoleContext, endpoint: str, environment: str) -> Count | None:
    """Return the count of an entry, at most some seconds old; None where there is nothing to do."""
    counter = COUNTERS.get(endpoint)
    if counter is None:
        return None
    counted_at, count = context.menu_counts.get((endpoint, environment), (float("-inf"), None))
    if time.monotonic() - counted_at > COUNT_LIFETIME_S:
        count = counter(context, environment)
        context.menu_counts[endpoint, environment] = time.monotonic(), count
    return count if count is not None and count.number else None
