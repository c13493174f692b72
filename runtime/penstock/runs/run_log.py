"""Keep what plugin code logs within a run, beside the record of the run.

Lines come from the threads of calls, already without credentials and of limited length. A run keeps
MAX_LINES of them in each process; what follows is counted, and one line stands for all of it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from penstock.contracts.sanitize import clean_text
from penstock.db import run_log_lines
from penstock.db.engine import Engine
from penstock.db.failures import DatabaseUnavailable
from penstock.db.run_log_lines import LogLine
from penstock.runs.failures import Clean

MAX_LINES = 500  # of one run in a process
MAX_TEXT = 2_000  # characters of a line
# characters that are searched for secrets; a secret cut there is cut off again at MAX_TEXT
MAX_SEARCHED = 3 * MAX_TEXT
MAX_QUEUED = 10_000  # lines that wait to be written
MAX_RUNS = 5_000  # runs whose lines are counted
BATCH_SIZE = 1_000
MAX_LOGGER = 64
# The fields of a line that are columns, or that every line of the process has.
NO_TEXT = frozenset(
    {"event", "timestamp", "level", "logger", "run", "pipeline", "environment", "host", "pid"}
)
LEFT_OUT = "further lines of this run are not kept"


@dataclass(slots=True)
class _Count:
    """How many lines a run has logged in this process, and how many of them were left out.

    `line` stands for those, None without any.
    """

    lines: int = 0
    left_out: int = 0
    line: LogLine | None = None


class RunLog:
    """The lines of one environment's runs in this process that wait to be written."""

    def __init__(self, clean_of: Callable[[str], Clean]) -> None:
        """Take what returns the cleaner of texts of a pipeline, by its id."""
        self._clean_of = clean_of
        self._queued: deque[tuple[str, LogLine]] = deque()
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._changed: set[str] = set()  # runs with more lines left out than the database knows
        self._lock = threading.Lock()

    def keep(self, fields: Mapping[str, Any]) -> None:
        """Queue a line of the log that has `run` and `pipeline` among its fields."""
        run, pipeline = str(fields["run"]), str(fields.get("pipeline", ""))
        with self._lock:
            count = self._counts.setdefault(run, _Count())
            count.lines += 1
            number = count.lines
            while len(self._counts) > MAX_RUNS:
                forgotten, _ = self._counts.popitem(last=False)
                self._changed.discard(forgotten)
            if number > MAX_LINES or len(self._queued) >= MAX_QUEUED:
                self._leave_out(run, count)
                return
        line = LogLine(
            run,
            int(time.time() * 1e6),
            number,
            clean_text(str(fields.get("level", "info")))[:8],
            clean_text(str(fields.get("logger", "")))[:MAX_LOGGER],
            clean_text(_text(fields))[:MAX_SEARCHED],
        )
        self._queued.append((pipeline, line))

    def _leave_out(self, run: str, count: _Count) -> None:
        count.left_out += 1
        if count.line is None:
            count.line = LogLine(run, int(time.time() * 1e6), count.lines, "info", "", LEFT_OUT)
        self._changed.add(run)

    def write(self, engine: Engine) -> None:
        """Write the lines that wait, without the sensitive values of their pipelines.

        A line that can't be written is dropped. Raises DatabaseUnavailable; the lines stay queued
        then.
        """
        for _ in range(MAX_QUEUED // BATCH_SIZE):
            batch = [self._queued[index] for index in range(min(BATCH_SIZE, len(self._queued)))]
            if not batch:
                break
            self._store(engine, batch)
            for _item in batch:
                self._queued.popleft()
        self._write_left_out(engine)

    def _write_left_out(self, engine: Engine) -> None:
        with self._lock:
            counts = [self._counts[run] for run in self._changed]
            lines = [
                replace(count.line, left_out=count.left_out)
                for count in counts
                if count.line is not None
            ]
        if lines:
            self._store(engine, [("", line) for line in lines])
            with self._lock:
                self._changed -= {
                    line.run_id
                    for line in lines
                    if self._counts.get(line.run_id, _Count()).left_out == line.left_out
                }

    def _store(self, engine: Engine, batch: Sequence[tuple[str, LogLine]]) -> None:
        try:
            run_log_lines.write(engine, [self._cleaned(*item) for item in batch])
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  one bad line must not stop the others, or the counts
            if len(batch) > 1:
                for item in batch:
                    self._store(engine, [item])
            else:
                structlog.get_logger("penstock").exception("run record not taken")

    def _cleaned(self, pipeline: str, line: LogLine) -> LogLine:
        if line.left_out is not None:
            return line
        return replace(line, text=self._clean_of(pipeline)(line.text)[:MAX_TEXT])


def _text(fields: Mapping[str, Any]) -> str:
    """Return the event with its fields, and the traceback below."""
    named = {
        name: value
        for name, value in fields.items()
        if name not in NO_TEXT and name not in {"exception", "stack"}
    }
    text = " ".join(
        [str(fields.get("event", "")), *(f"{name}={value}" for name, value in named.items())]
    )
    trace = fields.get("exception") or fields.get("stack")
    return f"{text}\n{trace}" if trace else text
