"""Metrics are read while other processes begin theirs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from penstock import metrics
from penstock.metrics.shared import VARIABLE


def test_a_file_whose_process_has_not_written_its_head_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    begun = tmp_path / "counter_1.db"
    begun.touch()
    written = threading.Timer(0.05, lambda: begun.write_bytes(bytes(1 << 16)))
    written.start()

    assert metrics.gauge_value("penstock_processes_waiting") is None
    assert begun.stat().st_size > 0
    written.join()
