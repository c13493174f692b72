"""Reloads and restarts of two hosts behind real proxies, with the configuration of docs/examples, fail no call. `make rolling` is the long form."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.rolling import VARIANTS, Variant, prepared, trial
from conftest import CI
from kit import Place


@pytest.fixture
def postgres_place(new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
    yield place
    place.engine.dispose()


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[3]], ids=lambda variant: variant.proxy)
def test_reloads_and_rolling_restarts_fail_no_call(postgres_place: Place, variant: Variant) -> None:
    if shutil.which(variant.proxy) is None:
        _ = pytest.fail(f"{variant.proxy} is missing, and CI must not skip") if CI else pytest.skip(f"{variant.proxy} is not installed")

    result = trial(postgres_place, prepared(postgres_place), variant, calls=750, restarts=1, pause=0.05)

    assert result.calls >= 750
    assert result.restarts >= 2
    assert result.reloads >= 1
    assert not result.failed, result.failed
    assert result.wait < 10
