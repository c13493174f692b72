"""Values that describe a run which ended: as calls and workers report it, and as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from penstock.contracts.call import ANONYMOUS, Caller
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.run_status import Status, status_of
from penstock.runs.failures import Failure
from penstock.runs.step_records import StepRecord


class RecordedBodies(msgspec.Struct, gc=False):
    """Path, query and bodies of a call, as they were received and sent."""

    path: str
    query: str
    content_type: str
    body: bytes | None
    form: Any
    reply_type: str
    reply: bytes
    params: Mapping[str, str] = {}  # msgspec copies defaults


class Record(msgspec.Struct):
    """A run that was answered at once.

    `run` is a UUIDv7, so it has the time of the call. `micros` is the duration in microseconds.
    """

    run: str
    pipeline: Pipeline
    route: str
    http_status: int
    micros: int
    caller: Caller = ANONYMOUS
    problem: str | None = None
    detail: str | None = None
    parent: str | None = None
    request_id: str | None = None
    steps: list[StepRecord] | None = None
    exchange: RecordedBodies | None = None
    redelivers: str | None = None
    failure: Failure | None = None

    @property
    def status(self) -> Status:
        """The status of the run, by its reply."""
        return status_of(self.http_status, self.problem)


class Finished(msgspec.Struct):
    """The end of a durable run. A value is None where it is not known.

    `ended_at` counts where `micros` is None; without either the run ended now.
    """

    run: str
    pipeline: Pipeline
    status: Status
    http_status: int | None = None
    micros: int | None = None
    problem: str | None = None
    detail: str | None = None
    steps: list[StepRecord] | None = None
    exchange: RecordedBodies | None = None
    failure: Failure | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


def without_plugin_data(record: Record | Finished) -> Record | Finished:
    """Return a record without the parts that callers and plugin code can put anything into."""
    return msgspec.structs.replace(record, detail=None, steps=None, exchange=None, failure=None)


def steps_of(encoded: bytes | None) -> list[StepRecord]:
    """Return the steps of a run from the bytes that its record stores."""
    return msgspec.json.decode(encoded, type=list[StepRecord]) if encoded else []


def failure_from(encoded: bytes | None) -> Failure | None:
    """Return the failure of a run from the bytes that its record stores."""
    return msgspec.json.decode(encoded, type=Failure) if encoded else None
