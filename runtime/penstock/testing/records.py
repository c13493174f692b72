"""The types of the records that `Runtime.runs` returns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict

from penstock.durable.run_view import LoggedLine
from penstock.runs.failures import Failure
from penstock.runs.step_records import StepRecord


class ChildRecord(TypedDict):
    """A run that another run started."""

    id: str
    pipeline: str
    route: str
    status: str
    ms: float | None


class InlineRunRecord(TypedDict):
    """The record of any run, as operators see it. Durations (`ms`) are in milliseconds."""

    id: str
    pipeline: str
    version: str
    route: str
    durable: bool
    consumer: str | None
    subject: str | None
    environment: str | None
    status: str
    http_status: int | None
    problem: str | None
    detail: str | None
    parent: str | None
    redelivers: str | None
    request_id: str | None
    key: str | None
    error_type: str | None
    waited_ms: float | None
    at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    ms: float | None
    failure: Failure | None
    children: list[ChildRecord]
    steps: list[StepRecord]
    bodies: dict[str, Any] | None
    unreadable: str | None
    log: Sequence[LoggedLine]
    lines_left_out: int


class RunRecord(InlineRunRecord, total=False):
    """The record of a run, as operators see it. Only durable runs have the fields below."""

    recoveries: int
    progress: dict[str, Any] | None
    waits_for: str | None
    from_step: int | None
    cancelled_by: str | None
    callback_url: str | None
    callback_status: str | None
