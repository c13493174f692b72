"""Services that tests start on free loopback ports: PostgreSQL, PgBouncer and Redis."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg


def initdb() -> Path | None:
    """Return the folder of PostgreSQL's programs."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


def free_port() -> int:
    """Return a loopback port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A PostgreSQL server of our own, without a database of ours, which can be stopped and
    started."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-pg-"))
        self._user = {"user": "postgres"} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(self._folder, "postgres")
        self.port = free_port()
        self.url = f"postgresql://penstock@127.0.0.1:{self.port}"
        self._run("initdb", "-D", self._folder / "data", "-A", "trust", "-U", "penstock", "-N")

    def _run(self, program: str, *words: str | Path) -> None:
        subprocess.run(
            [self._programs / program, *words],
            check=True,
            capture_output=True,
            cwd="/",
            **self._user,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(
            "pg_ctl",
            "-D",
            self._folder / "data",
            "-w",
            "-l",
            self._folder / "log",
            "-o",
            options,
            "start",
        )

    def stop(self) -> None:
        """Stop it as a crash does."""
        self._run("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "stop")

    def pause(self, *, over: bool = False) -> None:
        """Stop all its processes where they are, as a frozen machine does, or resume them:
        connections stay open, and say nothing."""
        postmaster = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(postmaster)],
            check=False,
            capture_output=True,
            text=True,
        ).stdout
        for pid in (postmaster, *map(int, found.split())):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT if over else signal.SIGSTOP)

    def run(self, statement: str, database: str = "postgres") -> None:
        """Run a statement of an administrator."""
        with psycopg.connect(f"{self.url}/{database}", autocommit=True) as connection:
            connection.execute(statement)

    def remove(self) -> None:
        """Stop it, where it runs, and remove its files."""
        with suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


class PgBouncer:
    """PgBouncer in transaction mode before a PostgreSQL server, with its own defaults for all
    else."""

    def __init__(self, program: str, postgres: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-bouncer-"))
        self.port = free_port()
        self.url = f"postgresql://penstock@127.0.0.1:{self.port}"
        server = urlsplit(postgres)
        users = self._folder / "users"
        users.write_text('"penstock" ""\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": 8,
            "logfile": self._folder / "log",
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        config = self._folder / "pgbouncer.ini"
        config.write_text(
            "\n".join(
                [f"[databases]\n* = host={server.hostname} port={server.port}\n[pgbouncer]", *lines]
            )
        )
        more: dict[str, Any] = {}
        if os.getuid() == 0:  # it does not run as root
            shutil.chown(self._folder, "postgres")
            more["user"] = "postgres"
        self._process = subprocess.Popen(
            [program, "-q", config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **more,
        )
        for _ in range(1200):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("PgBouncer did not start")

    def remove(self) -> None:
        """Stop it and remove its files."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Redis:
    """A Redis server in a process of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--save",
            "",
            "--logfile",
            "redis.log",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)
        for _ in range(1200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("Redis did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Have it take connections and answer nothing, until it is stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
