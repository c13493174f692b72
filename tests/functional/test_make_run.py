"""`make run`: the demo sets itself up, and the lines that it prints work when pasted."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.place import ROOT, wait_for
from support.services import free_port

Demo = Callable[[int], str]


def environ(port: int) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PENSTOCK_", "ORDERS_"))
    }
    return kept | {"PORT": str(port), "PENSTOCK_PLUGIN_PATH": str(ROOT / "plugins")}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Start what `make run` starts, in an empty folder, and return what it printed; the one
    before it ends."""
    running: list[subprocess.Popen[bytes]] = []

    def stop() -> None:
        for process in running:
            process.terminate()
            process.wait(20)
        running.clear()

    def start(port: int) -> str:
        stop()
        with (tmp_path / "printed").open("wb") as printed:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "penstock_demo"],
                    cwd=tmp_path,
                    env=environ(port),
                    stdout=printed,
                    stderr=printed,
                )
            )
        wait_for(f"http://127.0.0.1:{port}/-/health", running[-1])
        return (tmp_path / "printed").read_text(encoding="utf-8")

    yield start
    stop()


def paste(printed: str, folder: Path) -> list[str]:
    """Paste the four lines into a shell and return the statuses that it shows."""
    lines = re.findall(r"^(?:TOKEN=|curl ).*$", printed, re.MULTILINE)
    assert len(lines) == 4
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return re.findall(r"HTTP/1.1 (\d+)", done.stdout)


def test_the_printed_lines_work_and_a_second_run_adds_nothing(demo: Demo, tmp_path: Path) -> None:
    port = free_port()
    first = demo(port)
    statuses = paste(first, tmp_path)
    second = demo(port)

    def listing(*words: str) -> list[dict[str, str]]:
        database = {"PENSTOCK_DATABASE_URL": "sqlite:///.penstock/penstock.db"}
        command = [sys.executable, "-m", "penstock", *words, "--format", "json"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environ(port) | database, capture_output=True, check=True
        )
        rows: list[dict[str, str]] = json.loads(done.stdout)
        return rows

    assert statuses == ["201", "401", "200"]
    assert paste(second, tmp_path) == ["201", "401", "200"]
    assert re.findall("pk_test_[0-9A-Za-z]+", first) == re.findall("pk_test_[0-9A-Za-z]+", second)
    assert [row["name"] for row in listing("consumer", "list")] == ["demo"]
    assert [row["state"] for row in listing("key", "list")] == ["usable"]
    assert [row["name"] for row in listing("user", "list")] == ["demo"]
    (password,) = re.findall(r"/-/console \(user demo, password (\S+) \(shown this once\)\)", first)
    assert password not in second
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/-/console") as browser:
        token = (
            browser.get("/sign-in")
            .text.partition('name="csrf-token" content="')[2]
            .partition('"')[0]
        )
        assert (
            browser.post(
                "/sign-in", data={"name": "demo", "password": password, "csrf_token": token}
            ).status_code
            == 303
        )
        assert "Overview of test" in browser.get("/").text
    assert (tmp_path / ".penstock" / "demo-key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".penstock").stat().st_mode & 0o777 == 0o700


def test_a_port_in_use_is_reported_and_nothing_is_set_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "penstock_demo"],
            cwd=tmp_path,
            env=environ(port),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert done.returncode == 3
    assert (
        done.stderr
        == f"demo: port {port} is taken or is no port; choose another: make run PORT=8001\n"
    )
    assert list(tmp_path.iterdir()) == []
