"""Choose which rejected calls are stored: few enough that no attack fills the table.

Calls of a known consumer are stored, up to a number in a minute. Those of unauthenticated clients
are sampled by pipeline and problem.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

from penstock.db.rejected_calls import RejectedCall

SAMPLE_INTERVAL_S = 10.0  # between two samples of one pipeline and problem
MAX_QUEUED = 2_000
MAX_QUEUED_SAMPLES = 60
MAX_CALLS_OF_CONSUMER = 100  # in a minute
MAX_KINDS = 10_000  # pipelines and problems whose last sample is remembered
MINUTE_S = 60.0


class RejectedCalls:
    """Rejected calls of one environment that wait to be written."""

    def __init__(self) -> None:
        self._queued: deque[RejectedCall] = deque()
        self._samples = 0
        self._sampled_at: dict[tuple[str, str], float] = {}
        self._minute = 0
        self._by_consumer: dict[int, int] = {}
        self._last: dict[int, str] = {}  # id of the last call of a consumer that was kept
        self._left_out: dict[str, int] = {}  # calls after that one, by its id

    def accepts(self, pipeline: str, problem: str, consumer_id: int | None) -> bool:
        """Return whether the next call of this kind is stored, and count it."""
        if len(self._queued) >= MAX_QUEUED:
            return False
        now = time.monotonic()
        if consumer_id is not None:
            return self._accepts_consumer(consumer_id, int(now / MINUTE_S))
        kind = (pipeline, problem)
        if now - self._sampled_at.get(kind, float("-inf")) < SAMPLE_INTERVAL_S:
            return False
        if self._samples >= MAX_QUEUED_SAMPLES:
            return False
        if len(self._sampled_at) >= MAX_KINDS:
            self._sampled_at.clear()
        self._sampled_at[kind] = now
        return True

    def _accepts_consumer(self, consumer_id: int, minute: int) -> bool:
        if minute != self._minute:
            self._minute, self._by_consumer, self._last = minute, {}, {}
        number = self._by_consumer.get(consumer_id, 0)
        if number >= MAX_CALLS_OF_CONSUMER:
            last = self._last.get(consumer_id)
            if last is not None:
                self._left_out[last] = self._left_out.get(last, 0) + 1
            return False
        self._by_consumer[consumer_id] = number + 1
        return True

    def append(self, call: RejectedCall) -> None:
        """Queue a call that is accepted."""
        self._samples += call.consumer_id is None
        if call.consumer_id is not None:
            self._last[call.consumer_id] = call.id
        self._queued.append(call)

    def queued(self) -> Sequence[RejectedCall]:
        """Return the calls that wait; other threads may add to them meanwhile."""
        return [self._queued[index] for index in range(len(self._queued))]

    def left_out(self) -> dict[str, int]:
        """Return how many calls were not kept, by the id of the last kept one before them."""
        return dict(self._left_out)

    def written(self, number: int, left_out: Mapping[str, int]) -> None:
        """Remove the oldest calls, which were written, and counts that have been added up."""
        current = set(list(self._last.values()))  # noqa: C414  a copy: other threads add to it
        for last in left_out:
            if last not in current:  # its minute is over
                self._left_out.pop(last, None)
        for _ in range(number):
            self._samples -= self._queued.popleft().consumer_id is None
