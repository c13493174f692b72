"""The runbook tells operators what is there: each command, setting, metric and log event of
docs/ exists, and the examples parse."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.place import ROOT

from penstock.cli.main import penstock
from penstock.settings import SECRET, SETTINGS, Settings

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = sorted(DOCS.rglob("*.md"))
SOURCE = "".join(
    path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "runtime" / "penstock").rglob("*.py"))
)
METRICS = "".join(
    path.read_text(encoding="utf-8")
    for path in (ROOT / "runtime" / "penstock").rglob("*.py")
    if "metrics" in {path.stem, path.parent.name}
)
NAMES = {row.name for row in SETTINGS} | {f"{name}_FILE" for name in SECRET}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def snippets(text: str) -> Iterator[str]:
    """Yield what is set as code: the lines of blocks, and what stands between backticks."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        yield from (line.strip() for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def calls(text: str) -> Iterator[list[str]]:
    """Yield the words after `penstock` of each command."""
    for snippet in snippets(text):
        match = re.match(r"(?:[#$] )?(?:[A-Z_]+=\S+ )?penstock ([a-z-].*)", snippet)
        if match is not None:
            yield re.split(r" [|>] ", match[1])[0].split()


def fault_of(words: list[str]) -> str | None:
    """Return why a command can't be right, or None; parts in capitals stand for values."""
    command: click.Command = penstock
    path = ["penstock"]
    rest = list(words)
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest[0]]
        path.append(rest.pop(0))
    name = " ".join(path)
    if isinstance(command, click.Group) and rest:
        return f"{name} has no command {rest[0]}"
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    unknown = [word for word in rest if word.startswith("--") and word not in known]
    return f"{name} has no option {unknown[0]}" if unknown else None


def metric(name: str) -> bool:
    """Return whether the code has a metric of that name; the library adds `_total` to counters."""
    own = name.removeprefix("penstock_")
    return any(f'"{word}"' in METRICS for word in (name, own, own.removesuffix("_total")))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_and_option_exists(page: Path) -> None:
    found = list(calls(text_of(page)))

    assert len(found) > 20
    assert [fault for words in found if (fault := fault_of(words)) is not None] == []


def test_a_command_or_option_that_is_not_there_is_found() -> None:
    assert fault_of(["key", "rotate", "ID", "--grace", "7d"]) is None
    assert fault_of(["key", "mislay"]) == "penstock key has no command mislay"
    assert fault_of(["key", "rotate", "ID", "--soon"]) == "penstock key rotate has no option --soon"
    assert fault_of(["check", "--env"]) is None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_setting_exists(page: Path) -> None:
    text = text_of(page) + "".join(text_of(path) for path in EXAMPLES.iterdir())

    assert set(re.findall(r"PENSTOCK_[A-Z_]+", text)) - NAMES == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_metric_exists(page: Path) -> None:
    roles = {"penstock_a", "penstock_b"}  # of the database
    found = {
        match
        for snippet in snippets(text_of(page))
        for match in re.findall(r"penstock_[a-z_]+[a-z]", snippet)
    } - roles

    assert len(found) > 5
    assert {name for name in found if not metric(name)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_line_of_the_log_exists(page: Path) -> None:
    """The page says `log: …`, `the log has …` or `they log …` before what it quotes."""
    text = text_of(page)
    lists = re.findall(r"\blog(?: has|:)? (`[^`]+`(?:, (?:or )?`[^`]+`)*)", text)
    quoted = {event for part in lists for event in re.findall(r"`([^`]+)`", part)}

    assert len(quoted) > 12
    assert {event for event in quoted if event not in SOURCE} == set()


def registered(words: list[str]) -> bool:
    command: click.Command = penstock
    for word in words:
        if not isinstance(command, click.Group) or word not in command.commands:
            return False
        command = command.commands[word]
    return True


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text_of(file), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles
            }, target


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
    here = {name: value for name, value in values.items() if not name.endswith("_FILE")} | {
        "PENSTOCK_PLUGIN_PATH": str(tmp_path)
    }
    settings = Settings.from_env(here)
    assert (settings.environment, settings.strict) == ("prod", True)


def test_the_command_runs_with_the_settings_of_the_unit(tmp_path: Path) -> None:
    """Its paths and its change of user are those of a host; here they lead into a folder."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "penstock").write_text(
        '#!/bin/sh\necho "$PENSTOCK_ENVIRONMENT|$(umask)|$PWD|$*"\n'
    )
    (tmp_path / "bin" / "penstock").chmod(0o755)
    script = text_of(EXAMPLES / "penstock.sh")
    for known, own in (
        ("runuser -u penstock -- ", ""),
        ("/var/lib/penstock", str(tmp_path)),
        ("/etc/penstock/", f"{EXAMPLES}/"),
    ):
        assert known in script
        script = script.replace(known, own)

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
