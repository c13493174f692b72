"""The wheel, in an empty venv elsewhere, is a whole product: it migrates, serves and admits no
in without a key."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest
from support.place import ROOT, wait_for
from support.services import free_port

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

hello = Pipeline("hello", version="1.0.0", trigger=HttpTrigger(api_key=True))

@hello.get("/")
def greet(call: Call): return {"hello": call.caller.consumer}

@hookimpl
def penstock_pipelines(): return [hello]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the wheel and what it depends on, and nothing of this tree; return its `bin`."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, capture_output=True)
    libraries = venv / "libraries"
    libraries.mkdir()
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if "penstock" not in item.name and item.suffix != ".pth":
            (libraries / item.name).symlink_to(item)
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
    subprocess.run(
        [
            venv / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            wheel,
        ],
        check=True,
        capture_output=True,
    )
    return venv / "bin"


@pytest.fixture
def shell(elsewhere: Path, tmp_path: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PENSTOCK_", "PYTHON", "VIRTUAL_ENV"))
    }
    return kept | {"PATH": f"{elsewhere}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def test_the_wheel_holds_the_product_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}

    assert {name for name in tops if not name.endswith(".dist-info")} == {
        "penstock",
        "penstock_access_policy",
        "penstock_api_key",
        "penstock_basic",
        "penstock_jwt",
        "penstock_mtls",
        "penstock_response_headers",
        "penstock_webhook_signature",
    }
    assert "penstock/migrations/env.py" in names
    pages = {f"penstock/manual/{path.relative_to(ROOT)}" for path in ROOT.glob("docs/**/*.md")}
    assert len(pages) > 50
    assert pages <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "penstock/py.typed" in names
    assert {
        f"penstock/console/{name}"
        for name in ("templates/layout.html", "static/console.js", "static/vendor/htmx.min.js")
    } <= set(names)
    assert [name for name in names if "test_" in name or "__pycache__" in name] == []


def test_it_serves_from_an_empty_folder(
    elsewhere: Path, shell: dict[str, str], tmp_path: Path
) -> None:
    def penstock(*words: str) -> str:
        return subprocess.run(
            [elsewhere / "penstock", *words],
            cwd=tmp_path,
            env=shell,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "hello.py").write_text(PLUGIN, encoding="utf-8")
    where = subprocess.run(
        [elsewhere / "python", "-c", "import penstock; print(penstock.__file__)"],
        cwd=tmp_path,
        env=shell,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    penstock("db", "upgrade")
    penstock("env", "create", "test")
    penstock("policy", "set", "test", "api-key")
    penstock("consumer", "create", "acme")
    penstock("consumer", "associate", "acme", "hello", "--env", "test")
    key = penstock("key", "create", "acme", "--env", "test").splitlines()[-1]
    port = free_port()
    shell["PENSTOCK_CONSOLE"] = "true"
    server = subprocess.Popen(
        [elsewhere / "penstock", "serve", "--bind", f"127.0.0.1:{port}"],
        cwd=tmp_path,
        env=shell,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/-/health", server)
        with_key = httpx.get(
            f"http://127.0.0.1:{port}/v1/hello/", headers={"X-API-Key": key}, timeout=10
        )
        without = httpx.get(f"http://127.0.0.1:{port}/v1/hello/", timeout=10)
        pages = [
            httpx.get(f"http://127.0.0.1:{port}/-/{name}", timeout=10).status_code
            for name in ("console/sign-in", "console/static/console.css", "help/problems")
        ]
    finally:
        server.terminate()
        server.wait(20)

    assert pages == [200, 200, 303]
    assert "Access rules" in penstock("docs")
    assert "rate-limited" in penstock("docs", "problems")
    assert not where.startswith(str(ROOT))
    assert (with_key.status_code, with_key.json()) == (200, {"hello": "acme"})
    assert (without.status_code, without.json()["type"]) == (401, "credentials-missing")
    assert penstock("db", "current")
