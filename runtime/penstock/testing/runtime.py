"""A runtime in the test's own process."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

import click

from penstock import logs
from penstock.access import api_keys, consumers, environments, policies
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.pipelines import set_login_flow
from penstock.cli.base import Context
from penstock.cli.main import MANAGEMENT
from penstock.contracts.options import texts
from penstock.db.engine import open_engine
from penstock.durable.engine_memory import InMemoryEngine
from penstock.durable.schedules import tick_id
from penstock.errors import UnknownName, UsageError
from penstock.execution.operations import RunOperations
from penstock.gate.compliance import SERVED_STATES, State
from penstock.host.host import Host
from penstock.settings import Settings
from penstock.testing.calls import ENVIRONMENT
from penstock.testing.client import CallerClient
from penstock.testing.database import create_database
from penstock.testing.lookup import first_schedule
from penstock.testing.observation import ObservedRuntime
from penstock.testing.tokens import issue_token
from penstock.web import create_app
from penstock.worker import Worker

ACTOR = "test"
OPERATIONS = click.Group("penstock", commands=MANAGEMENT)
# Defaults of a runtime where they differ from those of a server: only the test reads its log.
SETTINGS: dict[str, Any] = {
    "environment": ENVIRONMENT,
    "log_format": "text",
    "failed_auth_rate": "off",
    "check_replies": "fail",
    "openapi": "true",
}


def _check_arguments(plugins: Iterable[object], settings: Iterable[str]) -> None:
    for plugin in plugins:
        if isinstance(plugin, str | Path):
            raise TypeError(
                f"{str(plugin)!r} is no plugin: import the module and give that, or an object with"
                " hooks"
            )
    names = Settings.__dataclass_fields__
    if unknown := set(settings) - set(names):
        raise UnknownName(
            "setting",
            min(unknown),
            names,
            fix="`penstock settings` lists them, here without PENSTOCK_",
        )


class Runtime(ObservedRuntime):
    """A runtime with these plugins and the installed ones, in an environment named `test`.

    Args:
        folder: Folder of its database.
        *plugins: Modules, or other objects with hooks.
        policy: The environment's external access policy. Default `jwt-api-key`.
        **settings: Settings by their names in lower case, without the prefix: `log_calls="all"` for
            `PENSTOCK_LOG_CALLS=all`. A reply that does not match the return annotation of its
            handler is a 500 here; `check_replies="off"` turns that off.

    Raises:
        TypeError: A plugin is a text or a path.
        UnknownName: There is no such setting, or no such policy.

    """

    def __init__(
        self,
        folder: Path,
        *plugins: object,
        policy: str = "jwt-api-key",
        **settings: Any,  # noqa: ANN401  each has its type
    ) -> None:
        _check_arguments(plugins, settings)
        secret = make_secret_key()
        self._box = SecretBox((secret,))
        url = create_database(folder)
        self._engine = open_engine(url)
        environments.create_environment(self._engine, ACTOR, ENVIRONMENT, self._box)
        configured = Settings(
            **SETTINGS | {"database_url": url, "secret_keys": (secret,)} | settings
        )
        logs.configure_events(configured)
        self._runs = InMemoryEngine()
        self._host = Host(
            configured,
            extra=[
                (getattr(plugin, "__name__", type(plugin).__name__), plugin) for plugin in plugins
            ],
            open_run_store=lambda *_: self._runs,
        )
        self._host.start()
        self._worker = Worker(self._host, self._runs)
        self.application = create_app(self._host)
        self._consumers: set[str] = set()
        self.policy(policy)

    def policy(self, option: str, *, internal: bool = False) -> None:
        """Set the external access policy of the environment, or the internal one.

        Raises:
            UnknownName: No loaded plugin has that policy.

        """
        options = self._host.evaluator.options
        if options and option not in options:
            raise UnknownName("policy", option, options, fix=f"there are: {', '.join(options)}")
        policies.set_policy(
            self._engine, ACTOR, ENVIRONMENT, option, served={}, stopping=(), internal=internal
        )
        self._host.upkeep.catch_up(self._engine)

    def designate(self, pipeline: str) -> None:
        """Designate a pipeline as a login flow, by its id (`v1/login`) or by its name."""
        set_login_flow(
            self._engine, ACTOR, ENVIRONMENT, pipeline, self._host.catalog.offered, designated=True
        )
        self._host.upkeep.catch_up(self._engine)

    def operate(self, *words: str, given: str = "") -> str:
        """Run a command of `penstock` that manages access or runs, and return its output.

        Example: `runtime.operate("signing-key", "rotate", "--env", "test")`. Its effect applies to
        the next call. An error of the command is raised.

        Args:
            *words: The words after `penstock`.
            given: The command's standard input.

        """
        context = Context(ACTOR)
        context.settings, context.engine, context.box, context.host = (
            self._host.settings,
            self._engine,
            self._box,
            self._host,
        )
        context.run_operations = RunOperations(
            self._engine, self._box, lambda: self._host, open_run_store=lambda *_: self._runs
        )
        with redirect_stdout(StringIO()) as output, mock.patch("sys.stdin", StringIO(given)):
            OPERATIONS.main(words, obj=context, standalone_mode=False)
        self._host.upkeep.catch_up(self._engine)
        return output.getvalue()

    def work(self) -> int:
        """Perform all waiting durable runs in this thread, and return their number.

        Pauses take no time. Callbacks are sent.
        """
        number = self._runs.work(self._worker.perform)
        self.flush()
        return number

    def tick(self, pipeline: str, moment: datetime | None = None) -> str | None:
        """Start a pipeline as its first schedule would, and return the id of the run.

        Return None if the schedule would start no run: the pipeline is disabled, or the time was
        before an earlier tick. `work` performs the run.

        Args:
            pipeline: Its name (`report`) or id (`v1/report`).
            moment: The time, with a time zone. Default: now.

        Raises:
            UsageError: The pipeline has no schedule or is blocked, or the time has no zone.
            UnknownName: There is no such pipeline.

        """
        identifier = self._identifier(pipeline)
        moment = moment or datetime.now(UTC)
        if moment.tzinfo is None:
            raise UsageError("a moment needs a time zone: datetime(2026, 3, 29, 5, tzinfo=UTC)")
        evaluated = self._host.view.evaluated
        states = {listed[identifier].state for listed in (evaluated.external, evaluated.internal)}
        if State.BLOCKED in states and not states & SERVED_STATES:
            raise UsageError(
                f"the schedule does not start {identifier}, which is blocked:"
                f" {'; '.join(self.blocked()[identifier])}"
            )
        schedule = first_schedule(self._host.catalog, identifier)
        run = tick_id(ENVIRONMENT, identifier, schedule, moment)
        self._worker.tick(
            {"pipeline": identifier, "cron": schedule.cron, "path": schedule.path},
            moment,
            now=moment,
        )
        return run if self._runs.look([run]) else None

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
        """Return a client with the credentials of a consumer, which is created if it is new.

        Args:
            consumer: Name of the consumer.
            pipelines: Pipelines that it gets access to, by id or name. Default: all.
            key: Whether calls carry an API key.
            token: Whether calls carry a token.
            subject: The user of the token (`sub`).
            scopes: The scopes of the token.

        Raises:
            UsageError: No token can be issued.
            UnknownName: There is no such pipeline.

        """
        headers: dict[str, str] = {}
        offered = self._host.catalog.offered
        self._grant(consumer, offered if pipelines is None else texts(pipelines))
        if key:
            headers["X-API-Key"] = api_keys.create_key(
                self._engine, ACTOR, consumer, ENVIRONMENT
            ).key
        self._host.upkeep.catch_up(self._engine)
        if token:
            issued = issue_token(
                self._host.catalog.plugins.issuers,
                self.access,
                consumer,
                subject=subject,
                scopes=frozenset(scopes),
            )
            headers["Authorization"] = f"Bearer {issued}"
        return CallerClient(self.application, headers)

    def _grant(self, consumer: str, pipelines: Iterable[str]) -> None:
        """Create a consumer if it is new, and give it access to pipelines."""
        if consumer not in self._consumers:
            self._consumers.add(consumer)
            consumers.create_consumer(self._engine, ACTOR, consumer)
        if associated := set(pipelines):
            consumers.associate(
                self._engine,
                ACTOR,
                consumer,
                associated,
                ENVIRONMENT,
                self._host.catalog.offered,
            )

    def anonymous(self) -> CallerClient:
        """Return a client without credentials."""
        return CallerClient(self.application, {})

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
