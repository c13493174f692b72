"""Metrics are read while other processes begin theirs."""

from __future__ import annotations

import subprocess
import sys
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


def test_threads_that_use_metrics_first_at_the_same_moment_find_a_whole_library() -> None:
    """In a process of its own: the library is imported once."""
    code = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
sys.setswitchinterval(1e-6)
from penstock import metrics
barrier = threading.Barrier(8)

def use(number):
    barrier.wait()
    if number % 2:
        metrics.count_calls("v1/shop", "succeeded", 1)
    else:
        metrics.gauge_value("penstock_processes_waiting")

with ThreadPoolExecutor(8) as pool:
    list(pool.map(use, range(8)))
assert b'v1/shop",} 4.0' in metrics.render()[0] or b'pipeline="v1/shop"} 4.0' in metrics.render()[0]
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
