"""Set-up as factories: a place with access data, plugins in a folder, a server of real
processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import psycopg
from zygote import Started, Zygote

from penstock.access import consumers, environments, pipelines, signing_keys
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.snapshot import Snapshot
from penstock.db import migrate
from penstock.db.engine import Engine, open_engine
from penstock.durable import engine_dbos

ROOT = Path(__file__).parent.parent
ACTOR = "tester"
ZYGOTE = Zygote()


def initdb() -> Path | None:
    """Return the folder of PostgreSQL's programs."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


def upgrade(url: str) -> None:
    """Do what `penstock db upgrade` does."""
    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    engine_dbos.migrate(url)


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[Any] | Started | None = None) -> None:
    """Wait until somebody answers at a URL, for as long as the process lives."""
    for _ in range(600):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}")
        try:
            httpx.get(url, timeout=2)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nobody answers at {url}")


def ids(*words: str) -> list[str]:
    """Return the ids of pipelines; a name alone means its first major version."""
    return [word if "/" in word else f"v1/{word}" for word in words]


def dribble(connection: socket.socket, head: bytes) -> bytes:
    """Send the head of a call and then its body byte by byte, for as long as nobody answers (15
    s at most); return what comes back."""
    connection.sendall(head)
    received = b""
    with suppress(OSError):  # what was answered and ended can't be sent on
        for _ in range(150):
            connection.settimeout(0.1)
            try:
                received = connection.recv(65536)
                break
            except TimeoutError:
                connection.settimeout(5)
                connection.sendall(b"x")
        while more := connection.recv(65536):
            received += more
    return received


@dataclass
class Place:
    """A database with environments, and shorthands for what operators do."""

    url: str
    folder: Path
    secret: str
    engine: Engine = field(repr=False)
    box: SecretBox = field(repr=False)
    pipelines: tuple[str, ...] = ()

    @classmethod
    def make(cls, url: str, folder: Path, names: tuple[str, ...] = ("test", "prod")) -> Place:
        secret = make_secret_key()
        place = cls(url, folder, secret, open_engine(url), SecretBox((secret,)))
        if migrate.current(place.engine) is None:
            upgrade(url)
        for name in names:
            environments.create_environment(place.engine, ACTOR, name, place.box)
        return place

    def plugin(self, name: str, source: str) -> Path:
        """Write a plugin into this place's plugin folder."""
        plugins = self.folder / "plugins"
        plugins.mkdir(exist_ok=True)
        path = plugins / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        return path

    def consumer(self, name: str, *pipelines: str, env: str = "test") -> None:
        """Make a consumer, associated with pipelines."""
        consumers.create_consumer(self.engine, ACTOR, name)
        if pipelines:
            self.associate(name, *pipelines, env=env)

    def associate(self, name: str, *pipelines: str, env: str = "test") -> None:
        found = ids(*pipelines)
        consumers.associate(self.engine, ACTOR, name, found, env, dict.fromkeys(found, "tests"))

    def key(self, consumer: str, env: str = "test") -> consumers.NewKey:
        return consumers.create_key(self.engine, ACTOR, consumer, env)

    def policy(self, value: str, env: str = "test") -> None:
        environments.set_policy(self.engine, ACTOR, env, value, served={}, stopping=())

    def designate(self, name: str, env: str = "test") -> None:
        (found,) = ids(name)
        pipelines.set_login_flow(self.engine, ACTOR, env, found, {found: "tests"}, designated=True)

    def enable(self, name: str, env: str = "test", *, enabled: bool = True) -> None:
        (found,) = ids(name)
        pipelines.set_pipeline_enabled(
            self.engine, ACTOR, env, found, {found: "tests"}, enabled=enabled
        )

    def dissociate(self, consumer: str, *pipelines: str, env: str = "test") -> None:
        consumers.dissociate(self.engine, ACTOR, consumer, ids(*pipelines), env)

    def snapshot(self, env: str = "test") -> Snapshot:
        snapshot = Snapshot(env, self.box)
        snapshot.refresh(self.engine)
        return snapshot

    def token(self, consumer: str, env: str = "test", **more: object) -> str:
        """Make a token as a login flow would."""
        return self.tokens(consumer, 1, env, **more)[0]

    def tokens(self, consumer: str, number: int, env: str = "test", **more: object) -> list[str]:
        """Make several tokens, each another."""
        from penstock_jwt.tokens import Issuer

        wanted: dict[str, object] = {
            "subject": "ann",
            "scopes": frozenset[str](),
            "lifetime": None,
            "claims": {},
            "now": time.time(),
            **more,
        }
        access = self.snapshot(env)
        return [
            Issuer("penstock").issue(access, consumer, **wanted).access_token for _ in range(number)
        ]  # type: ignore[arg-type]  # a test may break the types

    def environ(self, env: str = "test", **more: str) -> dict[str, str]:
        """Return the process environment that points at this place."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PENSTOCK_", "ORDERS_"))
        }
        plugins = self.folder / "plugins"
        plugins.mkdir(exist_ok=True)
        return (
            kept
            | {
                "PENSTOCK_DATABASE_URL": self.url,
                "PENSTOCK_SECRET_KEY": self.secret,
                "PENSTOCK_ENVIRONMENT": env,
                "PENSTOCK_PLUGIN_PATH": str(plugins),
                "PENSTOCK_FAILED_AUTH_RATE": "off",
                "ORDERS_DATABASE_URL": f"sqlite:///{self.folder}/orders.db",
            }
            | more
        )

    def run(
        self, *words: str, env: str = "test", given: str | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a `penstock` command."""
        return ZYGOTE.run(words, self.environ(env, **more), self.folder, given)


class Server:
    """`penstock serve` in real processes, on a free port where none is given."""

    def __init__(
        self,
        place: Place,
        env: str = "test",
        *,
        workers: int = 1,
        threads: int = 8,
        worker: int = 0,
        wait: bool = True,
        port: int = 0,
        **more: str,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = place.folder / f"server-{self.port}.log"
        counts = {"workers": workers, "threads": threads, "worker": worker}
        words = (
            "serve",
            "--bind",
            f"127.0.0.1:{self.port}",
            *(f"--{name}={number}" for name, number in counts.items()),
        )
        environ = place.environ(env, **more)
        if "PYTEST_VERSION" in os.environ:
            self.process: subprocess.Popen[bytes] | Started = ZYGOTE.start(
                words, environ, place.folder, self.log
            )
        else:  # a benchmark: what it measures is to be what operators start
            with self.log.open("a") as log:  # a port may be used again
                command = [sys.executable, "-m", "penstock", *words]
                self.process = subprocess.Popen(
                    command, env=environ, stdout=log, stderr=log, cwd=place.folder
                )
        if wait:
            wait_for(f"{self.url}/-/health", self.process)
        self.client = httpx.Client(base_url=self.url, timeout=20)

    def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        token: str | None = None,
        **more: object,
    ) -> httpx.Response:
        headers = {"X-API-Key": key} if key else {}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        headers |= more.pop("headers", {})  # type: ignore[arg-type]  # headers are a dict
        return self.client.request(method, path, headers=headers, **more)  # type: ignore[arg-type]  # httpx's own

    def stop(self) -> int:
        self.client.close()  # its idle connections would be waited for
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


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
        """Stop all its processes where they are, as a frozen machine does, or let them go on:
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
        for _ in range(100):
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
        for _ in range(100):
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


__all__ = [
    "ACTOR",
    "ROOT",
    "PgBouncer",
    "Place",
    "Postgres",
    "Redis",
    "Server",
    "consumers",
    "dribble",
    "environments",
    "free_port",
    "ids",
    "initdb",
    "signing_keys",
    "wait_for",
]
