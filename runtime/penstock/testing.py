"""The kit for tests of plugins.

A runtime in this process, with real gates, a database of its own and callers at hand.

It is a pytest plugin and comes with Penstock; the fixture `penstock_runtime` is there without an
import. No server and no network: calls go through the same dispatcher that gunicorn would hand them
to.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from datetime import UTC, datetime
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict, cast
from unittest import mock

import click
import pytest
from werkzeug.test import Client, TestResponse

from penstock import logs
from penstock.access import api_keys, consumers, environments, policies
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.pipelines import set_login_flow
from penstock.cli.base import Context
from penstock.cli.main import STEERING
from penstock.contracts.access import AccessView
from penstock.contracts.call import ANONYMOUS, Call, Caller
from penstock.contracts.offered import is_token
from penstock.contracts.run_status import Status
from penstock.contracts.variables import NamedValues
from penstock.contracts.withheld import Withheld
from penstock.db import migrate
from penstock.db.engine import open_engine
from penstock.durable.engine_memory import InMemoryEngine
from penstock.durable.schedules import tick_id
from penstock.errors import UnknownName, UsageError
from penstock.execution import operating
from penstock.execution.steering import RunOperations
from penstock.gate.compliance import State
from penstock.host.host import Host
from penstock.http.listeners import INTERNAL
from penstock.runs.failures import Failure
from penstock.runs.steps import Attempt, StepRecord
from penstock.settings import Settings
from penstock.web import create_app
from penstock.worker import Worker

__all__ = [
    "Attempt",
    "CallerClient",
    "ChildRecord",
    "RunRecord",
    "Runtime",
    "StartRuntime",
    "StepRecord",
    "a_call",
    "penstock_runtime",
]

ACTOR = "test"
WITHHELD = Withheld.of(Settings().api_key_headers)
ENVIRONMENT = "test"
SERVED = {State.SERVED, State.NON_CONFORMANT}
OPERATIONS = click.Group("penstock", commands=STEERING)


class ChildRecord(TypedDict):
    """A run that another one has started."""

    id: str
    pipeline: str
    route: str
    status: str
    ms: float | None


class InlineRunRecord(TypedDict):
    """The record of any run, as operators see it."""

    id: str
    pipeline: str
    version: str
    route: str
    durable: bool
    consumer: str | None
    subject: str | None
    environment: str | None
    status: str
    http_status: int | None
    problem: str | None
    detail: str | None
    parent: str | None
    redelivers: str | None
    request_id: str | None
    at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    ms: float | None
    failure: Failure | None
    children: list[ChildRecord]
    steps: list[StepRecord]
    bodies: dict[str, Any] | None
    unreadable: str | None


class RunRecord(InlineRunRecord, total=False):
    """The record of a run, as operators see it.

    What is not in any record is in those of durable runs.
    """

    recoveries: int
    progress: dict[str, Any] | None
    waits_for: str | None
    cancelled_by: str | None
    callback_url: str | None
    callback_status: str | None


class CallerClient(Client):
    """A client whose calls carry its credentials; headers given with a call win."""

    def __init__(
        self,
        application: Any,  # noqa: ANN401  any WSGI application
        headers: Mapping[str, str],
        *,
        internal: bool = False,
    ) -> None:
        super().__init__(application)
        self.headers = dict(headers)
        self._listener = {INTERNAL: True} if internal else {}

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:  # noqa: ANN401  werkzeug's arguments
        """Make a call, for example `client.post("/v1/orders/", json={…})`."""
        environ = self._listener | dict(kwargs.get("environ_overrides") or {})
        return super().open(
            *args,
            **kwargs
            | {
                "headers": self.headers | dict(kwargs.get("headers") or {}),
                "environ_overrides": environ,
            },
        )

    def internal(self) -> CallerClient:
        """Return a client with the same credentials that calls on the internal listener."""
        return CallerClient(self.application, self.headers, internal=True)


class Runtime:
    """A runtime with these and the installed plugins, in an environment named `test`.

    Args:
        folder: Where its database lies.
        plugins: Modules or other objects with hooks.
        policy: The environment's external access policy.
        **settings: Settings that are not as usual, named as in `penstock settings`:
            `log_calls="all"` for `PENSTOCK_LOG_CALLS=all`. A reply that does not fit the return
            annotation of its handler is a 500 here; `check_replies="off"` leaves it.

    """

    def __init__(
        self,
        folder: Path,
        *plugins: object,
        policy: str = "jwt-api-key",
        **settings: Any,  # noqa: ANN401  each has its type
    ) -> None:
        for plugin in plugins:
            if isinstance(plugin, str | Path):
                raise TypeError(
                    f"{str(plugin)!r} is no plugin: import the module and give that, or an object"
                    " with hooks"
                )
        if unknown := settings.keys() - set(Settings.__dataclass_fields__):
            raise UnknownName(
                "setting",
                min(unknown),
                Settings.__dataclass_fields__,
                fix="`penstock settings` lists them, here without PENSTOCK_",
            )
        secret = make_secret_key()
        self._box = SecretBox((secret,))
        database = folder / f"penstock-{time.monotonic_ns()}.db"
        database.write_bytes(_upgraded_database())
        url = f"sqlite:///{database}"
        self._engine = open_engine(url)
        environments.create_environment(self._engine, ACTOR, ENVIRONMENT, self._box)
        named = [(getattr(plugin, "__name__", type(plugin).__name__), plugin) for plugin in plugins]
        # Nobody but the test can read it.
        usual = {
            "log_format": "text",
            "failed_auth_rate": "off",
            "check_replies": "fail",
            "openapi": "true",
        }
        chosen = Settings(
            **{
                "environment": ENVIRONMENT,
                "database_url": url,
                "secret_keys": (secret,),
                **usual,
                **settings,
            }
        )
        logs.configure_events(chosen)
        self._runs = InMemoryEngine()
        self._host = Host(chosen, extra=named, open_run_store=lambda *_: self._runs)
        self._host.start()
        self._worker = Worker(self._host, self._runs)
        self.application = create_app(self._host)
        self._known: set[str] = set()
        self.policy(policy)

    def policy(self, option: str, *, internal: bool = False) -> None:
        """Set the environment's external access policy, or the internal one. Raises UnknownName."""
        options = self._host.evaluator.options
        if options and option not in options:
            raise UnknownName("policy", option, options, fix=f"there are: {', '.join(options)}")
        policies.set_policy(
            self._engine, ACTOR, ENVIRONMENT, option, served={}, stopping=(), internal=internal
        )
        self._host.upkeep.catch_up(self._engine)

    def designate(self, pipeline: str) -> None:
        """Make a pipeline a login flow, as an operator would.

        Name it by its id (`v1/login`), or by its name where that is clear.
        """
        set_login_flow(
            self._engine, ACTOR, ENVIRONMENT, pipeline, self._host.catalog.offered, designated=True
        )
        self._host.upkeep.catch_up(self._engine)

    def operate(self, *words: str, given: str = "") -> str:
        """Run a command that steers access, the words after `penstock`, and return what it prints.

        It is in force when this returns.

        For example `operate("signing-key", "rotate", "--env", "test")`; `given` is its standard
        input. Raises what the command would end with.
        """
        context = Context(ACTOR)
        context.settings, context.engine, context.box, context.host = (
            self._host.settings,
            self._engine,
            self._box,
            self._host,
        )
        context.steering = RunOperations(
            self._engine, self._box, lambda: self._host, open_run_store=lambda *_: self._runs
        )
        with redirect_stdout(StringIO()) as printed, mock.patch("sys.stdin", StringIO(given)):
            OPERATIONS.main(words, obj=context, standalone_mode=False)
        self._host.upkeep.catch_up(self._engine)
        return printed.getvalue()

    def work(self) -> int:
        """Perform the durable runs that wait, in this thread, and return how many that were.

        Pauses take no time, callbacks are sent.
        """
        number = self._runs.work(self._worker.perform)
        self.flush()
        return number

    def tick(self, pipeline: str, moment: datetime | None = None) -> str | None:
        """Start a pipeline (`report`, or `v1/report`) as its first schedule would at a moment.

        The moment is now by default. `work` performs the run.

        Return the run's id, or None where the clock would have started none: an operator disabled
        it, or the clocks are set back. Raises UsageError where it has no schedule or is not served,
        and UnknownName.
        """
        identifier = self._identifier(pipeline)
        item, moment = self._host.catalog.loaded[identifier], moment or datetime.now(UTC)
        if moment.tzinfo is None:
            raise UsageError("a moment needs a time zone: datetime(2026, 3, 29, 5, tzinfo=UTC)")
        states = {
            evaluated[identifier].state
            for evaluated in (
                self._host.view.evaluated.external,
                self._host.view.evaluated.internal,
            )
        }
        if State.REFUSED in states and not states & SERVED:
            raise UsageError(
                f"{identifier} is not started by its schedule, for it is refused:"
                f" {'; '.join(self.refused()[identifier])}"
            )
        if not item.pipeline.schedules:
            raise UsageError(f'{identifier} has no schedule: give it trigger=Schedule("0 6 * * *")')
        schedule = item.pipeline.schedules[0]
        run = tick_id(ENVIRONMENT, identifier, schedule, moment)
        self._worker.tick(
            {"pipeline": identifier, "cron": schedule.cron, "path": schedule.path},
            moment,
            now=moment,
        )
        return run if self._runs.look([run]) else None

    def _identifier(self, name: str) -> str:
        """Return the id of a pipeline that is named with or without its major version.

        Raises UsageError, UnknownName.
        """
        found = [
            identifier
            for identifier, item in self._host.catalog.loaded.items()
            if name in {identifier, item.pipeline.name}
        ]
        if len(found) > 1:
            raise UsageError(
                f"there are several pipelines named {name!r}: write {' or '.join(sorted(found))}"
            )
        if not found:
            faults = "; ".join(self.problems())
            raise UnknownName(
                "pipeline",
                name,
                {
                    *self._host.catalog.loaded,
                    *(item.pipeline.name for item in self._host.catalog.loaded.values()),
                },
                fix=faults or "give the runtime the plugin that offers it",
            )
        return found[0]

    def runs(
        self,
        *,
        pipeline: str | None = None,
        consumer: str | None = None,
        status: str | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """Return the records of runs, newest first.

        Example: `runs(pipeline="report", status="failed")`. Raises UsageError, UnknownName.
        """
        if status is not None and status not in set(Status):
            raise UnknownName(
                "status", status, map(str, Status), fix=f"there are: {', '.join(Status)}"
            )
        self.flush()
        found = operating.list_runs(
            self._engine,
            pipelines=() if pipeline is None else (self._identifier(pipeline),),
            consumer=consumer,
            status=status,
            request_id=request_id,
            since=None if since is None else since.timestamp(),
            limit=limit,
        )
        return [
            cast(
                RunRecord,
                operating.show_run(self._engine, self._box, lambda _: self._runs, row["id"]),
            )
            for row in found
        ]

    def flush(self) -> None:
        """Write the records that wait."""
        if self._host.services is not None:
            self._host.services.recorder.flush()

    @property
    def access(self) -> AccessView:
        """What the runtime knows of access now: its signing keys, for one, to forge tokens with."""
        access = self._host.view.access
        if access is None:
            raise RuntimeError("the runtime has ended")
        return access

    def client(
        self,
        consumer: str = "acme",
        *,
        pipelines: str | Iterable[str] | None = None,
        key: bool = True,
        token: bool = True,
        subject: str = "ann",
        scopes: Iterable[str] = (),
    ) -> CallerClient:
        """Return a client that calls for a consumer, which is made where it is new.

        The consumer is associated with all pipelines, or those named (by id or name).

        Its calls carry a key, and a token with these scopes, unless told not to. Raises UsageError
        where no token can be made, and UnknownName.
        """
        headers: dict[str, str] = {}
        if consumer not in self._known:
            self._known.add(consumer)
            consumers.create_consumer(self._engine, ACTOR, consumer)
        associated = (
            set(self._host.catalog.offered)
            if pipelines is None
            else {pipelines}
            if isinstance(pipelines, str)
            else set(pipelines)
        )
        if associated:
            consumers.associate(
                self._engine, ACTOR, consumer, associated, ENVIRONMENT, self._host.catalog.offered
            )
        if key:
            headers["X-API-Key"] = api_keys.create_key(
                self._engine, ACTOR, consumer, ENVIRONMENT
            ).key
        self._host.upkeep.catch_up(self._engine)
        if token:
            headers["Authorization"] = f"Bearer {self._token(consumer, subject, frozenset(scopes))}"
        return CallerClient(self.application, headers)

    def anonymous(self) -> CallerClient:
        """Return a client without credentials."""
        return CallerClient(self.application, {})

    def _token(self, consumer: str, subject: str, scopes: frozenset[str]) -> str:
        issuers = self._host.catalog.plugins.issuers
        if len(issuers) != 1:
            raise UsageError(
                f"{len(issuers)} plugins issue tokens, and a client's token needs one"
                " (penstock_jwt): load it, or write client(token=False)"
            )
        token = issuers[0].issue(
            self.access,
            consumer,
            subject=subject,
            scopes=scopes,
            lifetime=None,
            claims={},
            now=time.time(),
        )
        if not is_token(token):
            raise TypeError(
                f"the token issuer of {issuers[0].plugin} returned {type(token).__name__}"
            )
        return token.access_token

    def refused(self) -> dict[str, list[str]]:
        """Return what is not served here, with its reasons and mends, by pipeline (`v1/orders`)."""
        return {
            name: [f"{item.reason}; {item.fix}" for item in evaluated.violations]
            for name, evaluated in self._host.view.evaluated.external.items()
            if evaluated.state not in SERVED
        }

    def warnings(self) -> dict[str, list[str]]:
        """Return what operators are warned about, by pipeline."""
        return {
            name: list(evaluated.warnings)
            for name, evaluated in self._host.view.evaluated.external.items()
            if evaluated.warnings
        }

    def problems(self) -> list[str]:
        """Return what the plugins got wrong, each in one line."""
        return [str(problem) for problem in self._host.catalog.problems]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._host.stop()
        self._engine.dispose()


def a_call(
    *,
    caller: Caller = ANONYMOUS,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    **parts: Any,  # noqa: ANN401  any part of a Call
) -> Call:
    """Make the `Call` that a handler gets, to call the handler as the function it is.

    Say only what matters to the test.

    Credentials among the headers are left out, as they are for a handler that is called.
    """
    known = set(inspect.signature(Call).parameters)
    if unknown := parts.keys() - known:
        raise UnknownName(
            "part of a call", min(unknown), known, fix=f"there are: {', '.join(sorted(known))}"
        )
    usual: dict[str, Any] = {
        "method": "GET",
        "path": "/v1/example/",
        "pipeline": "example",
        "version": "1.0.0",
        "environment": ENVIRONMENT,
        "run": "00000000-0000-7000-8000-000000000000",
        "deadline": time.monotonic() + 30,
    }
    parts["variables"] = NamedValues("variable", ENVIRONMENT, parts.get("variables", {}))
    secrets = parts.get("read_secrets", dict)
    parts["read_secrets"] = lambda: NamedValues("secret", ENVIRONMENT, secrets())
    sent = WITHHELD.without({name.lower(): value for name, value in (headers or {}).items()})
    usual["content_type"] = sent.get("content-type", "")
    return Call(**usual | parts, caller=caller, read_headers=lambda: sent, read_body=lambda: body)


@cache
def _upgraded_database() -> bytes:
    """Return an empty database of this release.

    All runtimes of a process begin with a copy, for the migrations take most of their start.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "upgraded.db"
        engine = open_engine(f"sqlite:///{path}")
        migrate.upgrade(engine)
        engine.dispose()  # what is in the write-ahead log goes into the file
        return path.read_bytes()


class StartRuntime(Protocol):
    """The type of the fixture `penstock_runtime`.

    Its arguments are those of `Runtime`, without the folder.
    """

    def __call__(self, *plugins: object, policy: str = "jwt-api-key", **settings: Any) -> Runtime:  # noqa: ANN401  each has its type
        """Start a runtime."""


@pytest.fixture
def penstock_runtime(tmp_path: Path) -> Iterator[StartRuntime]:
    """Start runtimes, `penstock_runtime(my_plugin, policy="api-key")`; they end with the test."""
    with ExitStack() as stack:
        yield lambda *plugins, **more: stack.enter_context(Runtime(tmp_path, *plugins, **more))
