"""What operators do to runs, whoever asks for it: a command, or a page of the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from penstock import audit, forks
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row
from penstock.contracts.call import Caller
from penstock.contracts.pipeline import Pipeline, Route
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.durable.engine import RunStore
from penstock.durable.intake import RunIntake
from penstock.endpoints.endpoint import Endpoint
from penstock.errors import UnknownName, UsageError
from penstock.execution import Execution, operating
from penstock.execution.subpipelines import RecordedInput
from penstock.host.host import Host
from penstock.host.services import OpenRunStore, open_dbos


def identifiers(host: Host, name: str) -> list[str]:
    """Return the ids of the pipelines that a name means.

    An id that is not loaded here may still have runs. Raises UnknownName.
    """
    known = {identifier: item.pipeline.name for identifier, item in host.catalog.loaded.items()}
    found = [identifier for identifier, own in known.items() if name in {identifier, own}]
    if not found and "/" not in name:
        raise UnknownName("pipeline", name, known.values())
    return found or [name]


class RunOperations:
    """Looks at runs of every environment, cancels them and starts them again.

    What it needs is made when it is first asked for.
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
        self._ledgers: dict[str, RunStore] = {}

    def run_store(self, environment: str) -> RunStore:
        """Return what the engine holds of an environment's durable runs."""
        if environment not in self._ledgers:
            self._ledgers[environment] = self._open_run_store(
                self._host().settings.database_url, environment, self._box
            )
        return self._ledgers[environment]

    def run_intake(self, environment: str) -> RunIntake:
        """Return what accepts durable runs of an environment."""
        with reading(self._engine) as connection:
            environment_id = environment_row(RowReader(connection), environment).id
        return RunIntake(self._engine, self.run_store(environment), environment, environment_id)

    def show(self, run: str) -> operating.Shown:
        """Return all that is known of a run. Raises UnknownName."""
        return operating.show_run(self._engine, self._box, self.run_store, run)

    def cancel(self, actor: str, run: str) -> None:
        """End a durable run that is not over, with those that it started."""
        operating.cancel_run(self._engine, actor, self.run_intake, run)

    def redeliver(self, actor: str, run: str, *, step: int = 1) -> tuple[str, str | None]:
        """Start a run again with what it was given.

        Return the new one, and what became of it where it was run here and now.
        """
        shown = self.show(run)
        if shown["durable"]:
            return (
                operating.redeliver(
                    self._engine, actor, self.run_intake, self._route, run, step=step
                ),
                None,
            )
        if step > 1:
            raise UsageError(
                f"run {run} was answered at once, and kept nothing of its steps; it can only be run"
                " again as a whole"
            )
        new, status = self._again(shown)
        with audit.change(
            self._engine, actor, audit.Action.RUN_REDELIVERED, run, environment=shown["environment"]
        ) as (_, detail):
            detail.update(new=new, step=step, pipeline=shown["pipeline"])
        return new, status

    def _route(self, pipeline: str, method: str, path: str) -> tuple[Pipeline, Route]:
        endpoint = self._endpoint(pipeline, method, path)
        return endpoint.pipeline, endpoint.route

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

    def _again(self, shown: operating.Shown) -> tuple[str, str]:
        """Run a call that was answered at once again, with what it was given.

        Return the new run and what became of it.
        """
        recorded = RecordedInput(*operating.recorded_input(shown))
        method, _, route = shown["route"].partition(" ")
        endpoint = self._endpoint(shown["pipeline"], method, route)
        with self._started(shown["environment"]) as host:
            known = (
                host.view.access.consumer_named(shown["consumer"])
                if host.view.access is not None and shown["consumer"]
                else None
            )
            caller = Caller(
                shown["consumer"],
                known.id if known else None,
                None,
                shown["subject"],
                endpoint.pipeline.trigger.scopes,
            )
            made = Execution.of(host).subpipelines.rerun(endpoint, recorded, caller, shown["id"])
            if host.services is not None:
                host.services.recorder.flush()  # who asked for it looks at it next
            return made

    @contextmanager
    def _started(self, environment: str) -> Iterator[Host]:
        """Yield a host that serves an environment.

        Our own where it does, else one for this alone.
        """
        own = self._host()
        if own.settings.environment == environment and own.fork == forks.generation():
            yield own
            return
        host = Host(replace(own.settings, environment=environment))
        host.start()
        try:
            yield host
        finally:
            host.stop()
