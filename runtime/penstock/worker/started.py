"""The parts of a host that exist once it was started."""

from __future__ import annotations

from penstock.db import runs as stored
from penstock.db.engine import Engine, reading
from penstock.db.runs import FullRunRow
from penstock.durable.intake import RunIntake
from penstock.host.services import Services
from penstock.runs.ids import is_run_id
from penstock.runs.recorder import Recorder


def intake_of(services: Services | None) -> RunIntake:
    """Return what accepts durable runs. Raises RuntimeError before the start."""
    if services is None or services.run_intake is None:
        raise RuntimeError("the worker was not started")
    return services.run_intake


def recorder_of(services: Services | None) -> Recorder:
    """Return the recorder of runs. Raises RuntimeError before the start."""
    if services is None:
        raise RuntimeError("the worker was not started")
    return services.recorder


def find_run(engine: Engine, run: str) -> FullRunRow | None:
    """Return the record of a run, None for a tick of a schedule. Raises DatabaseUnavailable."""
    if not is_run_id(run):
        return None
    with reading(engine) as connection:
        return stored.find(connection, run)
