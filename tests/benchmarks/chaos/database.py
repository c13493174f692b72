"""Faults of the database: read only, away, cut off, behind PgBouncer, newer than the release."""

from __future__ import annotations

import os
import shutil
import signal
import time

from benchmarks.chaos.network import drop, drop_established
from benchmarks.chaos.site import WORKERS, Site
from benchmarks.chaos.traffic import GOOD
from benchmarks.chaos.trial import (
    POSTGRESQL,
    RECOVERY_S,
    SQLITE,
    NotPlayable,
    Trial,
    each,
    scenario,
    until,
)
from support.services import PgBouncer

from penstock.access import api_keys

ACTOR = "chaos"
CUT = "127.0.0.2"  # the address of the first host's database
SEEN_S = 10.0  # the README says within a second; the machine may be busy
NOTICED_S = 30.0  # the README says 15 s
LONGEST_IDLE = "interval '70 s'"  # of a transaction whose client is gone; the limit is 60 s
IDLE = (
    "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND now() -"
    f" state_change > {LONGEST_IDLE}"
)


def follows(trial: Trial, site: Site) -> None:
    """Hold that each host still follows the database: a new key is accepted, and rejected once
    it is revoked."""
    key = site.place.key("acme", site.environment)
    each(site.units, "accepts a new key", lambda unit: site.status_of(unit, key) == 200, SEEN_S)
    api_keys.revoke_key(site.place.engine, ACTOR, key.id)
    each(site.units, "rejects a revoked key", lambda unit: site.status_of(unit, key) == 401, SEEN_S)
    trial.expect(
        "the hosts are ready", held=all(unit.get("/-/ready")[0] == 200 for unit in site.units)
    )


@scenario(
    "h1",
    "PostgreSQL is read only for 20 s, as after a failover",
    "no change of access seen again, 503 for ever after 60 s; durable calls 500",
)
def read_only(trial: Trial) -> None:
    site = trial.site()
    runs = trial.runs(site)
    with trial.callers(site) as callers:
        runs.submit(5)
        submitting = runs.beside(20, rate=4)
        site.database.read_only(on=True)
        time.sleep(trial.seconds(20, 3))
        site.database.read_only(on=False)
        trial.recover(site)
        submitting.join()
        follows(trial, site)
    runs.finish()
    trial.expect("good calls are accepted all the time", held=callers.tally.failed == 0)
    trial.expect(
        "no thread has ended",
        held=not any("Exception in thread" in unit.log_text() for unit in site.units),
    )


@scenario(
    "h2",
    "a worker dies while the database is away; a host starts then",
    "host down for good, exit code 3, in 2 s; starts and upgrades exit 3 too",
    POSTGRESQL,
    SQLITE,
)
def worker_dies(trial: Trial) -> None:
    site = trial.site()
    runs = trial.runs(site)
    with trial.callers(site) as callers:
        runs.submit(5)
        if trial.database == POSTGRESQL:
            site.database.stop()
        for unit in site.units:
            os.kill(unit.web_workers()[0], signal.SIGKILL)
        each(
            site.units,
            "has replaced its worker",
            lambda unit: len(unit.web_workers()) == WORKERS,
            RECOVERY_S,
        )
        if trial.database == POSTGRESQL:
            late = site.host(2)
            late.start(wait=False)
            upgrade = site.run("db", "upgrade", PENSTOCK_DATABASE_URL=site.url(0))
            trial.expect(
                f"db upgrade exits 75 meanwhile, not {upgrade.returncode}",
                held=upgrade.returncode == 75,
            )
            time.sleep(trial.seconds(10, 2))
            site.database.start()
            until("a host that was started meanwhile serves", lambda: site.probe(late), RECOVERY_S)
        trial.recover(site)
    runs.submit(5)
    runs.finish()
    failed = callers.tally.unlike(GOOD, 200)
    trial.expect(
        f"calls fail only where the dead worker held them: {failed}",
        held=sum(failed.values()) <= 8 and 503 not in failed,
    )
    trial.expect("no serve has ended", held=not any(unit.codes for unit in site.units))


@scenario(
    "h4",
    "packets of a host's connections to PostgreSQL are dropped, new connections pass",
    "revoked key accepted for 59 s, then 503 until a restart; nothing logged",
)
def black_hole(trial: Trial) -> None:
    site = trial.site()
    runs = trial.runs(site)
    key = site.place.key("acme", site.environment)
    cut, other = site.units
    each(site.units, "accepts the key", lambda unit: site.status_of(unit, key) == 200, SEEN_S)
    with trial.callers(site) as callers:
        runs.submit(5)
        with drop_established(CUT, site.database.port):
            began = time.monotonic()
            api_keys.revoke_key(site.place.engine, ACTOR, key.id)
            each([other], "rejects the key", lambda unit: site.status_of(unit, key) == 401, SEEN_S)
            each([cut], "rejects the key", lambda unit: site.status_of(unit, key) == 401, NOTICED_S)
            took, logged = time.monotonic() - began, "database away" in cut.log_text()
            trial.recover(site)
    runs.submit(5)
    runs.finish()
    noticed = "it logs" if logged else "no line says"
    trial.notes.append(
        f"the host accepted the revoked key for {took:.1f} s more; {noticed} that the database was"
        " away"
    )
    trial.expect("good calls are accepted all the time", held=callers.tally.failed == 0)


@scenario(
    "h4b",
    "a host is cut off from PostgreSQL for 75 s with runs under way",
    "503 from 60 s on; sessions stay idle in transaction for 10 minutes",
)
def cut_off(trial: Trial) -> None:
    site = trial.site()
    runs = trial.runs(site)
    with trial.callers(site) as callers:
        submitting = runs.beside(40, rate=20)
        time.sleep(1)
        with drop(CUT, site.database.port):
            time.sleep(trial.seconds(75, 20))
            trial.expect(
                "no session of the lost host stays in a transaction",
                held=site.database.value(IDLE) == 0,
            )
        trial.recover(site)
        submitting.join()
        follows(trial, site)
    runs.finish()
    failed = callers.tally.unlike(GOOD, 200)
    trial.expect(
        f"good calls are 200, or 503 past the limit of staleness: {failed}",
        held=set(failed) <= {503},
    )


@scenario(
    "h10",
    "PgBouncer in transaction mode between hosts and PostgreSQL",
    "of 100 durable calls 88 accepted, 1 failed, 17 could not be looked up",
)
def bouncer(trial: Trial) -> None:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise NotPlayable("PgBouncer is not installed")
    site = trial.site(0)
    pooler = PgBouncer(program, site.database.url)
    trial.stack.callback(pooler.remove)
    site.settings |= {
        "PENSTOCK_DATABASE_URL": f"{pooler.url}/penstock",
        "PENSTOCK_DATABASE_DIRECT_URL": f"{site.database.url}/penstock",
    }
    site.start(2)
    runs = trial.runs(site)
    with trial.callers(site) as callers:
        runs.submit(int(trial.seconds(100, 20)), rate=20)
        runs.finish(60)
        follows(trial, site)
    logs = "".join(unit.log_text() for unit in site.units)
    for fault in ("DuplicatePreparedStatement", "InvalidSqlStatementName", "database away"):
        trial.expect(f"no {fault} in the logs", held=fault not in logs)
    tally = runs.tally
    trial.expect(
        f"every durable call is accepted at once: {dict(tally.answers)}",
        held=tally.unavailable == 0,
    )
    trial.expect("every good call is accepted", held=callers.tally.failed == 0)


@scenario(
    "h11",
    "the release before starts on a newer schema",
    "db upgrade ends in a traceback, exit 1: the unit stays down",
    POSTGRESQL,
    SQLITE,
)
def newer_schema(trial: Trial) -> None:
    site = trial.site()
    with site.place.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '29991231_later'")
    for words in (("db", "upgrade"), ("db", "current")):
        done = site.run(*words)
        trial.expect(f"{' '.join(words)} exits 0, not {done.returncode}", held=done.returncode == 0)
    for unit in site.units:
        unit.restart()
    trial.recover(site)
    with trial.callers(site) as callers:
        time.sleep(1)
    trial.expect("good calls are accepted", held=callers.tally.failed == 0)
