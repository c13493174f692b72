"""The kit for tests of plugins: a runtime in this process, with real gates, a database of its own and callers at hand.

It is a pytest plugin and comes with Penstock; the fixture `penstock_runtime` is there without an import. No server and no network:
calls go through the same dispatcher that gunicorn would hand them to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

import click
import pytest
from werkzeug.test import Client, TestResponse

from penstock import logs
from penstock.access import consumers, environments
from penstock.access.secrets import Box, make_secret_key
from penstock.cli.base import Context
from penstock.cli.main import STEERING
from penstock.contracts.access import AccessView
from penstock.contracts.call import ANONYMOUS, Call, Caller
from penstock.contracts.needs import Named
from penstock.db import migrate
from penstock.db.engine import open_engine
from penstock.gate.compliance import State
from penstock.host import Host
from penstock.runs import operating
from penstock.runs.engine_straight import Straight
from penstock.settings import Settings
from penstock.steering import Steering
from penstock.web import create_app
from penstock.web.listeners import INTERNAL
from penstock.worker import Worker

ACTOR = "test"
ENVIRONMENT = "test"
SERVED = {State.SERVED, State.NON_CONFORMANT}
OPERATIONS = click.Group("penstock", commands=STEERING)


class CallerClient(Client):
    """A client whose calls carry its credentials; headers given with a call win."""

    def __init__(self, application: Any, headers: Mapping[str, str], *, internal: bool = False) -> None:  # noqa: ANN401  any WSGI application
        super().__init__(application)
        self.headers = dict(headers)
        self._listener = {INTERNAL: True} if internal else {}

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:  # noqa: ANN401  werkzeug's arguments
        """Make a call, for example `client.post("/v1/orders/", json={…})`."""
        environ = self._listener | dict(kwargs.get("environ_overrides") or {})
        return super().open(*args, **kwargs | {"headers": self.headers | dict(kwargs.get("headers") or {}), "environ_overrides": environ})

    def internal(self) -> CallerClient:
        """Return a client with the same credentials that calls on the internal listener."""
        return CallerClient(self.application, self.headers, internal=True)


class Runtime:
    """A runtime with these plugins, beside those that are installed, in an environment named `test`.

    Args:
        folder: Where its database lies.
        plugins: Modules or other objects with hooks.
        policy: The environment's external access policy.
        **settings: Settings that are not as usual, named as in `penstock settings`: `log_calls="all"` for `PENSTOCK_LOG_CALLS=all`.

    """

    def __init__(self, folder: Path, *plugins: object, policy: str = "jwt-api-key", **settings: Any) -> None:  # noqa: ANN401  each has its type
        secret = make_secret_key()
        self._box = Box((secret,))
        url = f"sqlite:///{folder / f'penstock-{time.monotonic_ns()}.db'}"
        self._engine = open_engine(url)
        migrate.upgrade(self._engine)
        environments.create_environment(self._engine, ACTOR, ENVIRONMENT, self._box)
        named = [(getattr(plugin, "__name__", type(plugin).__name__), plugin) for plugin in plugins]
        chosen = Settings(
            **{"environment": ENVIRONMENT, "database_url": url, "secret_keys": (secret,), "log_format": "text", "failed_auth_rate": "off", **settings}
        )
        logs.configure_events(chosen)
        self._runs = Straight()
        self._host = Host(chosen, extra=named, open_ledger=lambda *_: self._runs)
        self._host.start()
        self._worker = Worker(self._host, self._runs)
        self.application = create_app(self._host)
        self._known: set[str] = set()
        self.policy(policy)

    def policy(self, option: str, *, internal: bool = False) -> None:
        """Set the environment's external access policy, or the internal one."""
        environments.set_policy(self._engine, ACTOR, ENVIRONMENT, option, served={}, stopping=(), internal=internal)
        self._host.catch_up(self._engine)

    def designate(self, pipeline: str) -> None:
        """Make a pipeline a login flow, as an operator would."""
        environments.set_login_flow(self._engine, ACTOR, ENVIRONMENT, pipeline, self._host.names, designated=True)
        self._host.catch_up(self._engine)

    def operate(self, *words: str, given: str = "") -> str:
        """Run a command that steers access, the words after `penstock`, and return what it prints; it is in force when this returns.

        For example `operate("signing-key", "rotate", "--env", "test")`; `given` is its standard input. Raises what the command would end with.
        """
        context = Context(ACTOR)
        context.settings, context.engine, context.box, context.host = self._host.settings, self._engine, self._box, self._host
        context.steering = Steering(self._engine, self._box, lambda: self._host, open_ledger=lambda *_: self._runs)
        with redirect_stdout(StringIO()) as printed, mock.patch("sys.stdin", StringIO(given)):
            OPERATIONS.main(words, obj=context, standalone_mode=False)
        self._host.catch_up(self._engine)
        return printed.getvalue()

    def work(self) -> int:
        """Perform the durable runs that wait, in this thread, and return how many that were; pauses take no time, callbacks are sent."""
        number = self._runs.work(self._worker.perform)
        self.flush()
        return number

    def tick(self, pipeline: str, moment: datetime | None = None) -> None:
        """Start a pipeline (`v1/report`) as its first schedule would at a moment, by default now; `work` performs it."""
        schedule = self._host.loaded[pipeline].pipeline.schedules[0]
        moment = moment or datetime.now(UTC)
        self._worker.tick({"pipeline": pipeline, "cron": schedule.cron, "path": schedule.path}, moment, now=moment)

    def runs(self, **filters: Any) -> list[dict[str, Any]]:  # noqa: ANN401  those of penstock.runs.operating.list_runs
        """Return the records of runs, newest first, for example `runs(status="failed")`; each has `steps` and `bodies` too."""
        self.flush()
        found = operating.list_runs(self._engine, **filters)
        return [operating.show_run(self._engine, self._box, lambda _: self._runs, row["id"]) for row in found]

    def flush(self) -> None:
        """Write the records that wait."""
        if self._host.recorder is not None:
            self._host.recorder.flush()

    @property
    def access(self) -> AccessView:
        """What the runtime knows of access now: its signing keys, for one, to forge tokens with."""
        access = self._host.access
        if access is None:
            raise RuntimeError("the runtime has ended")
        return access

    def client(
        self,
        consumer: str = "acme",
        *,
        pipelines: Iterable[str] | None = None,
        key: bool = True,
        token: bool = True,
        subject: str = "ann",
        scopes: Iterable[str] = (),
    ) -> CallerClient:
        """Return a client that calls for a consumer, made where it is new and associated with all pipelines or those named.

        Its calls carry a key, and a token with these scopes, unless told not to.
        """
        headers: dict[str, str] = {}
        if consumer not in self._known:
            self._known.add(consumer)
            consumers.create_consumer(self._engine, ACTOR, consumer)
        associated = self._host.names if pipelines is None else pipelines
        consumers.associate(self._engine, ACTOR, consumer, associated, ENVIRONMENT, self._host.names)
        if key:
            headers["X-API-Key"] = consumers.create_key(self._engine, ACTOR, consumer, ENVIRONMENT).key
        self._host.catch_up(self._engine)
        if token:
            headers["Authorization"] = f"Bearer {self._token(consumer, subject, frozenset(scopes))}"
        return CallerClient(self.application, headers)

    def anonymous(self) -> CallerClient:
        """Return a client without credentials."""
        return CallerClient(self.application, {})

    def _token(self, consumer: str, subject: str, scopes: frozenset[str]) -> str:
        (issuer,) = self._host.plugins.issuers
        return issuer.issue(self.access, consumer, subject=subject, scopes=scopes, lifetime=None, claims={}, now=time.time()).access_token

    def refused(self) -> dict[str, list[str]]:
        """Return what is not served here, by pipeline (`v1/orders`), each with its reasons and mends."""
        return {
            name: [f"{item.reason}; {item.mend}" for item in judged.violations]
            for name, judged in self._host.judged.items()
            if judged.state not in SERVED
        }

    def warnings(self) -> dict[str, list[str]]:
        """Return what operators are warned about, by pipeline."""
        return {name: list(judged.warnings) for name, judged in self._host.judged.items() if judged.warnings}

    def mistakes(self) -> list[str]:
        """Return what the plugins got wrong, each in one line."""
        return [str(mistake) for mistake in self._host.mistakes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._host.stop()
        self._engine.dispose()


def a_call(*, caller: Caller = ANONYMOUS, body: bytes = b"", headers: Mapping[str, str] | None = None, **parts: Any) -> Call:  # noqa: ANN401  any part of a Call
    """Make the `Call` that a handler gets, to call the handler as the function it is; say only what matters to the test."""
    usual: dict[str, Any] = {
        "method": "GET",
        "path": "/v1/example/",
        "pipeline": "example",
        "version": "1.0.0",
        "environment": ENVIRONMENT,
        "run": "00000000-0000-7000-8000-000000000000",
        "deadline": time.monotonic() + 30,
    }
    parts["variables"] = Named("variable", ENVIRONMENT, parts.get("variables", {}))
    secrets = parts.get("read_secrets", dict)
    parts["read_secrets"] = lambda: Named("secret", ENVIRONMENT, secrets())
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    usual["content_type"] = sent.get("content-type", "")
    return Call(**usual | parts, caller=caller, read_headers=lambda: sent, read_body=lambda: body)


@pytest.fixture
def penstock_runtime(tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    """Start runtimes, `penstock_runtime(my_plugin, policy="api-key")`; they end with the test."""
    with ExitStack() as stack:
        yield lambda *plugins, **more: stack.enter_context(Runtime(tmp_path, *plugins, **more))
