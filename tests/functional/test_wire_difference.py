"""The same bytes to stock gunicorn and to our server: what they answer differently stands in a
table, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from wire.compare import Gunicorn, compare
from wire.differences import REASONS, reason
from wire.generator import cases

REQUESTS = 1500
OURS = "penstock.server.worker.Worker"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with Gunicorn("gthread", tmp_path_factory.mktemp("stock")) as server:
        yield server


@pytest.mark.parametrize(("application", "seed"), [("app", 20261126), ("heads_first", 1)])
def test_our_server_differs_from_stock_gunicorn_for_a_reason_alone(
    stock: Gunicorn, tmp_path: Path, application: str, seed: int
) -> None:
    with Gunicorn(OURS, tmp_path, application=application) as ours:
        differences = compare(cases(seed, REQUESTS), stock, ours)

    unexplained = [difference for difference in differences if reason(difference) is None]
    assert not unexplained, [(item.case.pieces, item.stock, item.ours) for item in unexplained[:3]]
    assert set(Counter(map(reason, differences))) <= set(REASONS)
    assert "Traceback" not in ours.log.read_text()
