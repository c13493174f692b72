"""The timeline of a run as rows: waiting for a worker, then each step with its attempts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.console.formatting import duration
from penstock.durable.run_view import RunView
from penstock.durable.status import attempts_of
from penstock.runs.step_records import Attempt, StepRecord

OUTCOMES = {
    "good": "succeeded",
    "bad": "failed",
    "wait": "waiting",
    "sleep": "sleeping",
    "running": "running",
    "interrupted": "interrupted",
    "copied": "copied",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a row of the timeline, in seconds after the call was received."""

    start: float
    end: float
    kind: str  # a key of OUTCOMES
    title: str
    error: str = ""

    @property
    def outcome(self) -> str:
        """The outcome in a word."""
        return OUTCOMES[self.kind]


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """A row of the timeline: waiting for a worker, or a step with its attempts.

    `number` is that of the step for a re-run from it, 0 where there is none. A `copied` step has
    the result that it had in the run that this one repeats.
    """

    name: str
    label: str
    note: str
    segments: Sequence[Segment]
    number: int = 0
    errors: Sequence[str] = ()
    copied: bool = False


def timeline(run: RunView) -> tuple[list[TimelineRow], float]:
    """Return the rows of a run's timeline, and its length in seconds."""
    waited = (run.waited_ms or 0) / 1000
    if run.durable and run.started_at is None and not run.is_finished:
        waited = max(0.0, time.time() - run.at.timestamp())
    rows = list[TimelineRow]()
    if run.durable:
        text = f"waited {duration(waited)} for a worker"
        rows.append(TimelineRow("queue", "", text, [Segment(0, waited, "wait", text)]))
    rows += [_row(step, index, waited) for index, step in enumerate(run.steps, 1)]
    whole = max((segment.end for row in rows for segment in row.segments), default=0.0)
    return rows, max(whole, (run.ms or 0) / 1000 + waited, 1e-6)


def _row(step: StepRecord, index: int, waited: float) -> TimelineRow:
    name, attempts = f"{step.number or index} {step.name}", attempts_of(step)
    if step.copied:
        note = f"took {duration(step.ms / 1000)} there{', failed' if step.failed else ''}"
        segments = [Segment(0, 0, "copied", f"{name}: copied")]
        return TimelineRow(name, step.label, note, segments, step.number, copied=True)
    segments = _segments(step, attempts, waited)
    errors = [
        f"Attempt {number}, after {duration(attempt.at / 1000)}: {error}"
        for number, attempt in enumerate(attempts, 1)
        if step.attempts and (error := _error_of(attempt))
    ]
    return TimelineRow(name, step.label, _note(step, attempts), segments, step.number, errors)


def _error_of(attempt: Attempt) -> str:
    if attempt.interrupted:
        return attempt.error or "interrupted, because its worker ended"
    return attempt.error


def _note(step: StepRecord, attempts: Sequence[Attempt]) -> str:
    """Return how long a step took, in how many attempts, and what became of it."""
    note = f"{'running for ' if step.running else ''}{duration(step.ms / 1000)}"
    note += f", {len(attempts)} attempts" if len(attempts) > 1 else ""
    if step.failed:
        return f"{note}, failed"
    return f"{note}, interrupted" if _is_interrupted(step, attempts) else note


def _is_interrupted(step: StepRecord, attempts: Sequence[Attempt]) -> bool:
    return not step.running and bool(attempts) and attempts[-1].interrupted


def _segments(step: StepRecord, attempts: Sequence[Attempt], waited: float) -> list[Segment]:
    """Return the attempts of a step as segments; between two of a running step it waits."""
    segments = list[Segment]()
    for number, attempt in enumerate(attempts, 1):
        last = number == len(attempts)
        kind = _kind(step, attempt, last=last)
        start, end = waited + attempt.at / 1000, waited + (attempt.at + attempt.ms) / 1000
        took = f"{'for' if kind == 'running' else 'took'} {duration(attempt.ms / 1000)}"
        title = f"{step.name}: started after {duration(attempt.at / 1000)}, {took}"
        title += "" if kind in {"good", "sleep"} else f", {OUTCOMES[kind]}"
        segments.append(Segment(start, end, kind, title, _error_of(attempt)))
        if step.running and last and kind != "running":
            now = waited + (step.at + step.ms) / 1000
            segments.append(Segment(end, now, "wait", f"{step.name}: waits for its next attempt"))
    return segments


def _kind(step: StepRecord, attempt: Attempt, *, last: bool) -> str:
    if attempt.interrupted:
        return "interrupted"
    if attempt.error:
        return "bad"
    if step.running and last:
        return "running"
    return "sleep" if step.name == "sleep" else "good"
