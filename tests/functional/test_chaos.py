"""The trial of `make chaos` in short: kill -9 of each kind of process, and access taken away on
two hosts."""

from __future__ import annotations

import os

import pytest
from benchmarks.chaos import kills, revocations
from benchmarks.chaos.trial import POSTGRESQL, SCENARIOS, play, row
from support.services import initdb

# Each registers its scenarios; test_hosts.py has the faults of databases and operators.
MODULES = (kills, revocations)


@pytest.mark.timeout(400)  # real processes on a busy machine
@pytest.mark.parametrize(("name", "kind"), [("kills", POSTGRESQL), ("revocations", POSTGRESQL)])
def test_a_host_survives(name: str, kind: str) -> None:
    if kind == POSTGRESQL and initdb() is None:
        _ = (
            pytest.fail("PostgreSQL is missing")
            if os.environ.get("CI") == "true"
            else pytest.skip("PostgreSQL is not installed")
        )

    trial = play(SCENARIOS[name], kind, short=True)

    assert not trial.broken, row(trial)
    assert (trial.lost, trial.twice) == (0, 0)
    assert trial.calls > 0
