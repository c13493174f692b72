"""The status API of durable runs: consumers look up and cancel theirs at `/runs/{id}`."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from penstock.contracts.call import Call, Reply
from penstock.contracts.pipeline import Pipeline, Route
from penstock.contracts.run_status import UNFINISHED
from penstock.db import runs as stored
from penstock.db.engine import reading
from penstock.db.failures import DatabaseUnavailable
from penstock.durable.intake import RunIntake
from penstock.durable.status import run_document
from penstock.endpoints.endpoint import Endpoint
from penstock.errors import Refusal
from penstock.runs.ids import is_run_id

PATH = "/runs/{run_id}"
FIRST_SEGMENT = "runs"
# RFC 7240 section 4.3.
WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,5})\"?\s*(?=$|[,;])", re.IGNORECASE)
POLL_INTERVALS_S = (0.02, 0.05, 0.1, 0.2)  # between two queries for a caller that waits
REPLY_MARGIN_S = 0.5  # before the end of the call's time limit


def seconds_to_wait(prefer: str | None) -> float:
    """Return the seconds to wait from a Prefer header (`wait=10`, RFC 7240), 0 without one."""
    match = WAIT.search(prefer) if prefer else None
    return float(match[1]) if match is not None else 0.0


class RunStatusApi:
    """Answers calls about the runs of one environment.

    At most `waiters` calls wait for the end of a run at a time; more are answered at once.
    """

    def __init__(self, intake: RunIntake, environment_id: int, waiters: int) -> None:
        self._intake = intake
        self._environment_id = environment_id
        self._waiters = threading.BoundedSemaphore(waiters)
        self._log = structlog.get_logger("penstock")
        self._end = float("inf")

    def end(self, moment: float) -> None:
        """Answer waiting calls by a moment, a `time.monotonic()` reading; their runs continue."""
        self._end = moment - REPLY_MARGIN_S

    def show(self, call: Call, pipeline: str, run: str) -> Reply:
        """Return a run of the calling consumer. Raises Refusal (404), also for runs of others."""
        document = self._document(call, pipeline, run)
        return self._wait(call, run, document) or _reply(document)

    def cancel(self, call: Call, pipeline: str, run: str) -> Reply:
        """Cancel an unfinished run of the calling consumer, and return it."""
        if self._document(call, pipeline, run)["status"] in UNFINISHED:
            self._intake.cancel(run, f"consumer {call.caller.consumer}")
        return _reply(self._document(call, pipeline, run))

    def wait(self, call: Call, run: str) -> Reply | None:
        """Return a new run once it has finished or the time to wait is over.

        Return None where the caller does not wait.
        """
        return self._wait(
            call,
            run,
            {
                "pipeline": f"{call.path.split('/')[1]}/{call.path.split('/')[2]}",
                "status": "accepted",
            },
        )

    def _wait(self, call: Call, run: str, document: dict[str, Any]) -> Reply | None:
        seconds = seconds_to_wait(call.headers.get("prefer"))
        if (
            not seconds
            or document["status"] not in UNFINISHED
            or not self._waiters.acquire(blocking=False)
        ):
            return None
        try:
            until, look = time.monotonic() + min(seconds, call.remaining() - REPLY_MARGIN_S), 0
            while (
                document["status"] in UNFINISHED
                and (left := min(until, self._end) - time.monotonic()) > 0
            ):
                time.sleep(min(POLL_INTERVALS_S[min(look, len(POLL_INTERVALS_S) - 1)], left))
                look += 1
                document = self._document(call, document["pipeline"], run)
        finally:
            self._waiters.release()
        return _reply(document, {"Preference-Applied": f"wait={seconds:g}"})

    def _document(self, call: Call, pipeline: str, run: str) -> dict[str, Any]:
        try:
            with reading(self._intake.engine) as connection:
                row = (
                    stored.find(connection, run, environment_id=self._environment_id)
                    if is_run_id(run)
                    else None
                )
            mine = (
                row is not None
                and row.durable
                and row.pipeline == pipeline
                and row.consumer_id == call.caller.consumer_id
            )
            if row is None or not mine or call.caller.consumer_id is None:
                raise Refusal(404, "not-found", "There is no such run.")
            engine_run = self._intake.run_store.look([run], outcomes=True).get(run)
            if engine_run is not None and engine_run.undecryptable:
                self._log.error(
                    "a run's result can't be read", run=run, reason=engine_run.undecryptable
                )
                raise Refusal(
                    503,
                    "pipeline-unavailable",
                    "This run can't be looked up at the moment.",
                    headers=[("Retry-After", "10")],
                )
            return run_document(row, engine_run)
        except DatabaseUnavailable as error:
            raise Refusal(
                503,
                "pipeline-unavailable",
                "Runs can't be looked up at the moment.",
                headers=[("Retry-After", "1")],
            ) from error


def _reply(document: dict[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
    again = {"Retry-After": "1"} if document["status"] in UNFINISHED else {}
    return Reply(200, {"Cache-Control": "no-store", **again, **(headers or {})}, document)


def run_endpoints(pipeline: Pipeline, asking: Callable[[], RunStatusApi]) -> list[Endpoint]:
    """Return the endpoints of `/runs/{id}` below a pipeline.

    `asking` returns the status API, which exists once the process was started.
    """

    def show(call: Call) -> Reply:
        """Return the status of a run, and its result once it has finished."""
        return asking().show(call, pipeline.id, call.params["run_id"])

    def cancel(call: Call) -> Reply:
        """Cancel an unfinished run."""
        return asking().cancel(call, pipeline.id, call.params["run_id"])

    return [
        _endpoint(pipeline, Route(method, PATH, handler))
        for method, handler in (("GET", show), ("DELETE", cancel))
    ]


def _endpoint(pipeline: Pipeline, route: Route) -> Endpoint:
    return Endpoint(
        pipeline,
        route,
        ("run_id",),
        route.handler,
        lambda _: {},
        {"run_id": str},
        (),
        None,
        None,
        of_runtime=True,
    )
