"""The files of docs/examples are valid, and the programs that read them accept them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from support.place import ROOT

from penstock.cli.main import penstock
from penstock.settings import Settings

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def registered(words: list[str]) -> bool:
    command: click.Command = penstock
    for word in words:
        if not isinstance(command, click.Group) or word not in command.commands:
            return False
        command = command.commands[word]
    return True


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser's documentation says
    parser.read(EXAMPLES / "penstock.service", encoding="utf-8")
    return parser


def test_the_unit_runs_commands_that_exist_and_waits_long_enough() -> None:
    service = unit()["Service"]

    for key in ("ExecStartPre", "ExecStart"):
        program, *words = service[key].split()
        assert program == "/opt/penstock/bin/penstock"
        assert registered(words)
    drain = 5  # PENSTOCK_DRAIN_DELAY as the page recommends
    assert int(service["TimeoutStopSec"]) > Settings().graceful_timeout + drain
    assert service["RestartPreventExitStatus"] == "3"
    assert service["EnvironmentFile"] == "/etc/penstock/penstock.env"


def test_the_shell_and_systemd_read_the_same_settings(tmp_path: Path) -> None:
    """Each line is a name and one word: what both take literally."""
    lines = [
        line
        for line in text_of(EXAMPLES / "penstock.env").splitlines()
        if line and not line.startswith("#")
    ]

    assert all(re.fullmatch(r"[A-Z_]+=[A-Za-z0-9_./:,-]+", line) for line in lines)
    values = dict(line.split("=", 1) for line in lines)
    files = {name.removesuffix("_FILE") for name in values if name.endswith("_FILE")}
    assert files == {"PENSTOCK_DATABASE_URL", "PENSTOCK_SECRET_KEY"}
    environ = {name: value for name, value in values.items() if not name.endswith("_FILE")} | {
        "PENSTOCK_PLUGIN_PATH": str(tmp_path)
    }
    settings = Settings.from_env(environ)
    assert (settings.environment, settings.strict) == ("prod", True)


def test_the_command_runs_with_the_settings_of_the_unit(tmp_path: Path) -> None:
    """Paths and user are those of a host; the test leads the paths into a folder."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "penstock").write_text(
        '#!/bin/sh\necho "$PENSTOCK_ENVIRONMENT|$(umask)|$PWD|$*"\n'
    )
    (tmp_path / "bin" / "penstock").chmod(0o755)
    script = text_of(EXAMPLES / "penstock.sh")
    for path, own in (
        ("runuser -u penstock -- ", ""),
        ("/var/lib/penstock", str(tmp_path)),
        ("/etc/penstock/", f"{EXAMPLES}/"),
    ):
        assert path in script
        script = script.replace(path, own)

    environ = {"PATH": "/usr/bin:/bin", "SUDO_USER": "ann", "RELEASE": str(tmp_path)}
    done = subprocess.run(
        ["sh", "-c", script, "penstock", "key", "list", "a b"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == f"prod|0077|{tmp_path}|--actor ann key list a b\n"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate and its key in one file, as both proxies take it."""
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=api.example.com"]
    subprocess.run(
        ["openssl", "req", *words, "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        check=True,
        capture_output=True,
    )
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "certificate").read_text() + (tmp_path / "key").read_text())
    return both


def program(name: str) -> str:
    """Return where a program is; without it CI fails, and other machines skip."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is missing, and CI must not skip")
    return path or pytest.skip(f"{name} is not installed")


def replaced(name: str, certificate: Path) -> str:
    return re.sub(
        r"/etc/\S+/api\.example\.com\.(?:pem|key)", str(certificate), text_of(EXAMPLES / name)
    )


def test_nginx_takes_its_example(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "site.conf").write_text(replaced("nginx-two-hosts.conf", certificate))
    whole = (
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; include"
        f" {tmp_path}/site.conf; }}\n"
    )
    (tmp_path / "nginx.conf").write_text(whole)

    done = subprocess.run(
        [program("nginx"), "-t", "-c", tmp_path / "nginx.conf"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_haproxy_takes_its_example(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(replaced("haproxy-two-hosts.cfg", certificate))

    done = subprocess.run(
        [program("haproxy"), "-c", "-f", tmp_path / "haproxy.cfg"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
