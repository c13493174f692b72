"""Print one run: its head, its failure and its steps as a waterfall."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.durable.run_view import LoggedLine, RunView
from penstock.durable.status import attempts_of, span_of
from penstock.runs.failures import Failure
from penstock.runs.step_records import StepRecord

COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "client_error": "yellow",
    "cancelled": "yellow",
}


# Characters of a bar; half as many if the terminal has fewer columns than WIDE_TERMINAL.
BAR_WIDTH = 40
WIDE_TERMINAL = 110


OPTIONAL_FIELDS = (
    "consumer", "key", "key_id", "subject", "request_id", "parent", "redelivers", "problem",
    "detail", "progress", "waits_for", "unreadable", "callback_url", "callback_status",
)  # fmt: skip


def print_run(run: RunView) -> None:
    """Print a run for people."""
    console = Console(highlight=False)
    console.print(_head(run))
    if run.failure:
        _print_failure(console, run.failure)
    if run.steps:
        console.print(_waterfall(run.steps, console.width))
    for line in run.log:
        console.print(log_line(line))
    if run.lines_left_out:
        console.print(Text(left_out(run.lines_left_out), style="dim"))
    for child in run.children or ():
        console.print(Text(f"started {child.id}  {child.pipeline} {child.route}  {child.status}"))
    if run.bodies:
        console.print_json(data=run.bodies)


def _head(run: RunView) -> Table:
    """Return the facts of a run as a table of names and values."""
    head = Table.grid(padding=(0, 2))
    status = Text(run.status, style=COLOURS.get(run.status, ""))
    if run.http_status:
        status.append(f" ({run.http_status})", style="dim")
    rows: list[tuple[str, object]] = [
        ("run", run.id),
        ("status", status),
        ("pipeline", f"{run.pipeline} {run.version}  {run.route}"),
        ("received", f"{run.at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + f"Z in {run.environment}"),
        ("waited", f"{run.waited_ms:.1f} ms for a worker" if run.waited_ms else None),
        ("duration", f"{run.ms:.1f} ms" if run.ms is not None else None),
        ("recovered", f"{run.recoveries} times" if run.recoveries else None),
    ]
    rows += [
        (name.replace("_", " "), value) for name in OPTIONAL_FIELDS if (value := getattr(run, name))
    ]
    if run.from_step:
        rows.append(("from step", f"{run.from_step}, with the results of that run's earlier steps"))
    for name, value in rows:
        if value is None:
            continue
        head.add_row(
            Text(name, style="dim"), value if isinstance(value, Text) else Text(str(value))
        )
    return head


def log_line(line: LoggedLine) -> Text:
    """Return a line that plugin code logged, for people."""
    moment = f"{line.at:%H:%M:%S.%f}"[:-3]
    return Text.assemble(
        (f"{moment} {line.level:<7} ", "dim"), f"{line.text}  ", (line.logger, "dim")
    )


def left_out(number: int) -> str:
    """Return how many log lines of a run were not kept, in words."""
    return f"{number} further {'line was' if number == 1 else 'lines were'} not kept"


def step_title(step: StepRecord) -> str:
    """Return the name of a step with its label."""
    return f"{step.name} {step.label}".rstrip()


def _print_failure(console: Console, failure: Failure, label: str = "failed with") -> None:
    console.print(Text.assemble((label, "dim"), " ", (f"{failure.type}: {failure.text}", "red")))
    for frame in failure.frames:
        console.print(Text(f"  {frame.file}:{frame.line} in {frame.function}"))
    for cause in failure.causes:
        _print_failure(console, cause, "caused by")


def _waterfall(steps: Sequence[StepRecord], width: int) -> Table:
    """Return a table of steps, with each attempt as a bar on the time of the run."""
    room = BAR_WIDTH if width >= WIDE_TERMINAL else BAR_WIDTH // 2
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
        bar = _bar(step, room, whole)
        table.add_row(
            str(step.number or number),
            Text(step_title(step), style="dim" if step.copied else ""),
            str(max(1, len(step.attempts))),
            f"{step.ms:.1f}",
            bar,
            _remark(step),
        )
    return table


def _remark(step: StepRecord) -> Text:
    """Return what became of a step, where that is not plain: its last error among others."""
    if step.copied:
        return Text("copied from the run that this one repeats", style="dim")
    if step.running:
        return Text("running", style="cyan")
    interrupted = sum(attempt.interrupted for attempt in step.attempts)
    error = next((attempt.error for attempt in reversed(step.attempts) if attempt.error), "")
    if not interrupted:
        return Text(error, style="red")
    times = "" if interrupted == 1 else f" {interrupted} times"
    remark = f"{error}; interrupted{times}" if error else f"interrupted{times}"
    return Text(remark, style="yellow")


def _bar(step: StepRecord, room: int, whole: float) -> Text:
    """Return the attempts of a step as one bar of `room` characters for `whole` milliseconds."""
    bar = Text(" " * room)
    for attempt in attempts_of(step) if not step.copied else ():
        first = min(room - 1, int(attempt.at / whole * room))
        last = min(room, max(first + 1, round((attempt.at + attempt.ms) / whole * room)))
        style = "yellow" if attempt.interrupted else "red" if attempt.error else "green"
        block = Text(("░" if step.running else "█") * (last - first), style=style)
        bar = bar[:first] + block + bar[last:]
    return bar
