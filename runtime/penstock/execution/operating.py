"""What operators see of runs, and do to them: commands and pages use the same functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec

from penstock import audit, clock
from penstock.access.encryption import SecretBox, UnknownKey
from penstock.access.lookup import consumer_row, environment_row
from penstock.contracts.masks import masked
from penstock.contracts.pipeline import Pipeline, Route
from penstock.contracts.run_status import UNFINISHED, Status
from penstock.db import runs as stored
from penstock.db.engine import Engine, reading
from penstock.db.run_tables import RunRow
from penstock.db.runs import FullRunRow
from penstock.db.tables import ConsumerRow, EnvironmentRow
from penstock.db.unit_of_work import RowReader
from penstock.durable.engine import EngineRun, RunStore, State
from penstock.durable.intake import RunIntake, RunRequest, engine_ids_of, queue_of
from penstock.durable.runner import RunInput
from penstock.durable.status import (
    current_status,
    ended_of,
    failure_in,
    progress_of,
    received_at,
    started_of,
    steps_held,
)
from penstock.errors import PenstockError, UnknownName, UsageError
from penstock.runs.ids import first_id, is_run_id, new_run_id
from penstock.runs.records import failure_from, steps_of
from penstock.runs.redaction import hidden_in

MILLISECOND = timedelta(milliseconds=1)
Shown = dict[str, Any]
Find = Callable[[str, str, str], tuple[Pipeline, Route]]
SAME = (
    "id", "pipeline", "version", "route", "durable", "subject", "status", "http_status", "problem",
    "detail", "parent", "redelivers", "request_id",
)  # fmt: skip


def list_runs(  # noqa: PLR0913  one argument a filter
    engine: Engine,
    *,
    environment: str | None = None,
    pipelines: Sequence[str] = (),
    consumer: str | None = None,
    status: str | None = None,
    request_id: str | None = None,
    since: float | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[Shown]:
    """Return runs, newest first.

    `since` is in seconds since the epoch, `before` the id that the page before ended with.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        found = stored.page(
            connection,
            environment_id=environment_row(reader, environment).id if environment else None,
            pipelines=pipelines,
            consumer_id=consumer_row(reader, consumer).id if consumer else None,
            status=status,
            request_id=request_id,
            since=first_id(since) if since is not None else None,
            before=before,
            limit=limit,
        )
        return _named(reader, found)


def _named(reader: RowReader, rows: Sequence[RunRow]) -> list[Shown]:
    environments, consumers = reader.names_by_id(EnvironmentRow), reader.names_by_id(ConsumerRow)
    return [_shown(row, environments, consumers) for row in rows]


def _shown(row: RunRow, environments: Mapping[int, str], consumers: Mapping[int, str]) -> Shown:
    came = received_at(row.id)
    began, micros = row.started_at or came, row.micros
    return {
        **{name: getattr(row, name) for name in SAME},
        "at": came,
        "started_at": row.started_at,
        "ended_at": None if micros is None else began + timedelta(microseconds=micros),
        "ms": None if micros is None else micros / 1000,
        "environment": environments.get(row.environment_id),
        "consumer": consumers.get(row.consumer_id) if row.consumer_id is not None else None,
    }


def show_run(engine: Engine, box: SecretBox, ledger: Callable[[str], RunStore], run: str) -> Shown:
    """Return all that is known of a run.

    Its record, its steps, what was kept of its bodies, and the runs that it started.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        row = _found(connection, run)
        shown = _named(reader, [row])[0]
        shown["children"] = [
            {name: child[name] for name in ("id", "pipeline", "route", "status", "ms")}
            for child in _named(reader, stored.children(connection, run))
        ]
    shown["steps"] = steps_of(row.steps)
    shown["failure"] = failure_from(row.failure)
    shown["unreadable"] = None
    try:
        shown["bodies"] = msgspec.json.decode(box.decrypt(row.bodies)) if row.bodies else None
    except UnknownKey as error:
        shown["bodies"], shown["unreadable"] = None, str(error)
    if row.durable:
        shown |= {
            name: getattr(row, name)
            for name in ("recoveries", "cancelled_by", "callback_url", "callback_status")
        }
        shown["callback_url"] = masked(shown["callback_url"] or "") or None
        held = ledger(shown["environment"]).look([run], outcomes=True).get(run)
        shown |= _now(row, held)
        if held is not None:
            shown["steps"] = (
                steps_held(ledger(shown["environment"]).steps(run), shown["started_at"])
                or shown["steps"]
            )
    return shown


def _now(row: FullRunRow, held: EngineRun | None) -> Shown:
    """Return what is known of a durable run that its record may not have yet."""
    status, started = current_status(row, held), started_of(row, held)
    ended = ended_of(row, held) if status not in UNFINISHED else None
    outcome = held.outcome if held is not None else None
    return {
        "status": status.value,
        "http_status": outcome["status"] if outcome is not None else row.http_status,
        "progress": progress_of(row, held),
        "waits_for": _waits_for(held),
        **({"unreadable": held.undecryptable} if held is not None and held.undecryptable else {}),
        "failure": (
            failure_from(row.failure) or (failure_in(outcome) if outcome is not None else None)
        ),
        "started_at": started,
        "ended_at": ended,
        "ms": (
            (ended - started) / MILLISECOND if ended is not None and started is not None else None
        ),
    }


def _waits_for(held: EngineRun | None) -> str | None:
    """Return what a run waits for that no worker has taken so far, but for its turn."""
    if held is None or held.state is not State.WAITING or not held.deferrals:
        return None
    return (
        "a worker whose PENSTOCK_SECRET_KEY has the key that it was encrypted with;"
        f" {held.deferrals} times one without it gave it back"
    )


def _found(connection: Any, run: str) -> FullRunRow:  # noqa: ANN401  a connection of db
    row = stored.find(connection, run) if is_run_id(run) else None
    if row is None:
        raise UnknownName("run", run, fix="`penstock runs list` shows their ids")
    return row


def cancel_run(engine: Engine, actor: str, accepting: Callable[[str], RunIntake], run: str) -> None:
    """End a durable run that is not over, with those that it started."""
    with reading(engine) as connection:
        row = _found(connection, run)
        environment = _named(RowReader(connection), [row])[0]["environment"]
    if not row.durable:
        raise UsageError(f"run {run} was answered at once; only a durable run can be cancelled")
    accept = accepting(environment)
    status = current_status(row, accept.run_store.look([run], outcomes=True).get(run))
    if status not in UNFINISHED:
        raise PenstockError(f"run {run} is over already: {status}")
    accept.cancel(run, actor)
    with audit.change(engine, actor, audit.Action.RUN_CANCELLED, run, environment=environment) as (
        _,
        detail,
    ):
        detail["pipeline"] = row.pipeline


def redeliver(
    engine: Engine,
    actor: str,
    accepting: Callable[[str], RunIntake],
    find: Find,
    run: str,
    *,
    step: int = 1,
) -> str:
    """Start a durable run again with what it was given, from a step on where one is named.

    Return the new run's id.

    `find` returns pipeline and route by the pipeline's id, method and path; it raises where they
    are not there any more.
    """
    with reading(engine) as connection:
        row = _found(connection, run)
        environment = _named(RowReader(connection), [row])[0]["environment"]
    accept = accepting(environment)
    if current_status(row, accept.run_store.look([run], outcomes=True).get(run)) in UNFINISHED:
        raise PenstockError(f"run {run} is not over; cancel it first, or wait for its end")
    document = accept.run_store.document(run)
    if document is None:
        raise PenstockError(f"what run {run} was given is not remembered any more")
    given = RunInput.of(document)
    pipeline, route = find(given.pipeline, given.method, given.route)
    new = new_run_id()
    wanted = RunRequest(
        new,
        msgspec.structs.replace(given, accepted_at=clock.now()),
        pipeline,
        route,
        row.callback_url,
        redelivers=run,
    )
    if step > 1:
        _check_step(accept.run_store, run, step)
        accept.accept_record(wanted)
        accept.run_store.fork(run, new, step, queue_of(environment, pipeline.id))
    else:
        accept.accept(wanted)
    with audit.change(
        engine, actor, audit.Action.RUN_REDELIVERED, run, environment=environment
    ) as (_, detail):
        detail.update(new=new, step=step, pipeline=pipeline.id)
    return new


def _check_step(ledger: RunStore, run: str, step: int) -> None:
    known = [item.number for item in ledger.steps(run)]
    if not known or step > max(known) + 1:
        raise UsageError(
            f"run {run} has done {max(known, default=0)} steps; `penstock runs show {run}` shows"
            " their numbers"
        )


def recorded_input(shown: Shown) -> tuple[str, str, bytes, str]:
    """Return path, query, body and media type of a call that was answered at once.

    Raises PenstockError where not all of it was recorded.
    """
    run, bodies = shown["id"], shown["bodies"]
    sent = bodies["input"] if bodies else None
    if not sent:
        raise PenstockError(
            f"what run {run} was given is not recorded; record_bodies of its pipeline says"
            " which are"
        )
    hidden = (
        hidden_in(sent.get("json"))
        + hidden_in(sent["query"], "?")
        + hidden_in(sent["path"], "its path")
    )
    if hidden:
        raise PenstockError(
            f"what run {run} was given is not complete: {', '.join(hidden)} is sensitive, and was"
            " not recorded"
        )
    if sent.get("type") == "form" or ("json" not in sent and sent.get("size")):
        raise PenstockError(
            f"what run {run} was given is not recorded as it came: a body of type {sent['type']}"
        )
    query = urlencode(sent["query"], doseq=True)
    return (
        sent["path"],
        query,
        msgspec.json.encode(sent["json"]) if "json" in sent else b"",
        sent.get("type", ""),
    )


def purge_runs(
    engine: Engine,
    actor: str,
    environment: str,
    older_than: float,
    ledger: Callable[[str], RunStore],
) -> int:
    """Forget runs older than so many seconds, a few at a time; return how many."""
    with reading(engine) as connection:
        environment_id = environment_row(RowReader(connection), environment).id
    before, total = first_id(clock.now() - older_than), 0
    while True:
        number, durable = stored.purge(engine, environment_id, before)
        total += number
        if durable:
            ledger(environment).delete(engine_ids_of(durable))
        if number < stored.PURGED_AT_A_TIME:
            break
    with audit.change(
        engine, actor, audit.Action.RUNS_PURGED, environment, environment=environment
    ) as (_, detail):
        detail.update(older_than_seconds=older_than, runs=total)
    return total


def is_over(status: str) -> bool:
    """Say whether nothing more will happen to a run."""
    return Status(status) not in UNFINISHED
