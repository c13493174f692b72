"""Follow a durable run: print its steps, its progress and what it logs, as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from rich.console import Console
from rich.text import Text

from penstock.cli.run_view import COLOURS, left_out, log_line, step_title
from penstock.durable.run_view import RunView
from penstock.runs.step_records import StepRecord


class RunFollower:
    """Prints what is new of a run, and of the runs that it started, at each poll."""

    def __init__(self, show: Callable[[str], RunView], since: datetime | None) -> None:
        """Take what returns a run by its id; steps and lines before `since` are not printed."""
        self._show = show
        self._since = since
        self._console = Console(highlight=False)
        self._printed: set[tuple[str, object]] = set()
        self._ended: set[str] = set()
        self._progress: Mapping[str, object] | None = None

    def poll(self, run: str) -> RunView:
        """Print what is new, and the status of a run that has ended; return the run."""
        view = self._print_run(run, "")
        if view.progress and view.progress != self._progress:
            self._progress = view.progress
            done, of = view.progress["done"], view.progress["of"]
            whole = f" of {of:g}" if of is not None else ""
            text = f"      {done:g}{whole} {view.progress['note']}"
            self._console.print(Text(text, style="dim"))
        if view.is_finished:
            self._console.print(Text(view.status, style=COLOURS.get(view.status, "")))
        return view

    def _print_run(self, run: str, margin: str) -> RunView:
        """Print the lines and steps of a run; those of a child begin with its pipeline."""
        view = self._show(run)
        for line in view.log:
            if self._is_new(run, line, line.at):
                self._console.print(Text.assemble((margin, "dim"), log_line(line)))
        for place, step in enumerate(view.steps, 1):
            number = step.number or place
            ended_at = (view.started_at or view.at) + timedelta(milliseconds=step.at + step.ms)
            if _is_over(step, view) and self._is_new(run, number, ended_at):
                self._console.print(Text.assemble((margin, "dim"), _step_line(number, step)))
        for child in view.children or ():
            if child.id not in self._ended:
                self._print_run(child.id, f"{margin}{child.pipeline}  ")
        if view.is_finished:
            self._ended.add(run)
            if view.lines_left_out:
                self._console.print(Text(f"{margin}{left_out(view.lines_left_out)}", style="dim"))
        return view

    def _is_new(self, run: str, what: object, at: datetime) -> bool:
        """Return whether something is to be printed, and note that it was."""
        key = (run, what)
        if key in self._printed or (self._since is not None and at < self._since):
            return False
        self._printed.add(key)
        return True


def _is_over(step: StepRecord, view: RunView) -> bool:
    """Return whether a step will not change: an interrupted one is repeated while the run runs."""
    interrupted = bool(step.attempts) and step.attempts[-1].interrupted
    return not step.running and (view.is_finished or not interrupted)


def _step_line(number: int, step: StepRecord) -> Text:
    title = f"{number:>4}  {step_title(step)}"
    if step.copied:
        return Text(f"{title}  copied", style="dim")
    last = step.attempts[-1] if step.attempts else None
    if last is not None and last.interrupted:
        return Text(f"{title}  {step.ms:.1f} ms  interrupted", style="yellow")
    error = f"  {last.error}" if step.failed and last is not None else ""
    return Text(f"{title}  {step.ms:.1f} ms{error}", style="red" if step.failed else "")
