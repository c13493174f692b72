"""Record and log each HTTP call, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from penstock.contracts.call import ANONYMOUS, Caller
from penstock.contracts.masks import masked
from penstock.contracts.networks import caller_network
from penstock.db.rejected_calls import RejectedCall
from penstock.errors import Refusal
from penstock.execution.executor import Executor, Outcome
from penstock.host.view import CurrentView
from penstock.logs import LogThrottle
from penstock.runs.record_rows import MAX_DETAIL_LENGTH, fit_column
from penstock.runs.recorder import Recorder
from penstock.web.durable_calls import ACCEPTED
from penstock.web.exchange import Environ, Exchange, reason_of, request_path

REPLAYED, STATUS_READ = "replayed", "looked-up"  # outcomes that are counted and are no runs
FAILURE = 400  # the first status of a failure
TOO_MANY_REQUESTS = 429
SERVER_FAULTS = frozenset({500, 504})
# Characters of the record of a rejected call.
MAX_ADDRESS_LENGTH, MAX_REASON_LENGTH, MAX_METHOD_LENGTH = 64, 255, 16
MAX_PATH_LENGTH, MAX_ROUTE_LENGTH = 1024, 255


class CallLog:
    """Writes the records and the log lines of calls."""

    def __init__(
        self,
        executor: Executor,
        recorder: Callable[[], Recorder | None],
        view: CurrentView,
        throttle: LogThrottle,
        log_calls: str,
        address_of: Callable[[Environ], str],
    ) -> None:
        """Create the log of a listener.

        `log_calls` is the setting: `all`, `failed` or `none`. `address_of` returns the network
        address of a caller.
        """
        self._executor = executor
        self._recorder = recorder
        self._view = view
        self._throttle = throttle
        self._address_of = address_of
        self._log = structlog.get_logger("penstock.calls")
        self._all = log_calls == "all"
        self._failures = log_calls != "none"

    def record(self, exchange: Exchange, outcome: Outcome) -> None:
        """Hand over the record of a run, or count a call that became none. Once for each call."""
        recorder, call, endpoint = self._recorder(), exchange.call, exchange.endpoint
        if recorder is None or exchange.recorded:
            return
        exchange.recorded = True
        pipeline, refusal = exchange.place.pipeline, outcome.refusal
        if exchange.runner is None or call is None or endpoint is None:
            if refusal is not None:
                caller: Caller = exchange.caller or refusal.caller or ANONYMOUS
                recorder.rejected(
                    pipeline,
                    refusal.code,
                    caller,
                    describe=partial(self._rejected, exchange, refusal, caller),
                )
            elif endpoint is not None:
                outcome_name = ACCEPTED if endpoint.route.durable else REPLAYED
                recorder.counted(pipeline, outcome_name, exchange.caller or ANONYMOUS)
            return
        if endpoint.of_runtime:
            recorder.counted(pipeline, STATUS_READ, call.caller)
            return
        self._executor.record(
            endpoint,
            call,
            outcome,
            exchange.runner.steps,
            seconds=exchange.seconds,
            request_id=exchange.request_id,
            received=call.so_far(),
        )

    def _rejected(
        self, exchange: Exchange, refusal: Refusal, caller: Caller, environment_id: int
    ) -> RejectedCall:
        """Return the record of a rejected call."""
        endpoint = exchange.endpoint
        return RejectedCall(
            id=exchange.run,
            environment_id=environment_id,
            pipeline=exchange.place.pipeline,
            problem=refusal.code,
            address=self._address_of(exchange.environ)[:MAX_ADDRESS_LENGTH],
            reason=fit_column(reason_of(refusal), MAX_REASON_LENGTH),
            consumer_id=caller.consumer_id,
            http_status=refusal.status,
            method=fit_column(exchange.method, MAX_METHOD_LENGTH),
            path=fit_column(self._redacted_path(exchange), MAX_PATH_LENGTH),
            route=fit_column(endpoint.name, MAX_ROUTE_LENGTH) if endpoint is not None else None,
            detail=fit_column(refusal.detail, MAX_DETAIL_LENGTH),
            key_id=caller.key_id,
            scopes=fit_column(" ".join(sorted(caller.scopes)) or None, MAX_DETAIL_LENGTH),
            request_id=exchange.request_id,
        )

    def write(self, exchange: Exchange, outcome: Outcome) -> None:
        """Log a call where the settings ask for it."""
        if self._all or (
            self._failures and outcome.status >= FAILURE and self._is_logged(exchange, outcome)
        ):
            self._write(exchange, outcome)

    def write_late(self, exchange: Exchange, outcome: Outcome) -> None:
        """Log a call that the watchdog answered."""
        if self._failures:
            self._write(exchange, outcome)

    def write_fault(self, exchange: Exchange, error: Exception) -> None:
        """Log an exception that came before the handler, at most a few times in a while."""
        if self._allows(exchange, "internal"):
            self._log.error(
                "call failed before its handler",
                pipeline=exchange.place.pipeline,
                run=exchange.run,
                error=type(error).__name__,
                exc_info=error,
            )

    def _is_logged(self, exchange: Exchange, outcome: Outcome) -> bool:
        """Return whether a failed call is logged.

        Those of unauthenticated clients are sampled. The limiter has its own log lines.
        """
        if outcome.status == TOO_MANY_REQUESTS:
            return False
        if (
            outcome.refusal is None
            or outcome.status in SERVER_FAULTS
            or (exchange.caller is not None and exchange.caller.consumer_id is not None)
        ):
            return True
        return self._allows(exchange, outcome.refusal.code)

    def _allows(self, exchange: Exchange, problem: str) -> bool:
        address = caller_network(self._address_of(exchange.environ))
        return self._throttle.allow(time.monotonic(), problem=problem, address=address)

    def _write(self, exchange: Exchange, outcome: Outcome) -> None:
        facts: dict[str, str] = {}
        if outcome.refusal is not None:
            facts["problem"] = outcome.refusal.code
            if (reason := reason_of(outcome.refusal)) is not None:
                facts["reason"] = reason
        if exchange.request_id is not None:
            facts["request_id"] = exchange.request_id
        self._log.info(
            "call",
            method=exchange.method,
            path=self._redacted_path(exchange),
            pipeline=exchange.place.pipeline,
            status=outcome.status,
            run=exchange.run,
            ms=round(exchange.seconds * 1000, 2),
            **facts,
        )

    def _redacted_path(self, exchange: Exchange) -> str:
        """Return the path without sensitive parameters, also for a call that the gate rejected."""
        path = request_path(exchange.environ)
        endpoint = exchange.endpoint or next(iter(exchange.place.endpoints.values()), None)
        if endpoint is None:  # a blocked pipeline: its sensitive parameters are unknown
            return f"/{exchange.place.pipeline}/…"
        if not exchange.values:
            return masked(path)
        parameters = dict(zip(endpoint.in_path, exchange.values, strict=False))
        return self._view.redactor(endpoint.pipeline).path(path, parameters)
