"""Set-up as factories: a place with access data, plugins in a folder, a server of real
processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from penstock.access import api_keys, consumers, environments, pipelines, policies
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.snapshot import Snapshot
from penstock.db import migrate
from penstock.db.engine import Engine, open_engine
from penstock.durable import engine_dbos
from support.services import free_port
from support.zygote import Started, Zygote

ROOT = Path(__file__).parents[2]
ACTOR = "tester"
ZYGOTE = Zygote()


def upgrade(url: str) -> None:
    """Do what `penstock db upgrade` does."""
    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    engine_dbos.migrate(url)


def wait_for(url: str, process: subprocess.Popen[Any] | Started | None = None) -> None:
    """Wait until somebody answers at a URL, for as long as the process lives."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}")
        try:
            httpx.get(url, timeout=2)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no server answers at {url}")


def ids(*words: str) -> list[str]:
    """Return the ids of pipelines; a name alone means its first major version."""
    return [word if "/" in word else f"v1/{word}" for word in words]


def dribble(connection: socket.socket, head: bytes) -> bytes:
    """Send the head of a call and then its body byte by byte, until an answer comes (15
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

    def key(self, consumer: str, env: str = "test") -> api_keys.NewKey:
        return api_keys.create_key(self.engine, ACTOR, consumer, env)

    def policy(self, value: str, env: str = "test") -> None:
        policies.set_policy(self.engine, ACTOR, env, value, served={}, stopping=())

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
        from penstock_jwt.issuing import Issuer

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
