"""A database and hosts on it, each `penstock serve` in real processes, kept by a supervisor as
systemd keeps the README's unit."""

from __future__ import annotations

import http.client
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.plugin import PLUGIN
from benchmarks.chaos.postgres import Database
from support.place import Place, wait_for
from support.services import free_port, initdb

from penstock.access.api_keys import NewKey

ENVIRONMENT = "prod"
WORKERS, THREADS = 2, 16
RESTART_S = 1.0  # the README's unit says RestartSec=5
STAYS_DOWN = frozenset({0, 3})  # Restart=on-failure, RestartPreventExitStatus=3
STOP_S = 45.0  # TimeoutStopSec
LOOK_S = 0.05


class Unit:
    """One host: `penstock serve` with two web workers and a durable worker, and what systemd
    does with it."""

    def __init__(self, name: str, place: Place, environ: dict[str, str]) -> None:
        self.name, self.port = name, free_port()
        self.log = place.folder / f"{name}.log"
        self.codes: list[int] = []  # of each `serve` that ended without a stop
        self._place, self._environ = place, environ
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def serve(self) -> subprocess.Popen[bytes]:
        """The process of `penstock serve`, the last one that was started."""
        if self._process is None:
            raise AssertionError(f"{self.name} was not started")
        return self._process

    def start(self, *, wait: bool = True, **settings: str) -> None:
        """Start it, and keep it running; `settings` replace those of before."""
        self._environ |= settings
        self._stopping.clear()
        self._spawn()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        if wait:
            wait_for(f"http://127.0.0.1:{self.port}/-/health", self.serve)

    def _spawn(self) -> None:
        sizes = (f"--workers={WORKERS}", f"--threads={THREADS}", "--worker=1")
        command = [
            sys.executable,
            "-m",
            "penstock",
            "serve",
            "--bind",
            f"127.0.0.1:{self.port}",
            *sizes,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environ,
                stdout=log,
                stderr=log,
                cwd=self._place.folder,
                start_new_session=True,
            )

    def _keep(self) -> None:
        while True:
            code = self.serve.wait()
            self._clear()
            if self._stopping.is_set():
                return
            self.codes.append(code)
            if code in STAYS_DOWN or self._stopping.wait(RESTART_S):
                return
            self._spawn()
            if self._stopping.is_set():  # it is stopping
                self.serve.terminate()

    def _clear(self) -> None:
        """Kill what a `serve` that ended has left, as systemd does with the unit's control
        group."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> int:
        """Stop it as `systemctl stop` does, and return the exit code."""
        self._stopping.set()
        if self._process is None:
            return 0
        with suppress(ProcessLookupError):
            self.serve.send_signal(signal.SIGTERM)
        try:
            code = self.serve.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.serve.kill()
            code = self.serve.wait()
        if self._keeper is not None:
            self._keeper.join()
        return code

    def restart(self, **settings: str) -> None:
        """Stop it and start it again, with other settings."""
        self.stop()
        self.start(wait=True, **settings)

    def reload(self) -> None:
        """Reload plugins as `systemctl reload` does."""
        self.serve.send_signal(signal.SIGHUP)

    def processes(self) -> dict[int, int]:
        """Return the parent of each of its processes, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    state, parent, _, session = (
                        (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                    )
                    if int(session) == self.serve.pid and state != "Z":
                        found[int(entry.name)] = int(parent)
        return found

    def masters(self) -> list[int]:
        """Return the process id of gunicorn's master, while it lives."""
        return [
            pid
            for pid, parent in self.processes().items()
            if parent == self.serve.pid and _is(pid, "gunicorn")
        ]

    def web_workers(self) -> list[int]:
        """Return the processes that answer calls; those that only rehearse a start are none."""
        booted = {
            int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log_text())
        }
        masters = self.masters()
        return [
            pid for pid, parent in self.processes().items() if parent in masters and pid in booted
        ]

    def durable_workers(self) -> list[int]:
        """Return the processes that perform durable runs."""
        return [
            pid
            for pid, parent in self.processes().items()
            if parent == self.serve.pid and _is(pid, "--if-needed")
        ]

    def whole(self) -> bool:
        """Whether all of its processes live."""
        return (
            self.serve.poll() is None
            and len(self.web_workers()) == WORKERS
            and len(self.durable_workers()) == 1
        )

    def log_text(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")

    def get(
        self, path: str, headers: dict[str, str] | None = None, timeout: float = 10.0
    ) -> tuple[int, bytes]:
        """Send a GET on a connection of its own, and return status and body."""
        return self.send("GET", path, headers or {}, timeout=timeout)

    def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None = None,
        timeout: float = 30.0,
    ) -> tuple[int, bytes]:
        """Send a call on a connection of its own, and return status and body. Raises OSError or
        HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()


def _is(pid: int, word: str) -> bool:
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Site:
    """A database with an environment under `jwt-api-key`, consumers, credentials, a plugin, and
    hosts that serve it."""

    environment = ENVIRONMENT

    def __init__(
        self, database: str, folder: Path, settings: dict[str, str], data: Path | None = None
    ) -> None:
        """Make it in a folder; `data` is where SQLite's file is, the same by default."""
        self.postgres: Database | None = None
        self.units: list[Unit] = []
        self._all: list[Unit] = []
        self.settings = {
            "PENSTOCK_STRICT": "true",
            "PENSTOCK_WORKER_RUNS": "16",
            "CHAOS_STEPS": str(folder / "steps"),
        } | settings
        (folder / "steps").touch()
        if database == "sqlite":
            url = f"sqlite:///{data or folder}/penstock.db"
        else:
            programs = initdb()
            if programs is None:
                raise AssertionError("PostgreSQL is not installed")
            self.postgres = Database(programs)
            self.postgres.start()
            self.postgres.run("CREATE DATABASE penstock")
            url = f"{self.postgres.url}/penstock"
        self.place = Place.make(url, folder, (ENVIRONMENT,))
        self._fill()
        self._numbers: Iterator[int] = itertools.count(1_000_000)

    def _fill(self) -> None:
        place = self.place
        place.plugin("trial", PLUGIN)
        place.run("variable", "set", "region", "eu", "--env", ENVIRONMENT)
        place.consumer("acme", "trial", "needy", env=ENVIRONMENT)
        place.consumer("other")
        self.key, self.other_key = (
            place.key("acme", ENVIRONMENT).key,
            place.key("other", ENVIRONMENT).key,
        )
        self.token, self.other_token = (
            place.token(name, ENVIRONMENT) for name in ("acme", "other")
        )

    @property
    def database(self) -> Database:
        """The PostgreSQL server."""
        if self.postgres is None:
            raise AssertionError("this site is on SQLite")
        return self.postgres

    @property
    def good(self) -> dict[str, str]:
        """The headers of a call that must be accepted."""
        return {"X-API-Key": self.key, "Authorization": f"Bearer {self.token}"}

    def url(self, number: int) -> str:
        """Return the database's URL as a host is given it: on PostgreSQL each has an address of
        its own, which can be cut off."""
        return (
            self.postgres.url_of(number) + "/penstock"
            if self.postgres is not None
            else self.place.url
        )

    def start(self, hosts: int) -> None:
        """Start hosts, and wait until each accepts calls and durable runs."""
        for number in range(hosts):
            unit = self.host(number)
            unit.start(wait=False)
            self.units.append(unit)
        for unit in self.units:
            wait_for(f"http://127.0.0.1:{unit.port}/-/health", unit.serve)
        end = time.monotonic() + 60
        while not all(self.probe(unit) and unit.whole() for unit in self.units):
            if time.monotonic() > end:
                raise AssertionError("the hosts did not start")
            time.sleep(LOOK_S)

    def host(self, number: int) -> Unit:
        """Return another host, to be started; it counts among `units` once it is appended."""
        environ = self.place.environ(
            ENVIRONMENT, **{"PENSTOCK_DATABASE_URL": self.url(number)} | self.settings
        )
        unit = Unit(f"host-{chr(ord('a') + number)}", self.place, environ)
        self._all.append(unit)
        return unit

    def run(
        self, *words: str, given: str | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a `penstock` command as an operator."""
        return self.place.run(*words, env=ENVIRONMENT, given=given, **settings)

    def status(
        self, unit: Unit, headers: dict[str, str] | None = None, timeout: float = 10.0
    ) -> int:
        """Return the status of a call, 0 where no answer came."""
        try:
            return unit.get("/v1/trial/", headers or self.good, timeout)[0]
        except (OSError, http.client.HTTPException):
            return 0

    def status_of(self, unit: Unit, key: NewKey) -> int:
        """Return the status of a call that is good but for its key, which may not be."""
        return self.status(unit, self.good | {"X-API-Key": key.key})

    def probe(self, unit: Unit) -> bool:
        """Whether a host answers a call and accepts a durable run."""
        headers = self.good | {"Content-Type": "application/json"}
        body = f'{{"n": {next(self._numbers)}}}'.encode()
        try:
            return (
                self.status(unit) == 200
                and unit.send("POST", "/v1/trial/", headers, body, timeout=10)[0] == 202
            )
        except (OSError, http.client.HTTPException):
            return False

    def close(self) -> None:
        """End the hosts and the database."""
        stopping = [threading.Thread(target=unit.stop) for unit in self._all]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        self.place.engine.dispose()
        if self.postgres is not None:
            self.postgres.remove()
