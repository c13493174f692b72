"""Schedules for operators: the next and the last ticks of each; pause one, or run one now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from penstock import audit, clock
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row
from penstock.access.snapshot import Snapshot
from penstock.contracts.call import ANONYMOUS
from penstock.contracts.cron_words import cron_words
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.triggers import Schedule
from penstock.db import schedules as stored
from penstock.db.engine import Engine, reading
from penstock.db.run_tables import PausedScheduleRow, RunRow
from penstock.db.unit_of_work import RowReader
from penstock.durable.engine import RunStore
from penstock.durable.intake import RunIntake, RunRequest
from penstock.durable.schedules import last_ticks, next_tick, schedule_id, schedule_name, tick_id
from penstock.endpoints.endpoint import Endpoint
from penstock.errors import PenstockError, UnknownName, UsageError
from penstock.execution.calls import JSON, run_input
from penstock.execution.subpipelines import is_startable
from penstock.host.catalog import Catalog
from penstock.host.evaluation import CatalogEvaluator
from penstock.runs.ids import new_run_id

SHOWN_TICKS = 30
MICROS_PER_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class TickView:
    """A tick of a schedule and its run; `status` is None where it has no run.

    `seconds` is the duration of the run, None where it has not ended.
    """

    at: datetime
    run: str
    status: str | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule as operators see it.

    `last` is its last tick, None where it has not had one yet. `ticks` are those since the oldest
    one that has a run, oldest first.
    """

    id: str
    pipeline: str
    cron: str
    words: str
    timezone: str
    path: str
    missed: str
    next: datetime | None
    last: datetime | None
    became: str | None
    run: str | None
    paused_at: datetime | None
    paused_by: str | None
    ticks: tuple[TickView, ...] = ()

    @property
    def paused(self) -> bool:
        """Whether an operator paused it."""
        return self.paused_at is not None


@dataclass(frozen=True, slots=True)
class Declared:
    """A schedule of a loaded pipeline."""

    id: str
    pipeline: Pipeline
    schedule: Schedule

    @property
    def facts(self) -> dict[str, str]:
        """What an audit event says about it."""
        return {"cron": self.schedule.cron, "timezone": self.schedule.timezone}


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Lists and changes the schedules of any environment, by the plugins loaded here."""

    engine: Engine
    box: SecretBox
    catalog: Catalog
    evaluator: CatalogEvaluator
    run_store: Callable[[str], RunStore]

    def views(
        self, environment: str, *, ticks: int = 1, pipeline: str | None = None
    ) -> list[ScheduleView]:
        """Return the schedules of an environment, or of one of its pipelines by its id.

        Each has up to a number of its last ticks. Raises UnknownName.
        """
        now = clock.utc_now()
        with reading(self.engine) as connection:
            row = environment_row(RowReader(connection), environment)
            pauses = stored.pauses(connection, row.id)
        declared = [
            each for each in self._declared(environment) if pipeline in {None, each.pipeline.id}
        ]
        if not declared:
            return []
        moments = {each.id: last_ticks(each.schedule, now, ticks) for each in declared}
        ids = [
            tick_id(environment, each.pipeline.id, each.schedule, at)
            for each in declared
            for at in moments[each.id]
        ]
        with reading(self.engine) as connection:
            runs = stored.runs_of(connection, ids)
        fired = self.run_store(environment).last_ticks()
        views = []
        for each in declared:
            shown = [_tick(environment, each, at, runs) for at in moments[each.id]]
            name = schedule_name(environment, each.pipeline.id, each.schedule)
            views.append(_view(each, shown, now, pauses.get(each.id), fired=name in fired))
        return views

    def find(self, environment: str, pipeline: str, cron: str | None = None) -> str:
        """Return the id of the schedule of a pipeline.

        `pipeline` is an id or a name; `cron` chooses one of several. Raises UnknownName, and
        UsageError where several match.
        """
        declared = list(self._declared(environment))
        own = [each for each in declared if pipeline in {each.pipeline.id, each.pipeline.name}]
        if not own:
            known = {each.pipeline.id for each in declared}
            raise UnknownName("schedule of pipeline", pipeline, known)
        matches = [each for each in own if cron in {None, each.schedule.cron}]
        if len(matches) != 1:
            crons = ", ".join(repr(each.schedule.cron) for each in own)
            fault = "has no such schedule" if not matches else "has several schedules"
            raise UsageError(f"{pipeline} {fault}; give one with --cron: {crons}")
        return matches[0].id

    def pause(self, actor: str, environment: str, schedule: str) -> bool:
        """Pause a schedule; return False where it is paused already. Raises UnknownName."""
        each = self.declared(environment, schedule)
        action = audit.Action.SCHEDULE_PAUSED
        if self._pause(environment, schedule) is not None:
            return False
        with audit.change(
            self.engine, actor, action, each.pipeline.id, environment=environment
        ) as (rows, detail):
            rows.put(
                PausedScheduleRow,
                {PausedScheduleRow.id: schedule},
                {
                    PausedScheduleRow.environment_id: environment_row(rows, environment).id,
                    PausedScheduleRow.pipeline: each.pipeline.id,
                    PausedScheduleRow.paused_at: clock.utc_now(),
                    PausedScheduleRow.paused_by: actor[:255],
                },
            )
            detail.update(each.facts)
        return True

    def resume(self, actor: str, environment: str, schedule: str) -> bool:
        """Resume a paused schedule; return False where it is not paused. Raises UnknownName."""
        each = self.declared(environment, schedule)
        if self._pause(environment, schedule) is None:
            return False
        action = audit.Action.SCHEDULE_RESUMED
        with audit.change(
            self.engine, actor, action, each.pipeline.id, environment=environment
        ) as (rows, detail):
            rows.delete(PausedScheduleRow, {PausedScheduleRow.id: schedule})
            detail.update(each.facts)
        return True

    def run_now(self, actor: str, environment: str, schedule: str) -> str:
        """Accept a run of a schedule, also of a paused one; return its id.

        Raises UnknownName, PenstockError where the pipeline is blocked or disabled, and Refusal
        where too many runs wait.
        """
        each = self.declared(environment, schedule)
        endpoint = schedule_endpoint(self.catalog, each.pipeline.id, each.schedule.path)
        access = Snapshot(environment, self.box, consumers=())
        access.read(self.engine)
        if endpoint is None or not self._is_startable(access, each.pipeline.id):
            raise PenstockError(
                f"{each.pipeline.id} is blocked or disabled in {environment}; `penstock check --env"
                f" {environment}` says why"
            )
        intake = RunIntake(
            self.engine, self.run_store(environment), environment, access.environment.id
        )
        run = new_run_id()
        intake.accept(schedule_request(run, environment, endpoint, each.schedule))
        action = audit.Action.SCHEDULE_RUN
        with audit.change(
            self.engine, actor, action, each.pipeline.id, environment=environment
        ) as (_, detail):
            detail.update(run=run, **each.facts)
        return run

    def declared(self, environment: str, schedule: str) -> Declared:
        """Return a schedule by its id. Raises UnknownName."""
        for each in self._declared(environment):
            if each.id == schedule:
                return each
        raise UnknownName("schedule", schedule, fix="`penstock schedules` lists them")

    def _declared(self, environment: str) -> Iterator[Declared]:
        for identifier, item in sorted(self.catalog.loaded.items()):
            for schedule in () if item.broken else item.pipeline.schedules:
                key = schedule_id(environment, identifier, schedule)
                yield Declared(key, item.pipeline, schedule)

    def _pause(self, environment: str, schedule: str) -> PausedScheduleRow | None:
        with reading(self.engine) as connection:
            environment_row(RowReader(connection), environment)
            return stored.pause_of(connection, schedule)

    def _is_startable(self, access: Snapshot, identifier: str) -> bool:
        external, internal = (
            self.evaluator.evaluate_one(access, identifier, internal=internal)
            for internal in (False, True)
        )
        return is_startable(self.catalog.loaded.get(identifier), external, internal)


def schedule_endpoint(catalog: Catalog, pipeline: str, path: str) -> Endpoint | None:
    """Return the handler that a schedule starts, None where it is not loaded."""
    item = catalog.loaded.get(pipeline)
    for endpoint in item.endpoints if item is not None else ():
        if (endpoint.route.method, endpoint.route.path) == ("POST", path):
            return endpoint
    return None


def schedule_request(
    run: str, environment: str, endpoint: Endpoint, schedule: Schedule
) -> RunRequest:
    """Return a run of a schedule."""
    body = b"" if schedule.body is None else msgspec.json.encode(schedule.body)
    identifier = endpoint.pipeline.id
    given = run_input(
        endpoint,
        environment,
        ANONYMOUS,
        path=f"/{identifier}{endpoint.route.path}",
        content_type=JSON if body else "",
        body=body,
        ancestors=[identifier],
    )
    return RunRequest(run, given, endpoint.pipeline, endpoint.route)


def _tick(environment: str, each: Declared, at: datetime, runs: dict[str, RunRow]) -> TickView:
    run = tick_id(environment, each.pipeline.id, each.schedule, at)
    row = runs.get(run)
    micros = row.micros if row is not None else None
    seconds = None if micros is None else micros / MICROS_PER_SECOND
    return TickView(at.astimezone(UTC), run, row.status if row is not None else None, seconds)


def _view(
    each: Declared,
    ticks: list[TickView],
    now: datetime,
    pause: PausedScheduleRow | None,
    *,
    fired: bool,
) -> ScheduleView:
    schedule = each.schedule
    began = next((place for place, tick in enumerate(ticks) if tick.status), len(ticks))
    last = ticks[-1] if ticks else None
    # Without a run and without a tick that a worker took, it may be younger than that tick.
    known = last if last is not None and (last.status is not None or fired) else None
    return ScheduleView(
        id=each.id,
        pipeline=each.pipeline.id,
        cron=schedule.cron,
        words=cron_words(schedule.cron),
        timezone=schedule.timezone,
        path=schedule.path,
        missed=schedule.missed,
        next=next_tick(schedule, now),
        last=known.at if known is not None else None,
        became=known.status if known is not None else None,
        run=known.run if known is not None and known.status is not None else None,
        paused_at=pause.paused_at if pause is not None else None,
        paused_by=pause.paused_by if pause is not None else None,
        ticks=tuple(ticks[began:]),
    )
