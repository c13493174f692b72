"""The kit for tests of plugins: a runtime in this process, with real gates, a database of its own and callers at hand.

It is a pytest plugin and comes with Penstock; the fixture `penstock_runtime` is there without an import. No server and no network:
calls go through the same dispatcher that gunicorn would hand them to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from werkzeug.test import Client, TestResponse

from penstock.access import consumers, environments
from penstock.access.secrets import Box, make_secret_key
from penstock.contracts.call import ANONYMOUS, Call, Caller
from penstock.db import migrate
from penstock.db.engine import open_engine
from penstock.gate.compliance import State
from penstock.host import Host
from penstock.settings import Settings
from penstock.web import create_app

ACTOR = "test"
ENVIRONMENT = "test"
SERVED = {State.SERVED, State.NON_CONFORMANT}


class CallerClient(Client):
    """A client whose calls carry its credentials; headers given with a call win."""

    def __init__(self, application: Any, headers: Mapping[str, str]) -> None:  # noqa: ANN401  any WSGI application
        super().__init__(application)
        self._headers = dict(headers)

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:  # noqa: ANN401  werkzeug's arguments
        """Make a call, for example `client.post("/v1/orders/", json={…})`."""
        return super().open(*args, **kwargs | {"headers": self._headers | dict(kwargs.get("headers") or {})})


class Runtime:
    """A runtime with these plugins, beside those that are installed, in an environment named `test`.

    Args:
        folder: Where its database lies.
        plugins: Modules or other objects with hooks.
        policy: The environment's external access policy.

    """

    def __init__(self, folder: Path, *plugins: object, policy: str = "jwt-api-key") -> None:
        secret = make_secret_key()
        url = f"sqlite:///{folder / f'penstock-{time.monotonic_ns()}.db'}"
        self._engine = open_engine(url)
        migrate.upgrade(self._engine)
        environments.create_environment(self._engine, ACTOR, ENVIRONMENT, Box((secret,)))
        named = [(getattr(plugin, "__name__", type(plugin).__name__), plugin) for plugin in plugins]
        self._host = Host(Settings(environment=ENVIRONMENT, database_url=url, secret_keys=(secret,)), extra=named)
        self._host.start()
        self.application = create_app(self._host)
        self._known: set[str] = set()
        self.policy(policy)

    def policy(self, option: str) -> None:
        """Set the environment's external access policy."""
        environments.set_policy(self._engine, ACTOR, ENVIRONMENT, option, served={}, stopping=())
        self._host.catch_up(self._engine)

    def designate(self, pipeline: str) -> None:
        """Make a pipeline a login flow, as an operator would."""
        environments.set_login_flow(self._engine, ACTOR, ENVIRONMENT, pipeline, self._host.names, designated=True)
        self._host.catch_up(self._engine)

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
        access = self._host.access
        if access is None:
            raise RuntimeError("the runtime has ended")
        return issuer.issue(access, consumer, subject=subject, scopes=scopes, lifetime=None, claims={}, now=time.time()).access_token

    def refused(self) -> dict[str, list[str]]:
        """Return what is not served here, by pipeline (`v1/orders`), each with its reasons and mends."""
        return {
            name: [f"{item.reason}; {item.mend}" for item in judged.violations]
            for name, judged in self._host.judged.items()
            if judged.state not in SERVED
        }

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
    return Call(**usual | parts, caller=caller, read_headers=lambda: headers or {}, read_body=lambda: body)


@pytest.fixture
def penstock_runtime(tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    """Start runtimes, `penstock_runtime(my_plugin, policy="api-key")`; they end with the test."""
    with ExitStack() as stack:
        yield lambda *plugins, **more: stack.enter_context(Runtime(tmp_path, *plugins, **more))
