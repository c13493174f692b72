"""Stops, another secret key, and a full disk (H9, H6, and the last row of the trial's table)."""

from __future__ import annotations

import http.client
import threading
import time
from pathlib import Path

from benchmarks.chaos.network import small_disk
from benchmarks.chaos.site import Site, Unit
from benchmarks.chaos.traffic import Runs, kinds_of
from benchmarks.chaos.trial import POSTGRESQL, SQLITE, Trial, scenario

from penstock.access.encryption import SecretBox, make_secret_key

GRACE_S = 8
# A call to a host that stops takes no longer: it is answered, or the connection is refused.
HANGS_S = 3.0
DISK_KB = 20_000


def _slow(site: Site, unit: Unit, seconds: float, answers: list[object]) -> None:
    try:
        answers.append(unit.get(f"/v1/trial/slow?seconds={seconds}", site.good, timeout=60)[0])
    except (OSError, http.client.HTTPException) as error:
        answers.append(type(error).__name__)


@scenario(
    "h9",
    f"a host is stopped with calls in flight, within and past a grace of {GRACE_S} s",
    "new calls hang 18 s, then 502; calls past the grace end without an answer",
    POSTGRESQL,
    SQLITE,
)
def stop(trial: Trial) -> None:
    site = trial.site(PENSTOCK_GRACEFUL_TIMEOUT=str(GRACE_S))
    runs = trial.runs(site)
    leaving = site.units[0]
    within: list[object] = []
    past: list[object] = []
    runs.submit(10, rate=50)
    calls = [
        threading.Thread(target=_slow, args=(site, leaving, GRACE_S / 2, within)) for _ in range(3)
    ]
    calls += [
        threading.Thread(target=_slow, args=(site, leaving, GRACE_S * 2.5, past)) for _ in range(3)
    ]
    for call in calls:
        call.start()
    time.sleep(0.5)
    stopping = threading.Thread(target=leaving.stop)
    stopping.start()
    time.sleep(1)
    took: list[float] = []
    while stopping.is_alive():
        began = time.monotonic()
        status = site.status(leaving, timeout=30)
        took.append(time.monotonic() - began)
        trial.expect(
            f"a new call is refused or answered 200 or 503, not {status}",
            held=status in {0, 200, 503},
        )
        time.sleep(0.2)
    for call in [*calls, stopping]:
        call.join()
    trial.calls += len(took) + len(calls)
    trial.expect(f"no new call hangs: the longest took {max(took):.1f} s", held=max(took) < HANGS_S)
    trial.expect(f"calls within the grace end with 200: {within}", held=within == [200] * 3)
    trial.expect(
        f"calls past the grace are answered 503 at its end: {past}", held=past == [503] * 3
    )
    trial.failed += sum(answer != 200 for answer in within)
    trial.expect(
        f"serve exits 0, not {leaving.serve.returncode}", held=leaving.serve.returncode == 0
    )
    leaving.start()
    trial.recover(site)
    runs.finish(60)


def _durable_calls(trial: Trial, site: Site, runs: Runs, unit: Unit) -> None:
    """Have calls accepted by one host; the worker of any host may take them."""
    runs.submit(10, rate=20, units=[unit])
    runs.finish(60)
    verdict = runs.judge()
    trial.expect(
        f"all runs that {unit.name} accepted succeed: {verdict.lost[:2]}", held=not verdict.lost
    )
    trial.recover(site)


@scenario(
    "h6",
    "PENSTOCK_SECRET_KEY is changed, in the wrong order and in the right one",
    "5 of 10 accepted runs failed for good; no re-sealing",
)
def secret_key(trial: Trial) -> None:
    site = trial.site()
    first, second = site.units
    old, new = site.place.secret, make_secret_key()
    site.place.box = SecretBox((new, old))  # the trial itself reads what any host has sealed
    runs = trial.runs(site)
    with trial.callers(site):
        first.restart(PENSTOCK_SECRET_KEY=f"{new},{old}")
        _durable_calls(trial, site, runs, first)
        for key in (f"{old},{new}", f"{new},{old}"):
            for unit in site.units:
                unit.restart(PENSTOCK_SECRET_KEY=key)
            _durable_calls(trial, site, runs, second)
    sealed = site.run("secret-key", "rotate", PENSTOCK_SECRET_KEY=f"{new},{old}")
    trial.expect(
        f"`penstock secret-key rotate` succeeds: {sealed.stderr.strip().splitlines()[-1:]}",
        held=sealed.returncode == 0,
    )
    if sealed.returncode == 0:
        for unit in site.units:
            unit.restart(PENSTOCK_SECRET_KEY=new)
        _durable_calls(trial, site, runs, second)


@scenario(
    "disk",
    "the disk of the database is full for 15 s",
    "durable 503, 103 of 103; calls 0 failed of 311; 77 of 77 runs",
    SQLITE,
)
def full_disk(trial: Trial) -> None:
    folder = trial.folder / "disk"
    trial.stack.enter_context(small_disk(folder, DISK_KB))
    site = trial.site(data=folder)
    runs = trial.runs(site)
    filler = folder / "filler"
    with trial.callers(site, kinds=kinds_of(site)) as callers:
        runs.submit(10)
        submitting = runs.beside(30, rate=5)
        _fill(filler)
        before = runs.tally.unavailable
        time.sleep(trial.seconds(15, 3))
        _fill(filler)
        disabled = site.run("consumer", "disable", "other")
        trial.notes.append(
            f"while it was full: durable calls 503: {runs.tally.unavailable - before}; consumer"
            f" disable exits {disabled.returncode}"
        )
        filler.unlink()
        trial.recover(site)
        submitting.join()
    runs.finish(60)
    trial.expect(
        f"good calls are accepted all the time: {dict(callers.tally.answers)}",
        held=callers.tally.failed == 0,
    )


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            pass
