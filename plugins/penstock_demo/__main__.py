"""`make run`: set up the demo with the `penstock` command, print three commands, and serve."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

HOME = Path(".penstock")
KEY = HOME / "demo-key"
NOTE = "make run"


def main() -> None:
    """Set up what is missing, print how to call it, and serve."""
    port = os.environ.get("PORT", "8000")
    _check_port(port)
    HOME.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("PENSTOCK_DATABASE_URL", f"sqlite:///{HOME}/penstock.db")
    os.environ.setdefault("ORDERS_DATABASE_URL", f"sqlite:///{HOME}/orders.db")
    _penstock("db", "upgrade")
    environments = {row["name"] for row in _listing("env", "list")}
    for name in ("test", "prod"):
        if name not in environments:
            _penstock("env", "create", name)
    if "demo" not in {row["name"] for row in _listing("consumer", "list")}:
        _penstock("consumer", "create", "demo", "--description", "The demo's partner")
        for name in ("test", "prod"):
            _penstock("login-flow", "designate", "v1/login", "--env", name)
            _penstock("consumer", "associate", "demo", "v1/login", "v1/orders", "--env", name)
    os.environ.setdefault("PENSTOCK_CONSOLE", "true")
    _print_commands(port, _key(), _user())
    os.execv(  # noqa: S606  it replaces this process
        sys.executable,
        [
            sys.executable,
            "-m",
            "penstock",
            "serve",
            "--env",
            "test",
            "--bind",
            f"127.0.0.1:{port}",
            "--workers",
            "2",
        ],
    )


def _check_port(port: str) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", int(port)))
    except (OSError, ValueError, OverflowError):
        sys.stderr.write(
            f"demo: port {port} is taken or is no port; choose another: make run PORT=8001\n"
        )
        sys.exit(3)


def _penstock(*words: str) -> str:
    done = subprocess.run(  # noqa: S603  the penstock command
        [sys.executable, "-m", "penstock", *words], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr or done.stdout)
        sys.exit(done.returncode)
    return done.stdout


def _listing(*words: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(_penstock(*words, "--format", "json"))
    return rows


def _key() -> str:
    """Return the key of an earlier run if it still works, else a new one.

    Its file is readable to its owner only.
    """
    stored = json.loads(KEY.read_text(encoding="utf-8")) if KEY.is_file() else {}
    rows = [
        row
        for row in _listing("key", "list", "--env", "test", "--consumer", "demo")
        if row["note"] == NOTE and row["state"] == "usable"
    ]
    if stored.get("id") in {row["id"] for row in rows}:
        return str(stored["key"])
    for row in rows:
        _penstock("key", "revoke", row["id"])
    created = json.loads(
        _penstock("key", "create", "demo", "--env", "test", "--note", NOTE, "--format", "json")
    )
    KEY.unlink(missing_ok=True)
    with os.fdopen(
        os.open(KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        json.dump({"id": created["id"], "key": created["key"]}, file)
    return str(created["key"])


def _user() -> str:
    """Return how to sign in to the console.

    Its user is created once, with a password that is shown once.
    """
    if "demo" in {row["name"] for row in _listing("user", "list")}:
        return (
            "user demo, with the password of the first run; for a new one: penstock user password"
            " demo --generate"
        )
    return (
        "user demo, password"
        f" {_penstock('user', 'create', 'demo', '--role', 'admin', '--generate').splitlines()[-1]}"
        " (shown this once)"
    )


def _print_commands(port: str, key: str, user: str) -> None:
    url = f"http://127.0.0.1:{port}/v1"
    send = f"-H 'X-API-Key: {key}' -H 'Content-Type: application/json'"
    lines = (
        '"country": "PT", "currency": "EUR", "lines": [{"sku": "PEN-01", "quantity": 3,'
        ' "unit_price": "1.25"}]'
    )
    body = '\'{"reference": "\'$(date +%s%N)\'", ' + lines + "}'"
    login = '\'{"user": "demo", "password": "demo"}\''
    extract = """| sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'"""
    lines = (
        '"country":"PT","currency":"EUR",'
        '"lines":[{"sku":"INK-02","quantity":1,"unit_price":"4.50"}]'
    )
    file = (
        "$(for n in 1 2 3; do echo '{\"reference\":\"'$(date +%s%N)'-'$n'\"," + lines + "}'; done)"
    )
    sys.stdout.write(
        "\nLog in as user demo of the pipeline login (not the console's user demo),"
        " post an order with key and token (201), the same without the token (401), and a"
        " file of orders as a durable run, with a wait for its end"
        " (200);\npaste these into another terminal:\n\n"
        f"TOKEN=$(curl -s {url}/login/ {send} -d {login} {extract})\n\n"
        f'curl -i {url}/orders/ {send} -H "Authorization: Bearer $TOKEN" -d {body}\n\n'
        f"curl -i {url}/orders/ {send} -d {body}\n\n"
        f"curl -i {url}/orders/import -H 'X-API-Key: {key}' -H \"Authorization: Bearer $TOKEN\" -H"
        " 'Content-Type: application/x-ndjson'"
        f" -H 'Prefer: wait=20' --data-binary \"{file}\"\n\n"
        "The runs of these calls: PENSTOCK_DATABASE_URL=sqlite:///.penstock/penstock.db"
        " .venv/bin/penstock runs list\n\n"
        f"The console: http://127.0.0.1:{port}/-/console ({user})\n\n"
        "API documentation, with trial calls (sign in as the console's user):"
        f" http://127.0.0.1:{port}/-/docs\n\n"
        "What prod would block, and why: PENSTOCK_DATABASE_URL=sqlite:///.penstock/penstock.db"
        " .venv/bin/penstock check --env prod\n\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
