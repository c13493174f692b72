"""What a scenario is, what it counts, and the table of all that were played."""

# ruff: noqa: T201  the result

from __future__ import annotations

import shutil
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.chaos.site import Site, Unit
from benchmarks.chaos.traffic import Callers, Kind, Runs, kinds_of

POSTGRESQL, SQLITE = "postgresql", "sqlite"
RECOVERY_S = 60.0  # a host that needs longer than this has not recovered by itself
LOOK_S = 0.1
LONGEST = 500  # characters of a promise, with what was seen


class NotPlayable(Exception):
    """This machine can't cause the fault; the text says what is missing."""


@dataclass
class Trial:
    """One scenario on one database: its processes, figures and broken promises. `short` is the
    form for CI."""

    name: str
    database: str
    short: bool = False
    calls: int = 0
    failed: int = 0
    recovered_s: float | None = None
    accepted: int | None = None
    lost: int = 0
    twice: int = 0
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    missing: str = ""
    _callers: list[Callers] = field(default_factory=list)
    _runs: list[Runs] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="penstock-chaos-")))

    def site(self, hosts: int = 2, *, data: Path | None = None, **settings: str) -> Site:
        """Start a database and hosts on it; SQLite serves one host. They end with the trial."""
        number = hosts if self.database == POSTGRESQL else min(hosts, 1)
        site = Site(self.database, self.folder, settings, data)
        self.stack.callback(site.close)
        site.start(number)
        return site

    def expect(self, promise: str, *, held: bool) -> None:
        """Note a promise that was broken."""
        if not held:
            self.broken.append(promise[:LONGEST])

    def seconds(self, long: float, short: float) -> float:
        """Return how long a fault lasts."""
        return short if self.short else long

    def recover(self, site: Site) -> None:
        """Wait until every host answers calls and accepts durable runs; the fault ends now."""
        began = time.monotonic()
        each(site.units, "answers and accepts again", site.probe, RECOVERY_S)
        self.recovered_s = max(self.recovered_s or 0.0, time.monotonic() - began)

    def callers(
        self, site: Site, *, kinds: list[Kind] | None = None, rate: float = 60.0
    ) -> Callers:
        """Return callers of all hosts, whose answers count: none may be wrong."""
        self._callers.append(Callers(site, kinds or kinds_of(site), rate=rate))
        return self._callers[-1]

    def runs(self, site: Site) -> Runs:
        """Return durable runs that count: none may be lost once it is accepted, and nothing be
        performed twice."""
        self._runs.append(Runs(site))
        return self._runs[-1]

    def count(self) -> None:
        """Add the figures of callers and runs, and hold them against what no fault may touch."""
        for callers in self._callers:
            tally = callers.tally
            self.calls, self.failed = self.calls + tally.calls, self.failed + tally.failed
            self.expect(
                f"no answer is wrong: {len(tally.wrong)} are, {tally.wrong[:3]}",
                held=not tally.wrong,
            )
        for runs in self._runs:
            verdict, tally = runs.judge(), runs.tally
            self.accepted = (self.accepted or 0) + verdict.accepted
            self.lost, self.twice = self.lost + len(verdict.lost), self.twice + len(verdict.twice)
            self.expect(f"no accepted run is lost: {verdict.lost[:3]}", held=not verdict.lost)
            self.expect(
                f"no stored step and no call is performed twice: {verdict.twice[:3]}",
                held=not verdict.twice,
            )
            self.expect(
                f"durable calls are answered 202 or 503: {tally.wrong[:3]}", held=not tally.wrong
            )

    def close(self) -> None:
        """End all processes; the folder stays where a promise was broken."""
        self.stack.close()
        if self.broken:
            self.notes.append(f"logs: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Scenario:
    """A fault, what was measured before it was corrected, and how it is played."""

    name: str
    fault: str
    before: str
    play: Callable[[Trial], None]
    databases: tuple[str, ...] = (POSTGRESQL,)


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, fault: str, before: str, *databases: str
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Register a function as a scenario."""

    def register(play: Callable[[Trial], None]) -> Callable[[Trial], None]:
        SCENARIOS[name] = Scenario(name, fault, before, play, databases or (POSTGRESQL,))
        return play

    return register


def until(what: str, holds: Callable[[], object], seconds: float) -> float:
    """Wait until something holds, and return after how many seconds it did. Raises
    AssertionError."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if holds():
            return time.monotonic() - began
        time.sleep(LOOK_S)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def each(units: Iterable[Unit], what: str, holds: Callable[[Unit], object], seconds: float) -> None:
    """Wait until something holds of every host. Raises AssertionError."""
    for unit in units:
        until(f"{unit.name} {what}", partial(holds, unit), seconds)


def play(item: Scenario, database: str, *, short: bool = False) -> Trial:
    """Play a scenario; an exception is a broken promise."""
    trial = Trial(item.name, database, short)
    try:
        for part in (partial(item.play, trial), trial.count):
            _play(trial, part)
    finally:
        trial.close()
    return trial


def _play(trial: Trial, part: Callable[[], None]) -> None:
    try:
        part()
    except NotPlayable as error:
        trial.missing = str(error)
    except AssertionError as error:
        trial.broken.append(str(error))
    except Exception as error:  # noqa: BLE001  the other scenarios are still played
        trial.broken.append(f"ended early: {error!r}")
        with (trial.folder / "trace").open("a") as trace:
            trace.write(traceback.format_exc())


HEAD = (
    f"{'fault':14}{'calls':>7}{'failed':>7}{'s to recover':>13}"
    f"{'accepted':>9}{'lost':>5}{'twice':>6}"
    "  held"
)


def row(trial: Trial) -> str:
    """Return a trial's row of the table, and below it what it was before and which promises were
    broken."""
    item = SCENARIOS[trial.name]
    where = f"{trial.name} {trial.database[:8]}"
    recovered = "-" if trial.recovered_s is None else f"{trial.recovered_s:.1f}"
    accepted = "-" if trial.accepted is None else str(trial.accepted)
    held = f"not played: {trial.missing}" if trial.missing else "NO" if trial.broken else "yes"
    figures = (
        f"{where:14.20}{trial.calls:7}{trial.failed:7}{recovered:>13}{accepted:>9}{trial.lost:5}{trial.twice:6}"
        f"  {held}"
    )
    more = [
        item.fault,
        f"before: {item.before}",
        *trial.notes,
        *(f"BROKEN: {promise}" for promise in trial.broken),
    ]
    return "\n".join(
        [figures, *(textwrap.indent(textwrap.fill(text, 130), "    ") for text in more)]
    )


def show(trials: Iterable[Trial]) -> bool:
    """Print the rows of trials as they come, and return whether all promises held."""
    held = True
    print(HEAD, flush=True)
    for trial in trials:
        print(row(trial), flush=True)
        held = held and not trial.broken
    return held
