"""A PostgreSQL server that is stopped, killed, frozen, cut off, dumped and restored."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psycopg
from support.services import Postgres

HOSTS = 4  # addresses on the loopback interface, one for each host: 127.0.0.2 and on
TRIES, PAUSE_S = 100, 0.1


class Database(Postgres):
    """PostgreSQL with an address for each host."""

    def start(self) -> None:
        """Start it, and wait until it answers; after a kill the kernel needs a moment to free
        what it held."""
        addresses = ",".join(["127.0.0.1", *(f"127.0.0.{number + 2}" for number in range(HOSTS))])
        options = (
            f"-p {self.port} -k {self._folder} -c listen_addresses={addresses} -c fsync=off -c"
            " max_connections=200"
        )
        for left in reversed(range(TRIES)):
            try:
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
            except subprocess.CalledProcessError:
                if not left:
                    raise
                time.sleep(PAUSE_S)
            else:
                return

    def url_of(self, host: int) -> str:
        """Return the server's URL as one host knows it."""
        return f"postgresql://penstock@127.0.0.{host + 2}:{self.port}"

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: `fast` as an operator does, `immediate` as a crash of a backend does, `kill`
        as the OOM killer does."""
        if mode == "kill":
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            return
        self._run("pg_ctl", "-D", self._folder / "data", "-m", mode, "-w", "stop")

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def disconnect(self, database: str = "penstock") -> None:
        """End all sessions of a database."""
        self.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )

    def read_only(self, *, on: bool) -> None:
        """Be what a standby is, or no more: new transactions are read only, and sessions begin
        anew."""
        setting = "default_transaction_read_only"
        self.run(f"ALTER DATABASE penstock {f'SET {setting} = on' if on else f'RESET {setting}'}")
        self.disconnect()

    def value(self, query: str) -> object:
        """Return the one value that a query of an administrator yields."""
        with psycopg.connect(f"{self.url}/postgres") as connection:
            row = connection.execute(query).fetchone()
        return row[0] if row is not None else None

    def dump(self, path: Path) -> None:
        """Write a backup."""
        self._program("pg_dump", "-Fc", "-f", path, f"{self.url}/penstock")

    def restore(self, path: Path, database: str, *words: str, check: bool = True) -> None:
        """Read a backup into a database."""
        self._program("pg_restore", *words, "-d", f"{self.url}/{database}", path, check=check)

    def contents(self, path: Path) -> list[str]:
        """Return the table of contents of a backup, in the order in which it is restored."""
        return [
            line
            for line in self._program("pg_restore", "-l", path).splitlines()
            if not line.startswith(";")
        ]

    def drop(self) -> None:
        """Take the database away, with the sessions on it."""
        self.run("DROP DATABASE penstock WITH (FORCE)")

    def _program(self, program: str, *words: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            [self._programs / program, *words], check=False, capture_output=True, text=True, cwd="/"
        )
        if check and done.returncode:
            raise AssertionError(f"{program} failed: {done.stderr.strip()[-500:]}")
        return done.stdout
