"""Kill -9 of any process, and restarts of PostgreSQL, under calls and durable runs: no accepted
run is lost, no answer is wrong."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress

from benchmarks.chaos.site import STAYS_DOWN, Site, Unit
from benchmarks.chaos.traffic import GOOD, Callers, Runs
from benchmarks.chaos.trial import POSTGRESQL, SQLITE, Trial, each, scenario, until

KILLS, CALLS, DURABLE = 50, 5_000, 1_000
SHORT = 4, 200, 40
RATE, DURABLE_RATE = 45.0, 8.0
RESTARTS = ("fast", "immediate", "kill")
PEACE_S = 60.0
ROLES = {"web worker": 4, "durable worker": 3, "gunicorn master": 2, "serve": 2}


def victims(unit: Unit, role: str) -> list[int]:
    """Return the processes of a role that a host has now."""
    if role == "serve":
        return [unit.serve.pid] if unit.serve.poll() is None else []
    found = {
        "web worker": unit.web_workers,
        "durable worker": unit.durable_workers,
        "gunicorn master": unit.masters,
    }
    return found[role]()


def kill(site: Site, role: str, chance: random.Random) -> None:
    """Kill a process of a role on any host; one may have to come first."""
    end = time.monotonic() + PEACE_S
    while time.monotonic() < end:
        if pids := victims(chance.choice(site.units), role):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                return
        time.sleep(0.1)
    raise AssertionError(f"no {role} came back within {PEACE_S:g} s")


def restart(site: Site, mode: str, seconds: float) -> None:
    """Stop PostgreSQL, and start it after a while."""
    site.database.stop(mode)
    time.sleep(seconds)
    site.database.start()


@scenario(
    "kills",
    f"{KILLS} x kill -9 of any process during {CALLS} calls and {DURABLE} durable runs; PostgreSQL"
    " restarts three times (fast, immediate, kill -9)",
    "20 kills of durable workers alone during 1,000 runs: 0 lost",
    POSTGRESQL,
    SQLITE,
)
def kills(trial: Trial) -> None:
    number, calls, durable = SHORT if trial.short else (KILLS, CALLS, DURABLE)
    site = trial.site()
    runs, chance, killed = trial.runs(site), random.Random(), Counter[str]()
    roles = list(ROLES)
    restarts = [RESTARTS[-1]] if trial.short else list(RESTARTS)
    due = (
        {number * (index + 1) // (len(restarts) + 1): mode for index, mode in enumerate(restarts)}
        if trial.database == POSTGRESQL
        else {}
    )
    with trial.callers(site, rate=RATE) as callers:
        submitting = runs.beside(durable, rate=trial.seconds(DURABLE_RATE, 20))
        for count in range(number):
            time.sleep(chance.uniform(0.5, trial.seconds(4, 1)))
            role = (
                roles[count]
                if count < len(roles)
                else chance.choices(roles, list(ROLES.values()))[0]
            )
            kill(site, role, chance)
            killed[role] += 1
            if mode := due.get(count):
                restart(site, mode, chance.uniform(1, trial.seconds(5, 1)))
                killed[f"PostgreSQL {mode}"] += 1
        until("all durable calls are accepted", lambda: not submitting.is_alive(), 600)
        until("all calls are made", lambda: callers.tally.calls >= calls, 600)
        trial.recover(site)
        each(site.units, "has all its processes", Unit.whole, PEACE_S)
    runs.finish()
    trial.expect(
        "no serve ended in a way that keeps it down",
        held=not any(STAYS_DOWN & set(unit.codes) for unit in site.units),
    )
    trial.expect(
        f"all durable calls are accepted: {len(runs.accepted)} of {durable}",
        held=len(runs.accepted) == durable,
    )
    _tell(trial, site, callers, runs, killed)


def _tell(trial: Trial, site: Site, callers: Callers, runs: Runs, killed: Counter[str]) -> None:
    """Note the figures."""
    tally, rejected = callers.tally, Counter[str]()
    for (kind, answer), number in tally.answers.items():
        rejected[str(answer)] += number if kind != GOOD else 0
    accepting = {answer: number for (_, answer), number in runs.tally.answers.items()}
    unanswered = f"{tally.unavailable} x 503, {tally.unreached} while a process was dead"
    trial.notes += [
        "killed: " + ", ".join(f"{number} x {role}" for role, number in killed.items()),
        (
            f"calls: {tally.calls}, {len(tally.wrong)} wrong, {unanswered}; the longest took"
            f" {tally.longest_s:.1f} s"
        ),
        (
            f"good calls: 200 but for {tally.unlike(GOOD, 200)}; calls to be rejected:"
            f" {dict(sorted(rejected.items()))}"
        ),
        f"durable calls: {len(runs.accepted)} accepted, answers {accepting}",
        f"steps under way when their worker died, and performed again: {runs.judge().interrupted}",
        "exit codes of serve, each restarted: "
        + ", ".join(f"{unit.name} {unit.codes}" for unit in site.units),
    ]
