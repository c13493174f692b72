"""How old a revocation is when the last call is accepted that it should have rejected."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.chaos.site import ENVIRONMENT, Site, Unit
from benchmarks.chaos.trial import Trial, scenario, until

from penstock.access import api_keys, consumers

ACTOR = "chaos"
CONSUMER = "partner"
ROUNDS, SHORT_ROUNDS = 50, 1  # of each kind of change, one of which is an operator's command
WATCHERS = 2  # threads for each host, so that each of its processes is asked
PAUSE_S = 0.02
WATCHED_S, LONGEST_S = 0.8, 15.0  # so long after the last accepted call, and at most
# The README's second; what a busy machine may need: all processes read the change at once.
PROMISED_S, BUSY_S = 1.0, 5.0
SEEN_S = 30.0
ACCEPTED = 200
KEYED = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

keyed = Pipeline("keyed", version="1.0.0", trigger=HttpTrigger(api_key=True))

@keyed.get("/")
def quick(call: Call) -> str: return "keyed"

@hookimpl
def penstock_pipelines(): return [keyed]
"""


@dataclass(frozen=True)
class Change:
    """A way to take access away, as a function and as a command, what calls are answered then,
    and how access is given back."""

    name: str
    status: int
    apply: Callable[[Site, str], object]
    command: Callable[[str], tuple[str, ...]]
    undo: Callable[[Site], object]


def _enable(site: Site, *, enabled: bool) -> None:
    consumers.set_consumer_enabled(site.place.engine, ACTOR, CONSUMER, enabled=enabled)


CHANGES = (
    Change(
        "revoke key",
        401,
        lambda site, key_id: api_keys.revoke_key(site.place.engine, ACTOR, key_id),
        lambda key_id: ("key", "revoke", key_id),
        lambda site: None,
    ),
    Change(
        "dissociate",
        403,
        lambda site, _: site.place.dissociate(CONSUMER, "keyed", env=ENVIRONMENT),
        lambda _: ("consumer", "dissociate", CONSUMER, "v1/keyed", "--env", ENVIRONMENT),
        lambda site: site.place.associate(CONSUMER, "keyed", env=ENVIRONMENT),
    ),
    Change(
        "disable consumer",
        403,
        lambda site, _: _enable(site, enabled=False),
        lambda _: ("consumer", "disable", CONSUMER),
        lambda site: _enable(site, enabled=True),
    ),
    Change(
        "policy",
        503,
        lambda site, _: site.place.policy("jwt-api-key", ENVIRONMENT),
        lambda _: ("policy", "set", ENVIRONMENT, "jwt-api-key", "--yes"),
        lambda site: site.place.policy("api-key", ENVIRONMENT),
    ),
)


class Watch:
    """Threads that call every host all the time, and note when the last accepted call began and
    what others were answered."""

    def __init__(self, units: list[Unit], key: str) -> None:
        self._headers = {"X-API-Key": key}
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(unit,), daemon=True)
            for unit in units
            for _ in range(WATCHERS)
        ]
        self.began: list[tuple[float, int]] = []
        self.last = 0.0  # when the last accepted call began
        for thread in self._threads:
            thread.start()

    def _work(self, unit: Unit) -> None:
        while not self._done.is_set():
            began = time.monotonic()
            try:
                status, _ = unit.get("/v1/keyed/", self._headers)
            except (OSError, http.client.HTTPException):
                status = 0
            self.began.append((began, status))
            if status == ACCEPTED:
                self.last = max(self.last, began)
            self._done.wait(PAUSE_S)  # the callers must not be the load

    def end(self) -> None:
        """Call no more."""
        self._done.set()
        for thread in self._threads:
            thread.join()


def _measure(trial: Trial, site: Site, change: Change, *, by_command: bool) -> float:
    """Return how many seconds after a change its last accepted call began, 0 where none did."""
    key = site.place.key(CONSUMER, ENVIRONMENT)
    headers = {"X-API-Key": key.key}
    accepted = lambda: all(  # noqa: E731  a question asked again
        unit.get("/v1/keyed/", headers)[0] == 200 for unit in site.units for _ in range(3)
    )
    until("all hosts accept the key", accepted, SEEN_S)
    watch = Watch(site.units, key.key)
    time.sleep(0.2)
    if by_command:
        done = site.run(*change.command(key.id))
        trial.expect(f"the command succeeds: {done.stderr}", held=done.returncode == 0)
    else:
        change.apply(site, key.id)
    changed = time.monotonic()
    while (
        watch.last < changed + LONGEST_S and time.monotonic() < max(watch.last, changed) + WATCHED_S
    ):
        time.sleep(PAUSE_S)
    watch.end()
    age = max(0.0, watch.last - changed)
    rejected = {status for began, status in watch.began if began > max(watch.last, changed)}
    trial.expect(
        f"{change.name}: calls are answered {change.status} then, not {rejected}",
        held=rejected == {change.status},
    )
    trial.calls += len(watch.began)
    change.undo(site)
    return age


@scenario(
    "revocations",
    "access is taken away on two hosts under load: key revoked, consumer dissociated or disabled,"
    " policy changed",
    "48 changes: none accepted after its command returned, 27 ms after the commit in the median",
)
def revocations(trial: Trial) -> None:
    site = trial.site(0)
    site.place.plugin("keyed", KEYED)
    site.place.policy("api-key", ENVIRONMENT)
    site.place.consumer(CONSUMER, "keyed", env=ENVIRONMENT)
    site.start(2)
    ages: dict[bool, list[float]] = {False: [], True: []}
    with trial.callers(site, rate=20) as callers:
        for count in range(SHORT_ROUNDS if trial.short else ROUNDS):
            for number, change in enumerate(CHANGES, 1):
                by_command = (count + number) % len(CHANGES) == 0
                ages[by_command].append(_measure(trial, site, change, by_command=by_command))
    for by_command, what in ((False, "the commit"), (True, "the command returned")):
        trial.notes.append(
            f"age of the last accepted call since {what}: {_quantiles(ages[by_command])}"
        )
    load, _, _ = os.getloadavg()
    trial.notes.append(f"the machine: {os.cpu_count()} processors, a load of {load:.0f}")
    longest = max(max(found) for found in ages.values())
    promised = PROMISED_S if load <= 2 * (os.cpu_count() or 1) and not trial.short else BUSY_S
    trial.expect(
        f"every change reaches every process within {promised:g} s, not {longest:.2f} s",
        held=longest <= promised,
    )
    trial.expect(
        f"good calls of others are accepted all the time: {callers.tally.failed}",
        held=callers.tally.failed == 0,
    )


def _quantiles(ages: list[float]) -> str:
    ages = sorted(ages)
    p50, p99 = (ages[int(share * (len(ages) - 1))] * 1000 for share in (0.5, 0.99))
    none = sum(age == 0.0 for age in ages)
    return (
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, p100 {ages[-1] * 1000:.0f} ms over {len(ages)}"
        f" changes, {none} without any"
    )
