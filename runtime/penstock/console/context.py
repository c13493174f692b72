"""What the pages work on: the host, the database, and each environment as its processes see it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import current_app, g, has_request_context, request

from penstock.access.encryption import SecretBox
from penstock.access.environments import list_environments
from penstock.access.sessions import IDLE_TIMEOUT, SignedIn, is_known_address
from penstock.access.snapshot import Snapshot
from penstock.console.failed_sign_ins import FailedSignIns
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine, open_engine
from penstock.db.tables import EnvironmentRow
from penstock.durable.engine import RunStore
from penstock.errors import BadSetting, UnknownName
from penstock.execution.operations import RunOperations
from penstock.gate.compliance import Evaluation, State
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.gate.guesses import Guess
from penstock.gate.rates import Limiter
from penstock.host.catalog import Catalog
from penstock.host.host import Host
from penstock.host.served import ServedEnvironment, served_in
from penstock.host.services import open_dbos

# Describes pipelines of an environment as an OpenAPI document.
Describe = Callable[[Catalog, str, Mapping[str, Evaluation]], dict[str, Any]]

EXTENSION = "penstock-console"
USER_RATE_FACTOR = 5  # guesses at one user, from all unknown addresses, per guess of one address


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """How to read the client of the current request: its address, and whether it uses TLS."""

    address: Callable[[], str]
    secure: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class EnvironmentView:
    """An environment as its processes see it: its access data and its evaluated pipelines."""

    name: str
    access: Snapshot
    evaluated: Mapping[str, Evaluation]
    evaluated_internal: Mapping[str, Evaluation]

    def in_state(self, *states: State) -> list[tuple[str, bool, Evaluation]]:
        """Return the pipelines in one of these states: ID, whether internal, evaluation."""
        return [
            (identifier, internal, evaluation)
            for internal, evaluated in (
                (False, self.evaluated),
                (True, self.evaluated_internal),
            )
            for identifier, evaluation in evaluated.items()
            if evaluation.state in states
        ]


class ConsoleContext:
    """The console of one application.

    The application creates the context before the fork. The database and all that depends on it
    are opened when a process first needs them.
    """

    def __init__(self, host: Host, box: SecretBox, client: ClientInfo, describe: Describe) -> None:
        self.host = host
        self.box = box
        self.client = client
        self.describe = describe
        self.settings = host.settings
        self.idle = IDLE_TIMEOUT
        self.failed_sign_ins = FailedSignIns()
        # By endpoint and environment: when it was counted, and the count beside the menu entry.
        self.menu_counts: dict[tuple[str, str], tuple[float, Any]] = {}
        self._engine: Engine | None = None
        self._pid: int | None = None
        self._run_operations: RunOperations | None = None
        self._views: dict[str, tuple[int, EnvironmentView]] = {}
        self._by_policy: dict[str, tuple[EnvironmentView, dict[str, EvaluatedPipelines]]] = {}
        self._lock = threading.Lock()
        rate = Rate(self.settings.console_sign_in_rate, by="address")
        for problem, fix in rate.problems():
            raise BadSetting(f"PENSTOCK_CONSOLE_SIGN_IN_RATE: {problem}; {fix}")
        user_rate = f"{rate.count * USER_RATE_FACTOR}/{rate.text.partition('/')[2]}"
        limiter = partial(
            Limiter,
            self.settings.rate_limit_url,
            processes=self.settings.workers,
            refuse_when_away=self.settings.rate_limit_away == "refuse",
        )
        self.by_address = limiter(failures=rate)
        self.by_user = limiter(failures=Rate(user_rate, by="address"))

    @contextmanager
    def guessing(self, user: str, address: str) -> Iterator[Guess]:
        """Count a password guess before the password is checked; the caller sets `right` after.

        Guesses are limited by address. They are also limited by user, unless the user signed in
        from this address before: an attacker can't lock users out of their own address.
        Raises Refusal above the limit.
        """
        with ExitStack() as stack:
            guesses = [stack.enter_context(self.by_address.guess("console", address))]
            if not is_known_address(self.engine, user, address):
                guesses.append(stack.enter_context(self.by_user.guess("console", f"user {user}")))
            result = Guess()
            yield result
            for guess in guesses:
                guess.right = result.right

    @property
    def engine(self) -> Engine:
        """The database; opened after the fork."""
        if self._engine is None or self._pid != os.getpid():
            self._engine, self._pid = open_engine(self.settings.database_url), os.getpid()
            self._views, self._run_operations = {}, None
        return self._engine

    @property
    def run_operations(self) -> RunOperations:
        """The operations on runs: show, cancel, re-run."""
        engine = self.engine
        if self._run_operations is None:
            self._run_operations = RunOperations(
                engine, self.box, lambda: self.host, open_run_store=self._open_run_store
            )
        return self._run_operations

    def _open_run_store(self, url: str, environment: str, box: SecretBox) -> RunStore:
        services = self.host.services
        own = services.run_store if services and environment == self.settings.environment else None
        return own or open_dbos(url, environment, box)

    def environments(self) -> list[EnvironmentRow]:
        """Return the environments in which the user of the request has a role, by name."""
        rows = list_environments(self.engine)
        signed_in: SignedIn | None = g.get("user") if has_request_context() else None
        if signed_in is None or signed_in.role is not None:
            return rows
        return [row for row in rows if row.name in signed_in.roles]

    def environment_names(self) -> list[str]:
        """Return the names of these environments."""
        return [row.name for row in self.environments()]

    def view(self, environment: str) -> EnvironmentView:
        """Return an environment as it is now, without its consumers and their keys.

        Only what changed since the last call is read and evaluated. Raises UnknownName.
        """
        engine = self.engine
        with self._lock:
            version, view = self._views.get(environment, (-1, None))
            access = (
                view.access if view is not None else Snapshot(environment, self.box, consumers=())
            )
            access.read(engine)
            if view is None or access.gates_version != version or _reevaluation_due(view):
                evaluated = self.host.evaluator.evaluate_all(access)
                internal = {
                    identifier: evaluation
                    for identifier, evaluation in evaluated.internal.items()
                    if evaluation.pipeline.trigger.internal
                }
                view = EnvironmentView(environment, access, evaluated.external, internal)
                self._views[environment] = access.gates_version, view
            return view

    def unreadable_rows(self, view: EnvironmentView) -> tuple[str, ...]:
        """Return a line for each row of an environment that can't be read.

        Rows of consumers are read by the processes of their environment alone.
        """
        own, rows = self.host.view.access, view.access.unreadable_rows
        if own is not None and view.name == self.settings.environment:
            rows = tuple(dict.fromkeys((*rows, *own.unreadable_rows)))
        return rows

    def served(self, view: EnvironmentView) -> ServedEnvironment:
        """Return what the processes of an environment serve, by what they report.

        Raises DatabaseUnavailable.
        """
        return served_in(
            self.engine, self.host.catalog, view.access, view.evaluated, view.evaluated_internal
        )

    def under_each_policy(
        self, view: EnvironmentView, *, internal: bool
    ) -> dict[str, Mapping[str, Evaluation]]:
        """Return the evaluation of an environment's pipelines under each policy, by policy.

        The result is cached until the environment changes.
        """
        cached = self._by_policy.get(view.name)
        if cached is None or cached[0] is not view:
            evaluated = {
                policy: self.host.evaluator.evaluate_all(view.access, policy=policy)
                for policy in self.host.evaluator.options
            }
            cached = self._by_policy[view.name] = view, evaluated
        return {policy: pipelines.on(internal=internal) for policy, pipelines in cached[1].items()}


def _reevaluation_due(view: EnvironmentView) -> bool:
    now = time.time()
    return any(
        evaluation.reevaluate_at is not None and evaluation.reevaluate_at <= now
        for evaluated in (view.evaluated, view.evaluated_internal)
        for evaluation in evaluated.values()
    )


def console_context() -> ConsoleContext:
    """Return the console of the current application."""
    context: ConsoleContext = current_app.extensions[EXTENSION]
    return context


def environment_names() -> list[str]:
    """Return the names of the environments that the user of this request sees; read once."""
    names: list[str] | None = g.get("environment_names")
    if names is None:
        names = g.environment_names = console_context().environment_names()
    return names


def environment_filter() -> str | None:
    """Return the environment in the path, else in the query; None where there is none.

    Raises UnknownName.
    """
    name: str | None = g.get("env") or request.args.get("env") or None
    if name is not None and name not in environment_names():
        raise UnknownName("environment", name, environment_names())
    return name


def shown_environment() -> str | None:
    """Return the environment in the path or query; None where there is none of that name."""
    name: str | None = g.get("env") or request.args.get("env") or None
    return name if name in environment_names() else None


def current_environment() -> str:
    """Return the environment in the path or query, else the one of this process.

    It is never remembered: two tabs in two environments don't mix. Raises UnknownName.
    """
    return environment_filter() or own_environment()


def own_environment() -> str:
    """Return the environment of this process, or the first one that the user sees."""
    own, names = console_context().settings.environment, environment_names()
    return own if own in names or not names else names[0]
