"""A backup is put back under running hosts: they answer 503 for a moment, and then by what the
database says (H5)."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.chaos.database import ACTOR, SEEN_S, follows
from benchmarks.chaos.site import Site
from benchmarks.chaos.traffic import GOOD, Callers, kinds_of
from benchmarks.chaos.trial import Trial, each, scenario

from penstock.access import api_keys
from penstock.access.api_keys import NewKey

TRIES = 20
REVISION = "TABLE DATA public revision "


def _seen(site: Site, key: NewKey) -> None:
    """Wait until all hosts have seen the last change, a new key."""
    each(site.units, "accepts the key", lambda unit: site.status_of(unit, key) == 200, SEEN_S)


def _run(trial: Trial, site: Site, *words: str, **settings: str) -> None:
    done = site.run(*words, **settings)
    trial.expect(
        f"`penstock {' '.join(words[:2])}` succeeds: {done.stderr.strip()[-200:]}",
        held=done.returncode == 0,
    )


def _until_restored(site: Site, dump: Path) -> int:
    """Restore in one transaction, and return how often that was tried: PostgreSQL may end it for
    a deadlock with what the hosts read."""
    for tries in range(1, TRIES + 1):
        try:
            site.database.restore(
                dump, "penstock", "--clean", "--if-exists", "--single-transaction"
            )
        except AssertionError as error:
            if "deadlock" not in str(error) or tries == TRIES:
                raise
        else:
            break
    return tries


def _count(trial: Trial, callers: Callers) -> None:
    failed = callers.tally.unlike(GOOD, 200)
    trial.expect(
        f"good calls are 200 or 503 meanwhile, never 401: {failed}", held=set(failed) <= {503}
    )


@scenario(
    "h5a",
    "a backup is restored, and its revision then passes the hosts'",
    "a revoked key accepted for ever, 16 of 16, hosts ready",
)
def restored_past(trial: Trial) -> None:
    site = trial.site()
    dump = trial.folder / "backup"
    first = site.place.key("acme", site.environment)
    site.database.dump(dump)
    _seen(site, site.place.key("acme", site.environment))
    there = f"{site.database.url}/restored"
    changes = [
        ("key", "revoke", first.id),
        ("variable", "set", "one", "1", "--env", site.environment),
        ("variable", "set", "two", "2", "--env", site.environment),
    ]
    with trial.callers(site, kinds=kinds_of(site)[:1]) as callers:
        site.place.engine.dispose()
        site.database.drop()
        site.database.run("CREATE DATABASE restored")
        site.database.restore(dump, "restored")
        for words in changes:
            _run(trial, site, *words, PENSTOCK_DATABASE_URL=there)
        time.sleep(trial.seconds(3, 1))
        site.database.run("ALTER DATABASE restored RENAME TO penstock")
        trial.recover(site)
        time.sleep(2)
        accepted = sum(site.status_of(unit, first) == 200 for unit in site.units for _ in range(8))
        trial.expect(
            f"the key that is revoked there is rejected: accepted {accepted} of 16",
            held=accepted == 0,
        )
        follows(trial, site)
    _count(trial, callers)


@scenario(
    "h5b",
    "a backup is restored in several transactions",
    "341 of 404 good calls failed, good tokens rejected for ever, ready",
)
def restored_slowly(trial: Trial) -> None:
    site = trial.site()
    dump, early, late = (trial.folder / name for name in ("backup", "early", "late"))
    site.database.dump(dump)
    _seen(site, site.place.key("acme", site.environment))
    contents = site.database.contents(dump)
    at = 1 + next(number for number, line in enumerate(contents) if REVISION in line)
    early.write_text("\n".join(contents[:at]))
    late.write_text("\n".join(contents[at:]))
    with trial.callers(site, kinds=kinds_of(site)[:1]) as callers:
        site.place.engine.dispose()
        site.database.restore(
            dump, "penstock", "--clean", "--if-exists", "-L", str(early), check=False
        )
        time.sleep(trial.seconds(5, 2))  # what a large table takes
        site.database.restore(dump, "penstock", "-L", str(late), check=False)
        trial.recover(site)
        _run(trial, site, "db", "restored")
        trial.recover(site)
        follows(trial, site)
    _count(trial, callers)


@scenario("h5c", "a backup is restored in one transaction", "good keys 401 for half a second")
def restored_at_once(trial: Trial) -> None:
    site = trial.site()
    dump = trial.folder / "backup"
    first = site.place.key("acme", site.environment)
    _seen(site, first)
    site.database.dump(dump)
    second = site.place.key("acme", site.environment)
    api_keys.revoke_key(site.place.engine, ACTOR, first.id)
    _seen(site, second)
    with trial.callers(site, kinds=kinds_of(site)[:1]) as callers:
        site.place.engine.dispose()
        tries = _until_restored(site, dump)
        trial.recover(site)
        each(
            site.units,
            "rejects a key that the backup lacks",
            lambda unit: site.status_of(unit, second) == 401,
            SEEN_S,
        )
        each(
            site.units,
            "accepts a key that is good in the backup",
            lambda unit: site.status_of(unit, first) == 200,
            SEEN_S,
        )
        follows(trial, site)
    trial.notes.append(
        f"pg_restore was tried {tries} times, until there was no deadlock with what the hosts read"
    )
    _count(trial, callers)
