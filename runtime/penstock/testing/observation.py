"""What a test can read of a runtime: records of runs, access data, and blocked pipelines."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from penstock.access.encryption import SecretBox
from penstock.contracts.access import AccessView
from penstock.contracts.run_status import Status
from penstock.db.engine import Engine
from penstock.durable.engine_memory import InMemoryEngine
from penstock.errors import UnknownName
from penstock.execution.run_queries import RunQuery, find_run, list_runs
from penstock.host.host import Host
from penstock.testing.lookup import pipeline_id
from penstock.testing.records import RunRecord


class ObservedRuntime:
    """The reading half of `Runtime`."""

    _engine: Engine
    _box: SecretBox
    _host: Host
    _runs: InMemoryEngine

    def _identifier(self, name: str) -> str:
        return pipeline_id(self._host.catalog, name)

    def runs(
        self,
        *,
        pipeline: str | None = None,
        consumer: str | None = None,
        status: str | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """Return the records of runs, newest first.

        Example: `runtime.runs(pipeline="report", status="failed")`.

        Args:
            pipeline: Only runs of this pipeline, by name or id.
            consumer: Only runs of this consumer.
            status: Only runs with this status.
            request_id: Only runs with this request id.
            since: Only runs after this time.
            limit: Number of records. Default 50.

        Raises:
            UsageError: Several pipelines have that name.
            UnknownName: There is no such pipeline, consumer or status.

        """
        if status is not None and status not in set(Status):
            raise UnknownName(
                "status", status, map(str, Status), fix=f"there are: {', '.join(Status)}"
            )
        self.flush()
        rows = list_runs(
            self._engine,
            RunQuery(
                pipelines=() if pipeline is None else (self._identifier(pipeline),),
                consumer=consumer,
                status=status,
                request_id=request_id,
                since=None if since is None else since.timestamp(),
            ),
            limit=limit,
        )
        return [
            cast(
                RunRecord,
                find_run(self._engine, self._box, lambda _: self._runs, row.id).document(),
            )
            for row in rows
        ]

    def flush(self) -> None:
        """Write all waiting records of runs to the database."""
        if self._host.services is not None:
            self._host.services.recorder.flush()

    @property
    def access(self) -> AccessView:
        """The access data of now, for example the signing keys, to forge tokens in tests."""
        access = self._host.view.access
        if access is None:
            raise RuntimeError("the runtime has ended")
        return access

    def blocked(self) -> dict[str, list[str]]:
        """Return the blocked pipelines by id (`v1/orders`), each with its reasons and fixes."""
        return {
            name: [f"{item.reason}; {item.fix}" for item in evaluated.violations]
            for name, evaluated in self._host.view.evaluated.external.items()
            if not evaluated.served
        }

    def warnings(self) -> dict[str, list[str]]:
        """Return the warnings to operators, by pipeline id."""
        return {
            name: list(evaluated.warnings)
            for name, evaluated in self._host.view.evaluated.external.items()
            if evaluated.warnings
        }

    def problems(self) -> list[str]:
        """Return the problems of plugins, each in one line."""
        return [str(problem) for problem in self._host.catalog.problems]
