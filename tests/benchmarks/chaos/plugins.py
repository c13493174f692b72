"""Faults of plugins and of reloads (H3, H7, H8, H12)."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.chaos.site import Site, Unit
from benchmarks.chaos.traffic import GOOD, Callers, kinds_of
from benchmarks.chaos.trial import POSTGRESQL, RECOVERY_S, SQLITE, Trial, each, scenario

SEEN_S = 10.0
STOP_S = 20.0
HELD = 8  # calls that a killed worker may have had, on two hosts


def _needy(site: Site, unit: Unit) -> int:
    return unit.get("/v1/needy/", site.good)[0]


def _none_ended(trial: Trial, site: Site) -> None:
    trial.expect("no serve has ended", held=not any(unit.codes for unit in site.units))


@scenario(
    "h3",
    "STRICT: an operator unsets what a pipeline needs, then a worker dies",
    "host down for good, exit code 3, with all pipelines",
    POSTGRESQL,
    SQLITE,
)
def strict(trial: Trial) -> None:
    site = trial.site()
    runs = trial.runs(site)
    with trial.callers(site) as callers:
        site.run("variable", "unset", "region", "--env", site.environment)
        each(site.units, "blocks the pipeline", lambda unit: _needy(site, unit) == 503, SEEN_S)
        for unit in site.units:
            os.kill(unit.web_workers()[0], signal.SIGKILL)
            os.kill(unit.durable_workers()[0], signal.SIGKILL)
        each(site.units, "has replaced its workers", Unit.whole, RECOVERY_S)
        runs.submit(5)
        runs.finish(RECOVERY_S)
        site.run("variable", "set", "region", "eu", "--env", site.environment)
        trial.recover(site)
        each(
            site.units, "serves the pipeline again", lambda unit: _needy(site, unit) == 200, SEEN_S
        )
    _none_ended(trial, site)
    failed = callers.tally.unlike(GOOD, 200)
    trial.expect(
        f"calls fail only where the dead worker held them: {failed}",
        held=sum(failed.values()) <= HELD and 503 not in failed,
    )


@scenario(
    "h7",
    "a broken plugin blocks a reload, on both hosts",
    "accepted runs performed by no worker, hosts ready, until a reload succeeds",
    POSTGRESQL,
    SQLITE,
)
def broken_plugin(trial: Trial) -> None:
    site = trial.site()
    runs = trial.runs(site)
    with trial.callers(site) as callers:
        broken = site.place.plugin("broken", "def x(:\n")
        for unit in site.units:
            unit.reload()
        each(
            site.units,
            "does not reload",
            lambda unit: "not reloaded" in unit.log_text(),
            RECOVERY_S,
        )
        runs.submit(10)
        runs.finish(RECOVERY_S)
        trial.expect("accepted runs are performed meanwhile", held=not runs.judge().lost)
        broken.unlink()
        for unit in site.units:
            unit.reload()
        trial.recover(site)
        time.sleep(trial.seconds(10, 5))
        runs.submit(5)
        runs.finish(RECOVERY_S)
    _none_ended(trial, site)
    trial.expect(
        f"good calls are accepted all the time: {callers.tally.unlike(GOOD, 200)}",
        held=callers.tally.failed == 0,
    )


@scenario(
    "h8",
    "a plugin hangs while it is imported at a reload; workers die; then the host is stopped",
    "SIGTERM without effect for 60 s, dead workers not replaced, durable worker gone",
    POSTGRESQL,
    SQLITE,
)
def hanging_plugin(trial: Trial) -> None:
    # A worker that is replaced imports the plugin too, and is waited for so long.
    site = trial.site(PENSTOCK_GRACEFUL_TIMEOUT="8")
    runs = trial.runs(site)
    with trial.callers(site) as callers:
        hanging = site.place.plugin("hanging", "import time; time.sleep(3600)\n")
        for unit in site.units:
            unit.reload()
        time.sleep(3)
        runs.submit(5)
        runs.finish(RECOVERY_S)
    trial.expect(
        f"good calls are accepted all the time: {callers.tally.unlike(GOOD, 200)}",
        held=callers.tally.failed == 0,
    )
    trial.expect("accepted runs are performed meanwhile", held=not runs.judge().lost)
    for unit in site.units:
        os.kill(unit.web_workers()[0], signal.SIGKILL)
        began = time.monotonic()
        code = unit.stop()
        took = time.monotonic() - began
        trial.expect(f"{unit.name} stops within {STOP_S:g} s, not {took:.1f} s", held=took < STOP_S)
        trial.expect(f"{unit.name} exits 0, not {code}", held=code == 0)
    hanging.unlink()
    for unit in site.units:
        unit.start()
    trial.recover(site)


@scenario(
    "h12",
    "three reloads of each host under load",
    "1 of 29,459 calls lost, 7 of 12,717 with keep-alive; the longest took 0.7 to 3.5 s",
    POSTGRESQL,
    SQLITE,
)
def reloads(trial: Trial) -> None:
    site = trial.site()
    runs = trial.runs(site)
    good = kinds_of(site)[:1]
    rate = trial.seconds(200, 40)
    with (
        trial.callers(site, kinds=good, rate=rate) as callers,
        Callers(site, good, rate=rate / 4, keep_alive=True) as kept,
    ):
        submitting = runs.beside(1000, rate=2)
        for done in range(int(trial.seconds(3, 1))):
            for unit in site.units:
                unit.reload()
                count = 2 * (done + 1)
                each(
                    [unit],
                    "has reloaded",
                    lambda unit, count=count: unit.log_text().count("Worker exiting") >= count,
                    RECOVERY_S,
                )  # type: ignore[misc]  # bound now
                time.sleep(1)
        runs.end()
        submitting.join()
        trial.recover(site)
    runs.finish(RECOVERY_S)
    failed = kept.tally.unlike(GOOD, 200)
    trial.notes.append(
        f"the longest call took {callers.tally.longest_s:.1f} s; on kept connections, which may be"
        f" closed while they are idle, {kept.tally.failed} of {kept.tally.calls} failed: {failed}"
    )
    trial.expect(
        f"no call on a connection of its own fails: {callers.tally.unlike(GOOD, 200)}",
        held=callers.tally.failed == 0,
    )
    trial.expect(
        f"at most one in a thousand fails on kept ones: {failed}",
        held=kept.tally.failed <= 1 + kept.tally.calls / 1000,
    )
