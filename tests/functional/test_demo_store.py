"""The demo's own table, on both databases, when several ask at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from penstock_demo.store import Store

ADD = """
import sys
from penstock_demo.store import Store
input()
assert Store(sys.argv[1]).add("acme", sys.argv[2], sys.argv[2], b"{}")
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_table_is_made_once_by_processes_that_start_together(
    new_database: Callable[[str], str], kind: str
) -> None:
    url = new_database(kind)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, url, f"PO-{number}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    time.sleep(1)  # all have imported what they need and wait for the word
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0] * 4, ended
    with closing(Store(url)) as store:
        assert len(store.page("acme", 50, None) or []) == 4


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_one_reference_is_taken_once_however_many_ask_at_a_time(
    new_database: Callable[[str], str], kind: str
) -> None:
    with closing(Store(new_database(kind))) as store, ThreadPoolExecutor(8) as pool:
        taken = list(
            pool.map(lambda number: store.add("acme", f"id-{number}", "PO-1", b"{}"), range(8))
        )

    assert sorted(taken) == [False] * 7 + [True]
