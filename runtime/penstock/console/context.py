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

from flask import current_app

from penstock.access.encryption import SecretBox
from penstock.access.environments import list_environments
from penstock.access.sessions import IDLE_TIMEOUT, is_known_address
from penstock.access.snapshot import Snapshot
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine, open_engine
from penstock.db.tables import EnvironmentRow
from penstock.durable.engine import RunStore
from penstock.errors import BadSetting
from penstock.execution.steering import RunOperations
from penstock.gate.compliance import Evaluation, State
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.gate.guesses import Look
from penstock.gate.rates import Limiter
from penstock.host.catalog import Catalog
from penstock.host.host import Host
from penstock.host.services import open_dbos
from penstock.runs.recent_callers import Callers
from penstock.runs.statistics import Traffic

# An environment's pipelines as OpenAPI.
Describe = Callable[[Catalog, str, Mapping[str, Evaluation]], dict[str, Any]]

EXTENSION = "penstock-console"
PER_USER = 5  # times the rate of an address, for guesses at one user may come from many


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """Whose request it is: the client's address, and whether it came over TLS.

    Both asked while a request is answered.
    """

    address: Callable[[], str]
    secure: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class View:
    """An environment as its processes see it.

    Its access data, and what became of each pipeline on each listener.
    """

    name: str
    access: Snapshot
    evaluated: Mapping[str, Evaluation]
    evaluated_internal: Mapping[str, Evaluation]

    def of_state(self, *states: State) -> list[tuple[str, bool, Evaluation]]:
        """Return the pipelines in one of these states.

        Id, whether on the internal listener, and why.
        """
        found = [
            (name, False, item) for name, item in self.evaluated.items() if item.state in states
        ]
        return found + [
            (name, True, item)
            for name, item in self.evaluated_internal.items()
            if item.state in states
        ]


class ConsoleContext:
    """Made with the application; what belongs to one process is made when it is first asked for."""

    def __init__(self, host: Host, box: SecretBox, peer: ClientInfo, describe: Describe) -> None:
        self.host = host
        self.box = box
        self.peer = peer
        self.describe = describe
        self.settings = host.settings
        self.idle = IDLE_TIMEOUT
        self.traffic = Traffic()
        self.callers = Callers()
        self._engine: Engine | None = None
        self._pid: int | None = None
        self._steering: RunOperations | None = None
        self._views: dict[str, tuple[int, View]] = {}
        self._under: dict[str, tuple[View, dict[str, EvaluatedPipelines]]] = {}
        self._lock = threading.Lock()
        rate = Rate(self.settings.console_sign_in_rate, by="address")
        for problem, fix in rate.problems():
            raise BadSetting(f"PENSTOCK_CONSOLE_SIGN_IN_RATE: {problem}; {fix}")
        refuse = self.settings.rate_limit_away == "refuse"
        limiter = partial(
            Limiter,
            self.settings.rate_limit_url,
            processes=self.settings.workers,
            refuse_when_away=refuse,
        )
        self.by_address = limiter(failures=rate)
        self.by_user = limiter(
            failures=Rate(f"{rate.count * PER_USER}/{rate.text.partition('/')[2]}", by="address")
        )

    @contextmanager
    def guessing(self, user: str, address: str) -> Iterator[Look]:
        """Count a guess at a user's password before it is looked at.

        Whoever looks says whether it was right. Raises Refusal.

        Guesses are limited by address, and by user where the address is none that signed this user
        in before: so nobody can lock a user out of an address that is the user's own.
        """
        with ExitStack() as stack:
            looks = [stack.enter_context(self.by_address.guess("console", address))]
            if not is_known_address(self.engine, user, address):
                looks.append(stack.enter_context(self.by_user.guess("console", f"user {user}")))
            whole = Look()
            yield whole
            for look in looks:
                look.right = whole.right

    @property
    def engine(self) -> Engine:
        """The database, opened after the fork."""
        if self._engine is None or self._pid != os.getpid():
            self._engine, self._pid = open_engine(self.settings.database_url), os.getpid()
            self._views, self._steering = {}, None
        return self._engine

    @property
    def steering(self) -> RunOperations:
        """What looks at runs and steers them."""
        engine = self.engine
        if self._steering is None:
            self._steering = RunOperations(
                engine, self.box, lambda: self.host, open_run_store=self._open_run_store
            )
        return self._steering

    def _open_run_store(self, url: str, environment: str, box: SecretBox) -> RunStore:
        services = self.host.services
        own = services.run_store if services and environment == self.settings.environment else None
        return own or open_dbos(url, environment, box)

    def environments(self) -> list[EnvironmentRow]:
        """Return all environments by name."""
        return list_environments(self.engine)

    def view(self, environment: str) -> View:
        """Return an environment as it is now.

        Only what changed since the last look is read and judged. Raises UnknownName.
        """
        engine = self.engine
        with self._lock:
            version, known = self._views.get(environment, (-1, None))
            access = known.access if known is not None else Snapshot(environment, self.box)
            access.read(engine)
            host = self.host
            if known is None or access.gates_version != version or _due(known):
                judgement = host.evaluator.evaluate_all(access)
                internal = {
                    name: item
                    for name, item in judgement.internal.items()
                    if item.pipeline.trigger.internal
                }
                known = View(environment, access, judgement.external, internal)
                self._views[environment] = access.gates_version, known
            return known

    def under_each_policy(
        self, view: View, *, internal: bool
    ) -> dict[str, Mapping[str, Evaluation]]:
        """Return what each policy would make of an environment's pipelines, by policy.

        It is judged anew where the environment changed.
        """
        known = self._under.get(view.name)
        if known is None or known[0] is not view:
            evaluated = {
                option: self.host.evaluator.evaluate_all(view.access, policy=option)
                for option in self.host.evaluator.options
            }
            known = self._under[view.name] = view, evaluated
        return {option: judgement.on(internal=internal) for option, judgement in known[1].items()}


def _due(view: View) -> bool:
    now = time.time()
    return any(
        item.reevaluate_at is not None and item.reevaluate_at <= now
        for evaluated in (view.evaluated, view.evaluated_internal)
        for item in evaluated.values()
    )


def console_context() -> ConsoleContext:
    """Return what the page that is being answered works on."""
    found: ConsoleContext = current_app.extensions[EXTENSION]
    return found
