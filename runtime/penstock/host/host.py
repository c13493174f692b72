"""Composition root of a process: plugins, access snapshot, services of calls and their upkeep.

`Host(settings)` loads and compiles the plugins, before a fork. `start` opens the database and
starts threads, after it. The parts do not know the host: each is given what it needs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import structlog

from penstock import forks
from penstock.access.snapshot import Snapshot
from penstock.durable.run_endpoints import RunStatusApi
from penstock.errors import Refusal
from penstock.host.catalog import Catalog
from penstock.host.database_state import DatabaseState
from penstock.host.evaluation import CatalogEvaluator
from penstock.host.follower import log_changes
from penstock.host.health import Health
from penstock.host.opening import OpenEnvironment, Opener
from penstock.host.parts import HostParts
from penstock.host.report import StartReport
from penstock.host.services import (
    OpenRunStore,
    Services,
    open_dbos,
    open_limiter,
    open_services,
)
from penstock.host.signals import Signals
from penstock.host.upkeep import Upkeep
from penstock.host.view import CurrentView
from penstock.logs import LogThrottle
from penstock.plugins.loading import load_plugins
from penstock.settings import Settings


class Host:
    """A ready runtime. Nothing of it runs before `start`, which belongs after a fork."""

    def __init__(
        self,
        settings: Settings,
        *,
        extra: Iterable[tuple[str, object]] = (),
        open_run_store: OpenRunStore = open_dbos,
    ) -> None:
        self.settings = settings
        self.catalog = Catalog(settings, load_plugins(settings, extra=extra), self._run_status_api)
        self.view = CurrentView(settings)
        self.evaluator = CatalogEvaluator(self.catalog, self.view)
        self.report = StartReport(settings, self.catalog)
        # None before the start; another start, after a fork, replaces it.
        self.services: Services | None = None
        self.fork: int | None = None  # the generation of forks that `start` was called in
        self._parts = HostParts(
            settings,
            self.catalog,
            self.view,
            self.evaluator,
            DatabaseState(settings.max_staleness),
            self.report,
            LogThrottle(structlog.get_logger("penstock.calls")),
        )
        self.upkeep = Upkeep(self._parts)
        self.health = Health(self._parts, self.upkeep, lambda: self.services)
        self._opener = Opener(settings, self.catalog, self.evaluator, self._parts.database)
        self._open_run_store = open_run_store
        self._starting = threading.Lock()

    def start(
        self,
        *,
        kind: str | None = None,
        access: Snapshot | None = None,
        respawned: bool = False,
        without_database: bool = False,
    ) -> None:
        """Open the database, evaluate the pipelines, and follow the database from now on.

        A process of a `kind` is listed as alive. `access` is a snapshot of the process that this
        one was forked from: only later changes are read. PENSTOCK_STRICT does not apply to a
        process that was `respawned`, because no operator waits for its result. With
        `without_database` it serves `access` where the database is away. A second call in the same
        process does nothing. Raises CannotStart, and StartDelayed where a later try may succeed.
        """
        with self._starting:
            if self.fork == forks.generation():
                return
            opened = self._opener.open(
                access, strict=not respawned, without_database=without_database
            )
            limiter = open_limiter(self.settings)
            log_changes(self.view.evaluated, opened.evaluated)
            self.view.access, self.view.evaluated = opened.access, opened.evaluated
            signals = Signals()
            services = open_services(
                self._parts,
                opened,
                limiter,
                open_run_store=self._open_run_store,
                wake_follower=signals.changed.set,
            )
            self.services = services
            self.report.write(opened.access, opened.evaluated, limiter, opened.box.fingerprints)
            self._log_loaded(opened)
            self.upkeep.start(services, signals, kind)
            self.fork = forks.generation()

    def stop(self) -> None:
        """End the threads, and write what is left."""
        self.upkeep.stop()
        if self.services is not None:
            self.services.close()

    def rehearse(self, access: Snapshot | None = None) -> bytes:
        """Do all that a start needs, then close the database again. Raises CannotStart.

        Write the start report, and return its digest.
        """
        opened = self._opener.open(access, strict=True)
        limiter = open_limiter(self.settings)
        opened.engine.dispose()
        return self.report.write(opened.access, opened.evaluated, limiter, opened.box.fingerprints)

    def _log_loaded(self, opened: OpenEnvironment) -> None:
        external = opened.evaluated.external
        served = sum(evaluation.served for evaluation in external.values())
        structlog.get_logger("penstock").info(
            "loaded",
            environment=self.settings.environment,
            plugins=self.catalog.plugins.loaded,
            secret_keys=list(opened.box.fingerprints),
            pipelines=len(external),
            served=served if self.settings.pipelines else 0,
        )

    def _run_status_api(self) -> RunStatusApi:
        """Return what answers consumers about their durable runs. Raises Refusal before a start."""
        api = self.services.run_status_api if self.services is not None else None
        if api is None:
            raise Refusal(503, "pipeline-unavailable", "Runs can't be looked up at the moment.")
        return api
