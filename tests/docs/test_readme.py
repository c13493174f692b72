"""The README is true: its first plugin runs as printed, and its map names files that exist."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import httpx
import pytest
from support.place import ROOT
from support.services import free_port

from penstock import HttpTrigger, Pipeline
from penstock.testing import Runtime

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^#+ ", README.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("kind", [HttpTrigger, Pipeline])
def test_every_option_of_a_declaration_is_listed(kind: type) -> None:
    rows = section("What a plugin can say").partition(f"| `{kind.__name__}(")[2].split("\n\n")[0]
    listed = {
        name for line in rows.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])
    }

    assert listed == set(inspect.signature(kind).parameters) - {"name"}


def test_the_map_names_what_is_there() -> None:
    paths: list[str] = []
    folder = ""
    for line in section("The way of a call, and the map of this tree").split("```")[1].splitlines():
        match = re.match(r"( *)(\S+)  +\S", line)
        if match is None:
            continue
        folder = folder if match[1] else ""
        paths.append(folder + match[2])
        folder = match[2] if match[2].endswith("/") and not match[1] else folder

    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_lint_rules_know_every_plugin_that_ships() -> None:
    shipped = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = {contract["id"]: contract for contract in configured["importlinter"]["contracts"]}

    assert set(configured["importlinter"]["root_packages"]) == {"penstock", *shipped}
    assert set(configured["mypy"]["packages"]) == {"penstock", *shipped}
    assert set(contracts["core-imports-no-plugin"]["forbidden_modules"]) == shipped
    assert set(contracts["plugins-use-the-surface"]["source_modules"]) == shipped
    assert set(contracts["plugins-are-independent"]["modules"]) == shipped
    assert all((ROOT / "plugins" / name / "README.md").is_file() for name in shipped)
    assert all(list((ROOT / "plugins" / name).glob("test_*.py")) for name in shipped)


def test_plugins_may_use_no_room_of_the_core_but_its_surface() -> None:
    rooms = {
        f"penstock.{path.stem}"
        for path in (ROOT / "runtime" / "penstock").iterdir()
        if not path.name.startswith("_")
    }
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    (contract,) = [
        contract
        for contract in configured["contracts"]
        if contract["id"] == "plugins-use-the-surface"
    ]

    assert set(contract["forbidden_modules"]) == rooms - {"penstock.testing", "penstock.py"}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose `penstock` is ours, in an empty folder."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    yield kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PENSTOCK_BIND": f"127.0.0.1:{port}",
        "PORT": str(port),
    }
    for process in (tmp_path / "pid").read_text().split() if (tmp_path / "pid").exists() else ():
        os.kill(int(process), 15)
    for _ in range(100):
        try:
            httpx.get(f"http://127.0.0.1:{port}/-/health", timeout=1)
            time.sleep(0.1)
        except httpx.HTTPError:
            break


def test_the_first_plugin_runs_as_it_stands(tmp_path: Path, shell: dict[str, str]) -> None:
    first = section("Your first plugin")
    (plugin,) = re.findall(r"```python\n(.*?)```", first, re.DOTALL)
    (script,) = re.findall(r"```sh\n(.*?)```", first, re.DOTALL)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greeting.py").write_text(plugin, encoding="utf-8")
    script = script.replace("8000", shell["PORT"]).replace(
        "serve --env test &", "serve --env test >log 2>&1 & echo $! > pid"
    )

    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('{"text":"Hello Ann, says acme"}')
    assert len([line for line in plugin.splitlines() if line.strip()]) <= 20


def test_the_first_test_passes_as_it_stands(tmp_path: Path, shell: dict[str, str]) -> None:
    (plugin,) = re.findall(r"```python\n(.*?)```", section("Your first plugin"), re.DOTALL)
    (test,) = re.findall(r"```python\n(.*?)```", section("Test your plugin"), re.DOTALL)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greeting.py").write_text(plugin, encoding="utf-8")
    (tmp_path / "plugins" / "test_greeting.py").write_text(test, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error"],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


class Bank(BaseHTTPRequestHandler):
    """A bank that is away at first, each time."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(503 if self.asked.count(self.path) == 1 else 200)
        self.end_headers()
        self.wfile.write(b'{"rate": 1.25}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_durable_pipeline_runs_as_it_stands(penstock_runtime: Callable[..., Runtime]) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", section("Runs"), re.DOTALL)
    plugin = ModuleType("rates_of_the_readme")
    sys.modules[plugin.__name__] = plugin  # dataclasses look there
    exec(compile(source, "README.md", "exec"), plugin.__dict__)  # noqa: S102  it is ours
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bank)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    runtime = penstock_runtime(plugin, policy="api-key")
    runtime.operate(
        "variable", "set", "bank_url", f"http://127.0.0.1:{server.server_port}", "--env", "test"
    )
    client = runtime.client("acme", token=False)

    accepted = client.post("/v1/rates/", json={"currencies": ["EUR", "USD"]})
    runtime.work()
    ended = client.get(accepted.headers["Location"]).json
    server.shutdown()
    server.server_close()

    assert (accepted.status_code, accepted.headers["Location"]) == (
        202,
        f"/v1/rates/runs/{accepted.json['id']}",
    )
    assert (ended["status"], ended["result"]) == ("succeeded", {"EUR": 1.25, "USD": 1.25})
    assert sorted(Bank.asked) == ["/EUR", "/EUR", "/USD", "/USD"]
    assert (ended["progress"]["done"], ended["progress"]["of"]) == (2, 2)


def test_without_the_policy_the_first_plugin_is_refused_with_its_mend(
    tmp_path: Path, shell: dict[str, str]
) -> None:
    (plugin,) = re.findall(r"```python\n(.*?)```", section("Your first plugin"), re.DOTALL)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greeting.py").write_text(plugin, encoding="utf-8")
    script = "penstock db upgrade; penstock env create test; penstock check --env test"

    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1
    assert "set jwt=True on its HttpTrigger" in done.stdout
