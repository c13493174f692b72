"""Reloads and restarts of two hosts behind real proxies, with the configuration of
docs/examples, fail no call. `make rolling` is the long form."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.rolling import VARIANTS, prepared, trial
from conftest import CI
from support.place import Place


@pytest.fixture
def postgres_place(new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
    yield place
    place.engine.dispose()


def test_reloads_and_rolling_restarts_fail_no_call(postgres_place: Place) -> None:
    variants = [VARIANTS[0], VARIANTS[3]]
    for program in {variant.proxy for variant in variants}:
        if shutil.which(program) is None:
            _ = (
                pytest.fail(f"{program} is missing, and CI must not skip")
                if CI
                else pytest.skip(f"{program} is not installed")
            )

    results = trial(
        postgres_place,
        prepared(postgres_place),
        variants,
        calls=750,
        restarts=1,
        between=0.5,
        pause=0.05,
    )

    assert [result.failed for result in results] == [Counter()] * 2
    assert all(result.reloads for result in results)
    assert max(result.wait for result in results) < 15
