"""What operators do to runs: commands and pages use the same functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

import msgspec

from penstock import audit, clock, forks
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row
from penstock.contracts.call import Caller
from penstock.contracts.run_status import UNFINISHED
from penstock.db import runs as stored
from penstock.db.engine import Engine, reading
from penstock.db.runs import FullRunRow
from penstock.db.unit_of_work import RowReader
from penstock.durable.engine import RunStore
from penstock.durable.intake import RunIntake, RunRequest, engine_ids_of, queue_of
from penstock.durable.run_view import RunView
from penstock.durable.runner import RunInput
from penstock.durable.status import current_status
from penstock.endpoints.endpoint import Endpoint
from penstock.errors import PenstockError, UnknownName, UsageError
from penstock.execution import Execution
from penstock.execution.run_queries import environment_of, find_run
from penstock.execution.subpipelines import RecordedInput
from penstock.host.host import Host
from penstock.host.services import OpenRunStore, open_dbos
from penstock.runs.ids import first_id, new_run_id
from penstock.runs.redaction import hidden_in


def identifiers(host: Callable[[], Host], engine: Engine, name: str | None) -> list[str]:
    """Return the ids of the pipelines that a name or an id means; none without a name.

    An id that is not loaded here may be of another environment, or have runs. Raises UnknownName.
    """
    if not name:
        return []
    names = {identifier: item.pipeline.name for identifier, item in host().catalog.loaded.items()}
    matches = [identifier for identifier, own in names.items() if name in {identifier, own}]
    if not matches:
        with reading(engine) as connection:
            known = "/" in name and stored.is_pipeline(connection, name)
        if not known:
            raise UnknownName("pipeline", name, names if "/" in name else names.values())
    return matches or [name]


def identifiers_like(host: Callable[[], Host], engine: Engine, text: str | None) -> list[str]:
    """Return the ids of the pipelines that a name or an id means, or a part of an id.

    Raises UnknownName.
    """
    try:
        return identifiers(host, engine, text)
    except UnknownName:
        part = (text or "").lower()
        matches = [identifier for identifier in host().catalog.loaded if part in identifier.lower()]
        if not matches:
            raise
        return matches


class RunOperations:
    """Shows, cancels and redelivers runs of every environment.

    The host, and the stores of durable runs, are opened when they are first needed.
    """

    def __init__(
        self,
        engine: Engine,
        box: SecretBox,
        host: Callable[[], Host],
        *,
        open_run_store: OpenRunStore = open_dbos,
    ) -> None:
        self._engine = engine
        self._box = box
        self._host = host
        self._open_run_store = open_run_store
        self._stores: dict[str, RunStore] = {}

    def run_store(self, environment: str) -> RunStore:
        """Return the store of an environment's durable runs."""
        if environment not in self._stores:
            self._stores[environment] = self._open_run_store(
                self._host().settings.database_url, environment, self._box
            )
        return self._stores[environment]

    def run_intake(self, environment: str) -> RunIntake:
        """Return the intake of an environment's durable runs."""
        with reading(self._engine) as connection:
            environment_id = environment_row(RowReader(connection), environment).id
        return RunIntake(self._engine, self.run_store(environment), environment, environment_id)

    def show(self, run: str) -> RunView:
        """Return a run with all its details. Raises UnknownName."""
        return find_run(self._engine, self._box, self.run_store, run)

    def cancel(self, actor: str, run: str) -> None:
        """Cancel a durable run and the runs that it started.

        Raises UnknownName, UsageError for an inline run, PenstockError for a finished one.
        """
        row, environment = environment_of(self._engine, run)
        if not row.durable:
            raise UsageError(f"run {run} was answered at once; only a durable run can be cancelled")
        intake = self.run_intake(environment)
        status = _status(row, intake)
        if status not in UNFINISHED:
            raise PenstockError(f"run {run} is over already: {status}")
        intake.cancel(run, actor)
        action = audit.Action.RUN_CANCELLED
        with audit.change(self._engine, actor, action, run, environment=environment) as (_, detail):
            detail["pipeline"] = row.pipeline

    def rerun_fault(self, view: RunView) -> str:
        """Return why a run can't be run again here, empty where it can.

        An inline run is performed where it is run again: with the plugins, the network and the
        operating system's environment of that process. So it must be one of its environment.
        """
        own = self._host().settings.environment
        try:
            method, _, route = view.route.partition(" ")
            self._endpoint(view.pipeline, method, route)
            if view.durable:
                self._require_input(view)
            else:
                recorded_input(view)
        except PenstockError as error:
            return str(error)
        return "" if view.durable else _elsewhere(view, own)

    def _require_input(self, view: RunView) -> None:
        """Raise PenstockError where the engine no longer has the input of a durable run."""
        if view.unreadable:
            raise PenstockError(view.unreadable)
        if not self.run_store(view.environment or "").look([view.id]):
            raise PenstockError(f"the input of run {view.id} is no longer stored")

    def redeliver(self, actor: str, run: str, *, step: int = 1) -> tuple[str, str | None]:
        """Run a run again with the same input.

        A durable run is accepted anew, with the results of the steps before `step`. An inline run
        is performed here and now, if it is one of the environment of this process. Return the id of
        the new run, and its status where it was performed here. Raises UnknownName, UsageError, and
        PenstockError where the input is gone.
        """
        view = self.show(run)
        if view.durable:
            new, status = self._accept_again(view, step), None
        elif fault := _elsewhere(view, self._host().settings.environment):
            raise UsageError(fault)
        elif step > 1:
            raise UsageError(
                f"run {run} was answered at once, and kept nothing of its steps; it can only be run"
                " again as a whole"
            )
        else:
            new, status = self._perform_again(view)
        action = audit.Action.RUN_REDELIVERED
        with audit.change(self._engine, actor, action, run, environment=view.environment) as (
            _,
            detail,
        ):
            detail.update(new=new, step=step, pipeline=view.pipeline)
        return new, status

    def _accept_again(self, view: RunView, step: int) -> str:
        row, environment = environment_of(self._engine, view.id)
        intake = self.run_intake(environment)
        store = intake.run_store
        if _status(row, intake) in UNFINISHED:
            raise PenstockError(f"run {view.id} is not over; cancel it first, or wait for its end")
        document = store.document(view.id)
        if document is None:
            raise PenstockError(f"the input of run {view.id} is no longer stored")
        given = RunInput.of(document)
        endpoint = self._endpoint(given.pipeline, given.method, given.route)
        request = RunRequest(
            new_run_id(),
            msgspec.structs.replace(given, accepted_at=clock.now()),
            endpoint.pipeline,
            endpoint.route,
            row.callback_url,
            redelivers=view.id,
            from_step=step if step > 1 else None,
        )
        if step > 1:
            _check_step(store, view.id, step)
            intake.accept_record(request)
            store.fork(view.id, request.run, step, queue_of(environment, endpoint.pipeline.id))
        else:
            intake.accept(request)
        return request.run

    def _perform_again(self, view: RunView) -> tuple[str, str]:
        recorded = recorded_input(view)
        method, _, route = view.route.partition(" ")
        endpoint = self._endpoint(view.pipeline, method, route)
        with self._started() as host:
            access = host.view.access
            consumer = (
                access.consumer_named(view.consumer)
                if access is not None and view.consumer
                else None
            )
            caller = Caller(
                view.consumer,
                consumer.id if consumer else None,
                None,
                view.subject,
                endpoint.pipeline.trigger.scopes,
            )
            performed = Execution.of(host).subpipelines.rerun(endpoint, recorded, caller, view.id)
            if host.services is not None:
                host.services.recorder.flush()  # the operator looks at the new run next
            return performed

    def _endpoint(self, pipeline: str, method: str, path: str) -> Endpoint:
        """Return a handler by its pipeline's id, its method and its path as declared.

        Raises UsageError.
        """
        item = self._host().catalog.loaded.get(pipeline)
        for endpoint in item.endpoints if item is not None else ():
            if (endpoint.route.method, endpoint.route.path) == (method, path):
                return endpoint
        raise UsageError(
            f"{method} {path} of {pipeline} is not loaded here; `penstock pipelines` lists what is"
        )

    @contextmanager
    def _started(self) -> Iterator[Host]:
        """Yield a started host of the own environment: that of this process, or a new one."""
        own = self._host()
        if own.fork == forks.generation():
            yield own
            return
        host = Host(own.settings)
        host.start()
        try:
            yield host
        finally:
            host.stop()


def _elsewhere(view: RunView, own: str) -> str:
    """Return why an inline run can't be performed in a process of an environment; empty: it can.

    It would run with the plugins, the network and the operating system's environment of this
    process, which are those of its own environment alone.
    """
    if view.environment == own:
        return ""
    return (
        f"run {view.id} was answered at once in {view.environment}, and this process is of {own}:"
        f" it would run with the plugins and settings of {own}. Run `penstock runs redeliver"
        f" {view.id}` on a host of {view.environment}, with PENSTOCK_ENVIRONMENT={view.environment}"
    )


def _status(row: FullRunRow, intake: RunIntake) -> str:
    run = row.id
    return current_status(row, intake.run_store.look([run], outcomes=True).get(run))


def _check_step(store: RunStore, run: str, step: int) -> None:
    numbers = [item.number for item in store.steps(run)]
    if not numbers or step > max(numbers) + 1:
        raise UsageError(
            f"run {run} has done {max(numbers, default=0)} steps; `penstock runs show {run}` shows"
            " their numbers"
        )


def recorded_input(view: RunView) -> RecordedInput:
    """Return the input of an inline run. Raises PenstockError where not all of it was recorded."""
    run, sent = view.id, view.bodies["input"] if view.bodies else None
    if not sent:
        raise PenstockError(
            f"the input of run {run} is not recorded; record_bodies of its pipeline says which are"
        )
    hidden = (
        hidden_in(sent.get("json"))
        + hidden_in(sent["query"], "?")
        + hidden_in(sent["path"], "its path")
    )
    if hidden:
        raise PenstockError(
            f"the input of run {run} is not complete: {', '.join(hidden)} is sensitive, and was not"
            " recorded"
        )
    if sent.get("type") == "form" or ("json" not in sent and sent.get("size")):
        raise PenstockError(
            f"the input of run {run} is not recorded as it was sent: a body of type {sent['type']}"
        )
    return RecordedInput(
        sent["path"],
        urlencode(sent["query"], doseq=True),
        msgspec.json.encode(sent["json"]) if "json" in sent else b"",
        sent.get("type", ""),
    )


def purge_runs(
    engine: Engine,
    actor: str,
    environment: str,
    older_than: float,
    store_of: Callable[[str], RunStore],
) -> int:
    """Delete runs older than a number of seconds, in batches; return how many."""
    with reading(engine) as connection:
        environment_id = environment_row(RowReader(connection), environment).id
    before, total = first_id(clock.now() - older_than), 0
    while True:
        number, durable = stored.purge(engine, environment_id, before)
        total += number
        if durable:
            store_of(environment).delete(engine_ids_of(durable))
        if number < stored.PURGED_AT_A_TIME:
            break
    with audit.change(
        engine, actor, audit.Action.RUNS_PURGED, environment, environment=environment
    ) as (_, detail):
        detail.update(older_than_seconds=older_than, runs=total)
    return total
