"""What needs attention in some environments, grouped by cause: a line each, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from penstock.console.context import EnvironmentView, console_context
from penstock.gate.compliance import State
from penstock.host.served import ServedEnvironment

MAX_NAMES = 6  # pipelines that a line names


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause and what it concerns; `until` is when the oldest grace period of it ends."""

    kind: str  # bad or warn
    word: str
    text: str
    fix: str
    subjects: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    until: float | None = None

    @property
    def names(self) -> str:
        """The subjects: the first by name, the others as a number."""
        shown, more = self.subjects[:MAX_NAMES], len(self.subjects) - MAX_NAMES
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def causes_of(places: Iterable[tuple[EnvironmentView, ServedEnvironment]]) -> list[Cause]:
    """Return the causes in some environments: blocked pipelines first, warnings last."""
    grouped: dict[tuple[str, str, str, str], Cause] = {}
    for view, served in places:
        for cause in _causes(view, served):
            key = cause.kind, cause.word, cause.text, cause.fix
            grouped[key] = _joined(grouped.get(key), cause)
    return sorted(grouped.values(), key=lambda cause: (cause.kind != "bad", -len(cause.subjects)))


def _joined(first: Cause | None, second: Cause) -> Cause:
    if first is None:
        return second
    ends = [cause.until for cause in (first, second) if cause.until is not None]
    return Cause(
        second.kind,
        second.word,
        second.text,
        second.fix,
        tuple(dict.fromkeys((*first.subjects, *second.subjects))),
        tuple(dict.fromkeys((*first.environments, *second.environments))),
        min(ends, default=None),
    )


def _causes(view: EnvironmentView, served: ServedEnvironment) -> Iterator[Cause]:
    place = (view.name,)
    for item in served.in_state(State.BLOCKED, State.NON_CONFORMANT):
        internal = " (internal)" if item.listener == "internal" else ""
        subject = (f"{item.pipeline}{internal}",)
        kind = "bad" if item.state is State.BLOCKED else "warn"
        for violation in item.violations:
            yield Cause(
                kind,
                item.state.value,
                # The line names the environments; without this each would have its own line.
                violation.reason.replace(f" of environment '{view.name}'", ""),
                violation.fix,
                subject,
                place,
                item.until,
            )
    for problem in served.problems:
        subject = (problem.pipeline or problem.plugin,)
        yield Cause("bad", "plugin error", problem.problem, problem.fix, subject, place)
    for row in console_context().unreadable_rows(view):
        text = f"{row}. This row grants nothing, and what it restricts is closed"
        fix = "set the value again, or correct the row"
        yield Cause("bad", "unreadable", text, fix, ("Access data",), place)
    for item in served.pipelines:
        for text in item.warnings:
            yield Cause("warn", "warning", text, "", (item.pipeline,), place)
