"""Schedules: declare them to the engine, and accept a run for each tick."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog

from penstock import clock
from penstock.contracts.triggers import Schedule
from penstock.db.engine import reading
from penstock.db.schedules import pause_of
from penstock.durable.engine import RunExecutor, RunStore
from penstock.durable.intake import RunIntake, queue_of, ticks_of
from penstock.durable.schedules import schedule_id, schedule_name, skip_reason, tick_id
from penstock.errors import PenstockError, Refusal
from penstock.execution.scheduling import schedule_endpoint, schedule_request
from penstock.execution.subpipelines import SubpipelineRunner
from penstock.host.catalog import Catalog
from penstock.host.compilation import LoadedPipeline

DELETION_INTERVAL_S = 3600.0
TICK_RETENTION_S = 86_400.0

_log = structlog.get_logger("penstock.worker")


def declare(catalog: Catalog, environment: str, executor: RunExecutor) -> None:
    """Declare the schedules of all loaded pipelines, and delete their former schedules."""
    declared: set[str] = set()
    for identifier, item in catalog.loaded.items():
        for schedule in item.pipeline.schedules if not item.broken else ():
            name = schedule_name(environment, identifier, schedule)
            context = {"pipeline": identifier, "cron": schedule.cron, "path": schedule.path}
            queue = ticks_of(environment, identifier)
            executor.schedule(
                name,
                schedule.cron,
                schedule.timezone,
                context,
                queue=queue,
                make_up=schedule.missed == "once",
            )
            declared.add(name)
    queues = {queue_of(environment, identifier) for identifier in catalog.loaded}
    executor.unschedule(declared, lambda name: name.partition(" ")[0] in queues)


def tick(
    catalog: Catalog,
    environment: str,
    starter: SubpipelineRunner,
    intake: RunIntake,
    context: Mapping[str, Any],
    moment: datetime,
    now: datetime | None,
) -> None:
    """Accept the run of a tick, once over all processes; `now` is when, if that is not now."""
    identifier = context["pipeline"]
    item = catalog.loaded.get(identifier)
    schedule = _schedule_of(item, context)
    endpoint = schedule_endpoint(catalog, identifier, context["path"])
    if schedule is None or endpoint is None or not starter.may_start(identifier):
        reason = "the pipeline is blocked, disabled or not loaded"
        _log.warning("schedule skipped", pipeline=identifier, cron=context["cron"], reason=reason)
        return
    why = _pause_reason(intake, environment, identifier, schedule) or skip_reason(
        schedule, moment, now or clock.utc_now()
    )
    if why is not None:
        _log.info(
            "schedule skipped",
            pipeline=identifier,
            cron=context["cron"],
            tick=moment.isoformat(),
            reason=why,
        )
        return
    run = tick_id(environment, identifier, schedule, moment)
    with suppress(Refusal):  # the backlog is full, so this tick is skipped
        intake.accept(schedule_request(run, environment, endpoint, schedule))


def _pause_reason(
    intake: RunIntake, environment: str, pipeline: str, schedule: Schedule
) -> str | None:
    """Return that a schedule is paused, None where it is not.

    The database is asked at each tick, so that a pause holds in every process from its commit on.
    """
    with reading(intake.engine) as connection:
        pause = pause_of(connection, schedule_id(environment, pipeline, schedule))
    return f"{pause.paused_by} paused the schedule" if pause is not None else None


def delete_old_ticks(run_store: RunStore, stop: threading.Event, _: object = None) -> None:
    """Delete old ticks of schedules until `stop`; each deletion may look through many runs."""
    since = 0.0
    while not stop.is_set():
        until = clock.now() - TICK_RETENTION_S
        with suppress(PenstockError):
            while run_store.delete_ticks(since, until) and not stop.is_set():
                pass
            since = until - TICK_RETENTION_S
        stop.wait(DELETION_INTERVAL_S)


def _schedule_of(item: LoadedPipeline | None, context: Mapping[str, Any]) -> Schedule | None:
    schedules = item.pipeline.schedules if item is not None else ()
    return next(
        (
            schedule
            for schedule in schedules
            if (schedule.cron, schedule.path) == (context["cron"], context["path"])
        ),
        None,
    )
