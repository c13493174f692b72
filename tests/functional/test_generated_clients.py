"""Lint the OpenAPI documents, generate clients from them, compile these, and call a running server
with them.

The tools are not among our dependencies: `make generators` installs them into `.generators`.
Without them these tests are skipped, and fail in CI.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import CI
from support.place import ROOT, Place, Server, upgrade

TOOLS = ROOT / ".generators"
SOURCES = ROOT / "tests" / "generators"
SCOPES = {"hard": {"read", "write"}, "demo": {"orders:read", "orders:write"}}
PIPELINES = {
    "hard": ("orders", "v2/orders", "files", "animals", "jobs"),
    "demo": ("login", "orders"),
}


@dataclass
class Described:
    """A server that runs, who calls it, and its description in a file."""

    name: str
    folder: Path
    document: Path
    server: Server
    key: str
    token: str


def tool(name: str) -> str:
    """Return the path of a tool."""
    for path in (TOOLS / "bin" / name, TOOLS / "node_modules" / ".bin" / name):
        if path.exists():
            return str(path)
    if CI:
        pytest.fail(f"{name} is missing, and CI must not skip")
    pytest.skip(f"{name} is not installed: make generators")


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program to its good end and return what it printed."""
    # Ruff, which formats what is generated, is there.
    environ = {**os.environ, "PATH": f"{TOOLS / 'bin'}:{os.environ['PATH']}", "CI": "true"}
    done = subprocess.run(
        words, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module", params=["demo", "hard"])
def described(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Described]:
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    tool("redocly")
    url = f"sqlite:///{folder}/penstock.db"
    upgrade(url)
    place = Place.make(url, folder)
    more = {"PENSTOCK_PLUGIN_PATH": str(ROOT / "plugins")} if name == "demo" else {}
    if name == "demo":
        place.designate("login")
    else:
        place.policy("api-key")
        (folder / "plugins").mkdir()
        shutil.copy(SOURCES / "hard.py", folder / "plugins")
    place.consumer("acme", *PIPELINES[name])
    with Server(place, worker=1, PENSTOCK_OPENAPI="true", **more) as server:
        document = folder / "openapi.json"
        document.write_bytes(server.client.get("/-/openapi.json").content)
        yield Described(
            name,
            folder,
            document,
            server,
            place.key("acme").key,
            place.token("acme", scopes=frozenset(SCOPES[name])),
        )
    place.engine.dispose()


def test_redocly_finds_no_error(described: Described) -> None:
    printed = run(
        tool("redocly"),
        "lint",
        "--extends=recommended",
        "--format=json",
        described.document,
        cwd=described.folder,
    )

    found = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    # The licence of an API is its operator's to say.
    assert {problem["ruleId"] for problem in found["problems"]} <= {"info-license"}


def test_the_client_of_openapi_python_client_calls_the_server(described: Described) -> None:
    generate = (
        tool("openapi-python-client"),
        "generate",
        "--path",
        described.document,
        "--output-path",
        "opc",
    )
    printed = run(*generate, cwd=described.folder)
    answered = run(
        sys.executable,
        SOURCES / "use_openapi_python_client.py",
        "opc",
        *_of(described),
        cwd=described.folder,
    )

    # Two things that it can't do at all: a body that is text, and a list in a header.
    skipped = {"hard": ["POST /v1/files/text", "GET /v1/orders"], "demo": []}
    assert re.findall(r"WARNING parsing (\S+ \S+) ", printed) == skipped[described.name], printed
    assert answered == "good\n"


def test_the_clients_of_openapi_generator_call_the_server_and_compile(described: Described) -> None:
    command = tool("openapi-generator-cli")
    if shutil.which("java") is None:
        _ = (
            pytest.fail("Java is missing, and CI must not skip")
            if CI
            else pytest.skip("Java is not installed")
        )
    for language in ("python", "typescript-fetch"):
        config = {
            "generatorName": language,
            "inputSpec": str(described.document),
            "outputDir": str(described.folder / language),
        }
        (described.folder / f"{language}.json").write_text(json.dumps(config), encoding="utf-8")
    run(
        command,
        "batch",
        "--threads",
        "1",
        "python.json",
        "typescript-fetch.json",
        cwd=described.folder,
    )
    answered = run(
        sys.executable,
        SOURCES / "use_openapi_generator.py",
        "python",
        *_of(described),
        cwd=described.folder,
    )
    compiler = (
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
    )
    run(tool("tsc"), *compiler, "typescript-fetch/index.ts", cwd=described.folder)

    assert answered == "good\n"


def _of(described: Described) -> tuple[str, ...]:
    return described.name, described.server.url, described.key, described.token
