"""Every block of code of README, tutorials and how-to pages is run, or is of a kind that can't be.

The `sh` blocks of a page run in order, in one folder, with the page's `# plugins/NAME.py` blocks as
files. The folder has a database with the environments test and prod, the consumer acme and the
pipeline greeting.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.documents import DOCS, README, Block, blocks, name_of
from support.place import ROOT, ZYGOTE, upgrade
from support.services import free_port

from penstock.access import consumers, environments, policies
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.db.engine import open_engine

PAGES = [README, *sorted((DOCS / "tutorial").glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = frozenset({"python", "sh", "json", "toml", "ini", "nginx"})
# These kinds can't run here, each for its reason.
NOT_RUN = {
    "console": "needs root, systemd, other hosts or a terminal; its commands are checked by name",
    "logrotate": "is read by logrotate alone",
    "text": "is output, or the content of a file with placeholders",
    "": "is a drawing, the content of a file with placeholders, or a map",
}
# Two are blocked until their variables are set, and one is started by its schedule only.
NOT_SERVED = {"v1/rates", "v1/stock", "v1/report"}
FILE = re.compile(r"# plugins/(\w+\.py)\n")
SHIM = """#!{python} -SE
import json, os, socket, sys
words = sys.argv[1:]
if words[:1] == ["serve"]:  # a server is what an operator starts
    os.execv("{python}", ["{python}", "-m", "penstock", *words])
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("{socket}")
    request = words, dict(os.environ), os.getcwd(), sys.stdin.read()
    connection.sendall(json.dumps(request).encode() + b"\\n")
    code, output, errors = json.load(connection.makefile())
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(code)
"""
MAKE = re.compile(r"^make (\w+)", re.MULTILINE)


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_is_of_a_kind_that_is_run_or_named() -> None:
    assert {block.language for block in BLOCKS} <= RUN | set(NOT_RUN)
    assert len(of(*RUN)) > 50


@pytest.mark.parametrize("block", of("console"), ids=str)
def test_console_block_has_a_prompt_on_each_line(block: Block) -> None:
    assert [line for line in block.text.splitlines() if not re.match(r"[#$] \S", line)] == []


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_block_is_valid(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_block_is_valid(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", of("ini"), ids=str)
def test_ini_block_is_valid(block: Block) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block.text)

    assert parser.sections()


@pytest.mark.parametrize("block", of("nginx"), ids=str)
def test_nginx_accepts_its_block(block: Block, tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    both = tmp_path / "both.pem"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=api.example.com"]
    subprocess.run(
        ["openssl", "req", *words, "-keyout", tmp_path / "key", "-out", both],
        check=True,
        capture_output=True,
    )
    text = re.sub(r"/etc/ssl/api\S+\.key", str(tmp_path / "key"), block.text)
    text = re.sub(r"/etc/ssl/[\w.]+\.pem", str(both), text)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; {text} }}\n"
    )

    done = subprocess.run(
        [nginx, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database as the pages of operators assume it, and its secret key."""
    folder, secret = tmp_path_factory.mktemp("prepared"), make_secret_key()
    url = f"sqlite:///{folder}/penstock.db"
    upgrade(url)
    engine, box = open_engine(url), SecretBox((secret,))
    for name in ("test", "prod"):
        environments.create_environment(engine, "ann", name, box)
        policies.set_policy(engine, "ann", name, "api-key", served={}, stopping=())
    consumers.create_consumer(engine, "ann", "acme")
    engine.dispose()
    return folder / "penstock.db", secret


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `penstock` that runs as a fork of a process that has imported everything."""
    folder = tmp_path_factory.mktemp("shim")
    server = socketserver.ThreadingUnixStreamServer(str(folder / "socket"), Forking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "penstock").write_text(SHIM.format(python=sys.executable, socket=folder / "socket"))
    (folder / "penstock").chmod(0o755)
    yield folder
    server.shutdown()
    server.server_close()


class Forking(socketserver.StreamRequestHandler):
    """Runs the command that a shim sends, and returns how it ended."""

    def handle(self) -> None:
        words, env, folder, given = json.loads(self.rfile.readline())
        done = ZYGOTE.run(tuple(words), env, Path(folder), given)
        self.wfile.write(json.dumps([done.returncode, done.stdout, done.stderr]).encode())


@pytest.fixture
def site(tmp_path: Path, shim: Path) -> Iterator[dict[str, str]]:
    """The process environment for a page's blocks, in an empty folder; its servers end after it."""
    port = free_port()
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")
    }
    yield inherited | {
        "PATH": f"{shim}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PENSTOCK_BIND": f"127.0.0.1:{port}",
        "PORT": str(port),
        "COLUMNS": "200",
    }
    for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
        os.kill(int(pid), signal.SIGTERM)
        for _ in range(200):  # a server removes its files when it ends
            if not Path(f"/proc/{pid}").exists():
                break
            subprocess.run(["sleep", "0.05"], check=True)


def write_files(page: Path, folder: Path) -> None:
    """Write the page's plugins, and those of the tutorial where the page needs greeting."""
    (folder / "plugins").mkdir(exist_ok=True)
    for source in (DOCS / "tutorial" / "first-plugin.md", page):
        for block in blocks(source):
            match = FILE.match(block.text)
            if block.language == "python" and match is not None:
                (folder / "plugins" / match[1]).write_text(block.text, encoding="utf-8")


def run(script: str, folder: Path, site: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script as bash does; servers that it starts are noted, to be ended."""
    script = script.replace("127.0.0.1:8000", f"127.0.0.1:{site['PORT']}")
    script = re.sub(
        r"^(penstock serve .*) &$", r"\1 > log 2>&1 & echo $! >> pids", script, flags=re.MULTILINE
    )
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=site,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


PYTHON_PAGES = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
SHELL_PAGES = [
    page
    for page in PAGES
    if page != README and any(block.language == "sh" for block in blocks(page))
]


@pytest.mark.parametrize("page", [page for page in PYTHON_PAGES if page != README], ids=name_of)
def test_python_blocks_are_files_of_plugins(page: Path) -> None:
    """So that each of them is imported by the test below, or run by pytest."""
    assert [
        str(block)
        for block in blocks(page)
        if block.language == "python" and FILE.match(block.text) is None
    ] == []


@pytest.mark.parametrize("page", [page for page in PYTHON_PAGES if page != README], ids=name_of)
def test_plugins_of_a_page_load_without_a_fault(
    page: Path, tmp_path: Path, site: dict[str, str], prepared: tuple[Path, str]
) -> None:
    write_files(page, tmp_path)
    shutil.copy(prepared[0], tmp_path / "penstock.db")

    done = run(
        "penstock check --env test --format json || true",
        tmp_path,
        site | {"PENSTOCK_SECRET_KEY": prepared[1]},
    )

    states = {
        item["url"].strip("/"): item["state"] for item in json.loads(done.stdout)["pipelines"]
    }
    sources = [path.read_text() for path in (tmp_path / "plugins").glob("[!t]*.py")]
    assert len(states) == sum(len(re.findall(r"= Pipeline\(", text)) for text in sources)
    assert {name for name, state in states.items() if state != "served"} <= NOT_SERVED


@pytest.mark.parametrize("page", SHELL_PAGES, ids=name_of)
def test_shell_blocks_of_a_page_succeed_in_order(
    page: Path, tmp_path: Path, site: dict[str, str], prepared: tuple[Path, str]
) -> None:
    write_files(page, tmp_path)
    if page.parent.name == "how-to":
        shutil.copy(prepared[0], tmp_path / "penstock.db")
        site = site | {"PENSTOCK_SECRET_KEY": prepared[1]}
    script = "\n".join(block.text for block in blocks(page) if block.language == "sh")

    done = run(script, tmp_path, site)

    assert done.returncode == 0, done.stdout + done.stderr


def test_first_plugin_of_the_readme_runs_as_printed(tmp_path: Path, site: dict[str, str]) -> None:
    (plugin,) = (block.text for block in blocks(README) if block.language == "python")
    script = next(block.text for block in blocks(README) if "penstock serve" in block.text)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greeting.py").write_text(plugin, encoding="utf-8")

    done = run(script, tmp_path, site)

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('{"text":"Hello Ann, says acme"}')
    assert len([line for line in plugin.splitlines() if line.strip()]) <= 20


def test_first_plugin_of_the_readme_is_that_of_the_tutorial() -> None:
    (plugin,) = (block.text for block in blocks(README) if block.language == "python")
    tutorial = blocks(DOCS / "tutorial" / "first-plugin.md")

    assert f"# plugins/greeting.py\n{plugin}" in [block.text for block in tutorial]


def test_commands_of_the_readme_are_targets_of_make() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert set(MAKE.findall("".join(block.text for block in blocks(README)))) == {"run", "test"}
    assert {"run", "test"} <= set(targets)


def test_without_the_policy_the_first_plugin_is_blocked_with_its_fix(
    tmp_path: Path, site: dict[str, str]
) -> None:
    write_files(README, tmp_path)

    done = run(
        "penstock db upgrade; penstock env create test; penstock check --env test", tmp_path, site
    )

    assert done.returncode == 1
    assert "jwt=True" in done.stdout
