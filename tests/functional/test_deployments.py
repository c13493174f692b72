"""Real processes report what they serve: several of one start are one deployment, a reload is the
next one, and those that have ended are gone."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import run
from support.durable import until
from support.place import Place, Server

PLUGIN = """
from penstock import HttpTrigger, Pipeline, hookimpl

__version__ = "{version}"
payments = Pipeline("payments", version="{version}", trigger=HttpTrigger(api_key=True))

@payments.post("/", mode="durable")
def pay(call) -> str:
    return "paid"

@hookimpl
def penstock_pipelines(): return [payments]
"""


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_start_and_a_reload_of_several_processes_are_two_deployments(
    place: Place, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    def processes(version: str) -> list[dict[str, object]]:
        """Return the processes that serve a version of the plugin."""
        rows = json.loads(run(place, "ps", "--env", "prod", "--format", "json").stdout)
        return [row for row in rows if f"payments {version}+" in str(row["plugins"])]

    def deployments() -> list[str]:
        listed = run(place, "deployments", "list", "--env", "prod", "--format", "json").stdout
        return [row["what_changed"] for row in json.loads(listed)]

    place.policy("api-key", "prod")
    folder = tmp_path / "prod-plugins"
    folder.mkdir()
    (folder / "payments.py").write_text(PLUGIN.format(version="2.3.0"))
    server = serve(place, "prod", workers=2, worker=1, PENSTOCK_PLUGIN_PATH=str(folder))
    until(lambda: len(processes("2.3.0")) == 3)

    started = processes("2.3.0")
    (folder / "payments.py").write_text(PLUGIN.format(version="2.3.1"))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: len(processes("2.3.1")) == 3 and not processes("2.3.0"))
    listed = deployments()
    server.stop()

    assert sorted(str(row["kind"]) for row in started) == ["serve", "serve", "worker"]
    assert {row["served"] for row in started} == {1}
    assert listed[1:] == ["first deployment"]
    assert listed[0].startswith("+payments 2.3.1+")
    assert run(place, "ps").stdout == "no process is alive\n"
