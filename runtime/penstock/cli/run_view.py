"""Print one run: its head, its failure and its steps as a waterfall."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.durable.status import attempts_of, span_of
from penstock.runs.failures import Failure
from penstock.runs.steps import StepRecord

COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "client_error": "yellow",
    "cancelled": "yellow",
}


BAR = 40  # characters of a waterfall; half as many where a line has fewer than


WIDE = 110


SAID = (
    "consumer", "subject", "request_id", "parent", "redelivers", "problem", "detail", "progress",
    "waits_for", "unreadable", "callback_url",
    "callback_status",
)  # fmt: skip


def print_run(shown: dict[str, Any]) -> None:
    """Print a run for people."""
    console = Console(highlight=False)
    head = Table.grid(padding=(0, 2))
    status = Text(shown["status"], style=COLOURS.get(shown["status"], ""))
    if shown["http_status"]:
        status.append(f" ({shown['http_status']})", style="dim")
    rows: list[tuple[str, object]] = [
        ("run", shown["id"]),
        ("status", status),
        ("pipeline", f"{shown['pipeline']} {shown['version']}  {shown['route']}"),
        ("came", f"{shown['at']:%Y-%m-%d %H:%M:%S.%f}"[:-3] + f"Z in {shown['environment']}"),
        ("took", f"{shown['ms']:.1f} ms" if shown["ms"] is not None else None),
        ("taken over", f"{shown['recoveries']} times" if shown.get("recoveries") else None),
    ]
    rows += [(name.replace("_", " "), shown[name]) for name in SAID if shown.get(name)]
    for name, value in rows:
        if value is None:
            continue
        head.add_row(
            Text(name, style="dim"), value if isinstance(value, Text) else Text(str(value))
        )
    console.print(head)
    if shown["failure"]:
        _print_failure(console, shown["failure"])
    if shown["steps"]:
        console.print(_waterfall(shown["steps"], console.width))
    for child in shown["children"]:
        console.print(
            Text(f"started {child['id']}  {child['pipeline']} {child['route']}  {child['status']}")
        )
    if shown["bodies"]:
        console.print_json(data=shown["bodies"])


def _print_failure(console: Console, failure: Failure, because: str = "failed with") -> None:
    console.print(Text.assemble((because, "dim"), " ", (f"{failure.type}: {failure.text}", "red")))
    for frame in failure.frames:
        console.print(Text(f"  {frame.file}:{frame.line} in {frame.function}"))
    for cause in failure.causes:
        _print_failure(console, cause, "because of")


def _waterfall(steps: list[StepRecord], width: int) -> Table:
    """Return the steps, each attempt as a bar on the run's time."""
    room = BAR if width >= WIDE else BAR // 2
    whole = span_of(steps)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    numbers = max(len(str(step.number or number)) for number, step in enumerate(steps, 1))
    for column in ("#", "step", "attempts", "ms", "", "error"):
        right, least = (
            column in {"#", "attempts", "ms"},
            {"#": numbers, "attempts": 8, "ms": 7}.get(column),
        )
        table.add_column(
            column,
            justify="right" if right else "left",
            no_wrap=column not in {"step", "error"},
            overflow="fold",
            min_width=least,
        )
    for number, step in enumerate(steps, 1):
        bar = Text(" " * room)
        for attempt in attempts_of(step):
            first = min(room - 1, int(attempt.at / whole * room))
            last = min(room, max(first + 1, round((attempt.at + attempt.ms) / whole * room)))
            bar = (
                bar[:first]
                + Text("█" * (last - first), style="red" if attempt.error else "green")
                + bar[last:]
            )
        error = next((attempt.error for attempt in reversed(step.attempts) if attempt.error), "")
        table.add_row(
            str(step.number or number),
            step.name,
            str(max(1, len(step.attempts))),
            f"{step.ms:.1f}",
            bar,
            Text(error, style="red"),
        )
    return table
