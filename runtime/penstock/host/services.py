"""What the calls of a started process use: rate limits, idempotency keys, records, durable runs.

All of it needs the database and threads, so nothing of it exists before `Host.start`, which comes
after a fork.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from penstock.access.encryption import SecretBox
from penstock.access.replay_guard import ReplayGuard
from penstock.contracts.masks import HIDDEN
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine, open_engine
from penstock.db.failures import DatabaseUnavailable, DatabaseUnfit
from penstock.durable.engine import RunStore
from penstock.durable.intake import RunIntake
from penstock.durable.run_endpoints import RunStatusApi
from penstock.errors import BadSetting, CannotStart, StartDelayed
from penstock.gate.rates import Limiter
from penstock.host.opening import OpenEnvironment
from penstock.host.parts import HostParts
from penstock.logs import keep_lines_of_runs
from penstock.runs.failures import Clean
from penstock.runs.idempotency import IdempotencyStore
from penstock.runs.ids import new_run_id
from penstock.runs.recorder import Recorder, finish_runs
from penstock.runs.run_log import RunLog
from penstock.settings import Settings

OpenRunStore = Callable[[str, str, SecretBox], RunStore]


def open_dbos(url: str, environment: str, box: SecretBox) -> RunStore:
    """Return the engine that holds an environment's durable runs."""
    from penstock.durable.engine_dbos import (  # noqa: PLC0415  it takes half a second, which a process without durable runs saves
        DbosRunStore,
    )

    return DbosRunStore(url, environment, box)


class KeyUsage:
    """When each API key was last used, to the minute; collected here and written in batches."""

    def __init__(self) -> None:
        self._minutes: dict[str, float] = {}

    def note(self, key_id: str, now: float) -> None:
        """Note that a key was used. `now` is in seconds since the epoch."""
        self._minutes[key_id] = now // 60

    def take(self) -> dict[str, float]:
        """Return the minute of each key's last use since the last call of this method."""
        minutes, self._minutes = self._minutes, {}
        return minutes


@dataclass(frozen=True, slots=True)
class Services:
    """What calls use besides the view. Without durable pipelines there is no run store."""

    engine: Engine
    limiter: Limiter
    idempotency: IdempotencyStore
    replay_guard: ReplayGuard
    recorder: Recorder
    run_store: RunStore | None = None
    run_intake: RunIntake | None = None
    run_status_api: RunStatusApi | None = None
    key_usage: KeyUsage = field(default_factory=KeyUsage)

    def close(self) -> None:
        """Write what is left, and close the connections."""
        self.limiter.stop()
        self.recorder.stop()
        if self.run_store is not None:
            self.run_store.close()
        self.engine.dispose()  # at last: on PostgreSQL the others share it


def open_limiter(settings: Settings) -> Limiter:
    """Return what counts calls and failed credentials. Raises BadSetting and CannotStart."""
    return Limiter(
        settings.rate_limit_url,
        failures=_failures(settings.failed_auth_rate),
        processes=settings.workers,
        refuse_when_away=settings.rate_limit_away == "refuse",
    )


def open_services(
    parts: HostParts,
    opened: OpenEnvironment,
    limiter: Limiter,
    *,
    open_run_store: OpenRunStore,
    wake_follower: Callable[[], object],
) -> Services:
    """Open all that calls use, once the view of `parts` is that of `opened`.

    Raises CannotStart, and StartDelayed where a later try may succeed.
    """
    settings, view = parts.settings, parts.view
    engine, box, environment = opened.engine, opened.box, opened.access.environment
    store: RunStore | None = None
    intake: RunIntake | None = None
    status_api: RunStatusApi | None = None
    if any(item.durable for item in parts.catalog.loaded.values()):
        store = open_run_store(settings.database_url, environment.name, box)
        if parts.database.trouble is None:
            _check_run_store(store)
        intake = RunIntake(engine, store, environment.name, environment.id)
        status_api = RunStatusApi(intake, environment.id, max(1, settings.threads // 4))
    run_log = RunLog(partial(_cleaner_of, parts))
    keep_lines_of_runs(run_log.keep)
    recorder = Recorder(
        open_engine(settings.database_url, relaxed=True, create=False),
        environment.id,
        box,
        view.redactor,
        lambda: opened.access.environment.record_bodies,
        finish=intake.finish_in if intake is not None else finish_runs,
        clean=view.cleaner,
        run_log=run_log,
    )
    limiter.probe()
    return Services(
        engine,
        limiter,
        IdempotencyStore(engine, box),
        ReplayGuard(engine, settings.environment, wake_follower),
        recorder,
        store,
        intake,
        status_api,
    )


def _cleaner_of(parts: HostParts, pipeline: str) -> Clean:
    """Return what removes secrets and a pipeline's sensitive fields from a text."""
    item = parts.catalog.loaded.get(pipeline)
    return parts.view.cleaner(item.pipeline) if item is not None else lambda _: HIDDEN


def _check_run_store(store: RunStore) -> None:
    """Raise CannotStart or StartDelayed unless the engine of durable runs answers."""
    try:
        store.look([new_run_id()])
    except DatabaseUnfit as error:
        raise CannotStart(f"durable runs can't be held: {error}") from error
    except DatabaseUnavailable as error:
        raise StartDelayed(f"durable runs can't be held: {error}") from error


def _failures(text: str) -> Rate | None:
    """Return the rate of failed credentials. Raises BadSetting."""
    if text == "off":
        return None
    rate = Rate(text, by="address")
    for problem, fix in rate.problems():
        raise BadSetting(f"PENSTOCK_FAILED_AUTH_RATE: {problem}; {fix}, or off")
    return rate
