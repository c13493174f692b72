"""The parts of a host that exist from the beginning, for those that work with several of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from penstock.host.attendance import Attendance
from penstock.host.catalog import Catalog
from penstock.host.database_state import DatabaseState
from penstock.host.evaluation import CatalogEvaluator
from penstock.host.report import StartReport
from penstock.host.view import CurrentView
from penstock.logs import LogThrottle
from penstock.settings import Settings


@dataclass(frozen=True, slots=True)
class HostParts:
    """What a process has before its start: each part holds its own state."""

    settings: Settings
    catalog: Catalog
    view: CurrentView
    evaluator: CatalogEvaluator
    database: DatabaseState
    report: StartReport
    log_throttle: LogThrottle
    attendance: Attendance = field(default_factory=Attendance)
    started_at: float = field(default_factory=time.time)  # seconds since the epoch
