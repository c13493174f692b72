"""The trial of `make chaos` in short: kill -9 of each kind of process, access taken away on two hosts, faults of a database and an operator."""

from __future__ import annotations

import os

import pytest
from benchmarks.chaos import database, kills, plugins, revocations
from benchmarks.chaos.trial import POSTGRESQL, SCENARIOS, SQLITE, play, row
from kit import initdb

MODULES = (database, kills, plugins, revocations)  # each registers its scenarios


@pytest.mark.timeout(400)  # real processes on a busy machine
@pytest.mark.parametrize(("name", "kind"), [("kills", POSTGRESQL), ("revocations", POSTGRESQL), ("h3", SQLITE)])
def test_a_host_survives(name: str, kind: str) -> None:
    if kind == POSTGRESQL and initdb() is None:
        _ = pytest.fail("PostgreSQL is missing") if os.environ.get("CI") == "true" else pytest.skip("PostgreSQL is not installed")

    trial = play(SCENARIOS[name], kind, short=True)

    assert not trial.broken, row(trial)
    assert (trial.lost, trial.twice) == (0, 0)
    assert trial.calls > 0
