"""A host whose folder of metrics is gone keeps working: it follows the database and writes the
records of its runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
from support.durable import until
from support.place import Place, Server

from penstock.access import api_keys

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

plain = Pipeline("plain", version="1.0.0", trigger=HttpTrigger(api_key=True))

@plain.get("/")
def quick(call: Call) -> str: return "quick"

@hookimpl
def penstock_pipelines(): return [plain]
"""


def test_a_worker_without_a_folder_for_metrics_sees_changes_of_access_and_records_runs(
    sqlite_place: Place, serve: Callable[..., Server], tmp_path: Path
) -> None:
    place, folder = sqlite_place, tmp_path / "metrics"
    folder.mkdir()
    place.policy("api-key")
    place.plugin("plain", PLUGIN)
    place.consumer("acme", "plain")
    kept, revoked = place.key("acme"), place.key("acme")
    server = serve(place, PROMETHEUS_MULTIPROC_DIR=str(folder))

    def status(key: str) -> int:
        try:
            return httpx.get(
                f"{server.url}/v1/plain/", headers={"X-API-Key": key}, timeout=20
            ).status_code
        except httpx.HTTPError:  # the worker has just died
            return 0

    while folder.exists():  # a process may write a file meanwhile
        shutil.rmtree(folder, ignore_errors=True)
    (worker,) = re.findall(r"Booting worker with pid: (\d+)", server.log.read_text())
    os.kill(int(worker), signal.SIGKILL)

    until(lambda: status(revoked.key) == 200)
    api_keys.revoke_key(place.engine, "tester", revoked.id)
    until(lambda: status(revoked.key) == 401)
    assert status(kept.key) == 200
    until(lambda: place.run("runs", "list", "--format", "json").stdout.count('"succeeded"') >= 2)
    assert "a thread failed" not in server.log.read_text()
