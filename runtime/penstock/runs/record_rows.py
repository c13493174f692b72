"""Rows of runs: values cut to their columns, secrets removed, bodies redacted and encrypted."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from penstock.access.encryption import SecretBox
from penstock.contracts import sanitize
from penstock.contracts.masks import shortened
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.run_status import FIRST_ERROR_STATUS, status_of
from penstock.db import durable_runs
from penstock.db import runs as stored
from penstock.runs.failures import Clean, cleaned
from penstock.runs.records import Finished, Record, RecordedBodies
from penstock.runs.redaction import Redactor
from penstock.runs.step_records import redact_step

MAX_DETAIL_LENGTH = 2000  # characters


def fit_column(text: str | None, max_length: int) -> str | None:
    """Return a text as a column of `max_length` characters stores it.

    The text has whole characters only. Where it is cut, no part of an API key or token remains.
    """
    if text is None or len(text) <= max_length:
        return None if text is None else sanitize.clean_text(text)[:max_length]
    return sanitize.clean_text(shortened(text.replace("\0", ""), max_length))


# Names that come again with every call of a pipeline.
_fit_name = lru_cache(1024)(fit_column)


@lru_cache(1024)
def _status(http_status: int, problem: str | None) -> str:
    """Return a status as the plain text that drivers of databases take without conversion."""
    return status_of(http_status, problem).value


def bodies_are_recorded(
    pipeline: Pipeline, http_status: int, allowed_bodies: Callable[[], str]
) -> bool:
    """Return whether the bodies of a call are recorded, by its pipeline and its environment."""
    declared = pipeline.record_bodies
    if declared == "none" or pipeline.trigger.login:
        return False
    allowed = allowed_bodies()
    if allowed == "none":
        return False
    return http_status >= FIRST_ERROR_STATUS or (declared == "all" and allowed == "all")


class RecordRows:
    """Builds the rows of one environment's runs."""

    def __init__(
        self,
        environment_id: int,
        box: SecretBox,
        redactor: Callable[[Pipeline], Redactor],
        clean: Callable[[Pipeline], Clean] | None = None,
    ) -> None:
        """Take the functions that return a pipeline's redactor and its cleaner of texts.

        Without `clean`, texts are cleaned by the redactor.
        """
        self._environment_id = environment_id
        self._box = box
        self._redactor = redactor
        self._clean = clean or (lambda pipeline: redactor(pipeline).text)

    def run(self, record: Record) -> stored.RunValues:
        """Return the row of a run, in the order of `db.runs.COLUMNS`."""
        caller = record.caller
        return (
            record.run,
            self._environment_id,
            record.pipeline.id,
            _fit_name(record.pipeline.version, 64),
            _fit_name(record.route, 255),
            False,
            caller.consumer_id,
            fit_column(caller.subject, 255),
            _status(record.http_status, record.problem),
            record.http_status,
            record.micros,
            None,
            fit_column(record.problem, 64),
            fit_column(record.detail, MAX_DETAIL_LENGTH),
            record.parent,
            record.redelivers,
            record.request_id,
            caller.key_id,
            fit_column(record.failure.type, 255) if record.failure is not None else None,
        )

    def end(self, event: Finished, details: stored.DetailValues | None) -> durable_runs.End:
        """Return the end of a durable run as its row stores it."""
        steps, bodies, failure = details[1:] if details is not None else (None, None, None)
        return durable_runs.End(
            event.run,
            event.status.value,
            event.http_status,
            event.micros,
            fit_column(event.problem, 64),
            fit_column(event.detail, MAX_DETAIL_LENGTH),
            steps,
            bodies,
            failure,
            started_at=event.started_at,
            ended_at=event.ended_at,
            error_type=fit_column(event.failure.type, 255) if event.failure is not None else None,
        )

    def details(self, record: Record | Finished) -> stored.DetailValues | None:
        """Return id, steps, bodies and failure of a run, None where there is nothing to store."""
        steps, exchange, failure = record.steps, record.exchange, record.failure
        if not steps and exchange is None and failure is None:
            return None
        clean = self._clean(record.pipeline)
        for step in steps or ():
            redact_step(step, clean)
        return (
            record.run,
            sanitize.as_json(steps) if steps else None,
            self._encrypted(record.pipeline, exchange) if exchange is not None else None,
            sanitize.as_json(cleaned(failure, clean)) if failure is not None else None,
        )

    def _encrypted(self, pipeline: Pipeline, exchange: RecordedBodies) -> bytes:
        """Return the redacted bodies of a call, encrypted."""
        redactor = self._redactor(pipeline)
        request: dict[str, Any] = {}
        if exchange.form:
            request = redactor.form(exchange.form)
        elif exchange.body is not None:
            request = redactor.body(exchange.content_type, exchange.body)
        request |= {
            "path": redactor.path(exchange.path, exchange.params),
            "query": redactor.query(exchange.query),
        }
        reply = redactor.body(exchange.reply_type, exchange.reply)
        return self._box.encrypt(sanitize.as_json({"input": request, "output": reply}))
