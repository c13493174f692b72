"""Samples of rejected calls: rows of the table `refusals`, few enough that no attack fills it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from penstock.db.rejected_calls import RejectedCall
from penstock.runs.ids import new_run_id
from penstock.runs.record_rows import fit_column

SAMPLE_INTERVAL_S = 10.0  # between two samples of one pipeline and problem
MAX_QUEUED_SAMPLES = 60
MAX_ADDRESS_LENGTH, MAX_REASON_LENGTH = 64, 255


class RefusalSamples:
    """Samples of one environment that wait to be written."""

    def __init__(self, environment_id: int) -> None:
        self._environment_id = environment_id
        self._queued: deque[RejectedCall] = deque(maxlen=MAX_QUEUED_SAMPLES)
        self._sampled_at: dict[tuple[str, str], float] = {}

    def add(
        self,
        pipeline: str,
        problem: str,
        *,
        address: str,
        reason: str | None,
        consumer_id: int | None,
    ) -> None:
        """Queue a sample of a rejected call, unless there was one of its kind just now."""
        now, kind = time.monotonic(), (pipeline, problem)
        if (
            now - self._sampled_at.get(kind, float("-inf")) < SAMPLE_INTERVAL_S
            or len(self._queued) >= MAX_QUEUED_SAMPLES
        ):
            return
        self._sampled_at[kind] = now
        self._queued.append(
            RejectedCall(
                id=new_run_id(),
                environment_id=self._environment_id,
                pipeline=pipeline,
                problem=problem,
                address=address[:MAX_ADDRESS_LENGTH],
                reason=fit_column(reason, MAX_REASON_LENGTH),
                consumer_id=consumer_id,
            )
        )

    def queued(self) -> Sequence[RejectedCall]:
        """Return the samples that wait; other threads may add to them meanwhile."""
        return [self._queued[index] for index in range(len(self._queued))]

    def written(self, number: int) -> None:
        """Remove the oldest samples, which were written."""
        for _ in range(number):
            self._queued.popleft()
