"""Open the database for a start: read the access data, and evaluate the pipelines against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from penstock.access.encryption import SecretBox, load_secret_box
from penstock.access.pipelines import pipelines_seen
from penstock.access.snapshot import Snapshot
from penstock.db import migrate
from penstock.db.clock import measure
from penstock.db.engine import Engine, open_existing
from penstock.db.failures import DatabaseUnavailable, DatabaseUnfit
from penstock.errors import CannotStart, PenstockError, StartDelayed, UnknownName
from penstock.gate.compliance import State
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.host.catalog import Catalog
from penstock.host.database_state import DatabaseState
from penstock.host.evaluation import CatalogEvaluator
from penstock.plugins.guard import describe_exception
from penstock.settings import Settings


@dataclass(frozen=True, slots=True)
class OpenEnvironment:
    """An environment as a start found it: the database, the access data and the evaluation."""

    engine: Engine
    box: SecretBox
    access: Snapshot
    evaluated: EvaluatedPipelines


class Opener:
    """Opens the environment of a process, for a start or to rehearse one."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        evaluator: CatalogEvaluator,
        database: DatabaseState,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._evaluator = evaluator
        self._database = database
        self._log = structlog.get_logger("penstock")

    def open(
        self, access: Snapshot | None, *, strict: bool, without_database: bool = False
    ) -> OpenEnvironment:
        """Return the environment, read and evaluated.

        `access` is a snapshot of another process: only later changes are read. With
        `without_database` it also serves where the database is away. `strict` applies
        PENSTOCK_STRICT. Raises CannotStart, and StartDelayed where a later try may succeed.
        """
        settings, box = self._settings, load_secret_box(self._settings)
        try:
            engine = open_existing(settings.database_url, settings.database_from)
            access = access or Snapshot(settings.environment, box, forgiving=not strict)
        except DatabaseUnavailable as error:
            raise _start_error(error) from error
        try:
            self._read(engine, access)
            self._database.answered()
        except (DatabaseUnavailable, UnknownName) as error:
            if not without_database:
                raise _start_error(error) from error
            self._database.lost(str(error))
            self._database.answered_at = access.checked_at
        except PenstockError:
            raise
        except Exception as error:
            raise CannotStart(
                f"the access data can't be read: {describe_exception(error)}"
            ) from error
        evaluated = self._evaluator.evaluate_all(access)
        for fault in evaluated.faults:
            self._catalog.note_fault(fault)
        if strict and settings.strict:
            self._check_strictly(evaluated)
        return OpenEnvironment(engine, box, access, evaluated)

    def _read(self, engine: Engine, access: Snapshot) -> None:
        if migrate.current(engine) is None:
            raise DatabaseUnfit("the database is empty; run `penstock db upgrade`")
        access.read(engine)
        measure(engine)
        offered = self._catalog.offered
        self._report_names(pipelines_seen(engine, "runtime", self._settings.environment, offered))
        access.read(engine)

    def _report_names(self, names: Mapping[str, list[str]]) -> None:
        """Log how names stored by an earlier release were replaced by ids.

        There is no id where no plugin, or more than one, offers such a pipeline.
        """
        for name, identifiers in names.items():
            if identifiers:
                self._log.info("name became ids", name=name, pipelines=identifiers)
            else:
                fix = (
                    "no plugin alone offers it; associate, designate or limit pipelines by"
                    " their ids"
                )
                self._log.warning("name counts for nothing any more", name=name, fix=fix)

    def _check_strictly(self, evaluated: EvaluatedPipelines) -> None:
        """Raise CannotStart if a pipeline is blocked, or a plugin has a fault."""
        blocked = sorted(
            identifier
            for side in (evaluated.external, evaluated.internal)
            for identifier, evaluation in side.items()
            if evaluation.state is State.BLOCKED
        )
        faults = self._catalog.faults(evaluated.external)
        if blocked or faults:
            what = ", ".join(blocked) or str(faults[0])
            raise CannotStart(
                f"PENSTOCK_STRICT is on and not everything can be served: {what}; `penstock check"
                f" --env {self._settings.environment}` says why"
            )


def _start_error(error: DatabaseUnavailable | UnknownName) -> CannotStart:
    """Return why a process can't start: for good, or until the database is back."""
    kind = CannotStart if isinstance(error, DatabaseUnfit | UnknownName) else StartDelayed
    return kind(str(error))
