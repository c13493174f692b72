"""What surrounds a handler on HTTP: the deadline of its call, room for it, its idempotency key."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from threading import BoundedSemaphore

from penstock.contracts.call import Call
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer
from penstock.errors import MAYBE_ACCEPTED, DeadlineExceeded, HostStopping, Refusal
from penstock.execution.executor import DeadlinePassed, Handle, Outcome
from penstock.gate.gate import unavailable
from penstock.host.catalog import Catalog
from penstock.host.services import Services
from penstock.host.view import CurrentView
from penstock.http.problems import status_line
from penstock.http.request_body import Body
from penstock.http.watchdog import (
    GUNICORN_SOCKET,
    AlreadyAnswered,
    DeadlineWatchdog,
    channel_of,
    closing_response,
    read_with_deadline,
)
from penstock.runs.failures import failure_at
from penstock.runs.idempotency import fingerprint, still_running
from penstock.runs.steps import Inline
from penstock.runs.timeouts import TimedOut, run_with_deadline
from penstock.web.call_log import CallLog
from penstock.web.durable_calls import accept
from penstock.web.exchange import Exchange
from penstock.web.idempotency_key import idempotency_key
from penstock.web.reply_headers import ReplyHeaders


class CallLimits:
    """Keeps the calls on one listener within their limits.

    A watchdog thread answers on the connection at the deadline, while the handler is still busy.
    The thread that takes a call out of the watchdog answers it, so it is answered once.
    """

    def __init__(
        self,
        catalog: Catalog,
        view: CurrentView,
        services: Callable[[], Services | None],
        *,
        shortest: float,
        headers: ReplyHeaders,
        log: CallLog,
    ) -> None:
        """Take the shortest time limit of all pipelines, in seconds, and what completes a reply."""
        self._catalog, self._view, self._services = catalog, view, services
        self._headers, self._log = headers, log
        self._watchdog = DeadlineWatchdog(shortest)

    def answer_all_at(self, moment: float) -> None:
        """Answer every call that has not ended at that moment, a `time.monotonic()` reading."""
        self._watchdog.answer_all_at(moment)

    def read_signed(self, exchange: Exchange, body: Body) -> bytes:
        """Read the body before the gate has accepted the call, until the deadline at most.

        Raises BodyNotReceived where it has not arrived, and the server can wait for it.
        """
        deadline, connection = exchange.deadline or 0.0, channel_of(exchange.environ)
        if connection is None:
            return read_with_deadline(exchange.environ.get(GUNICORN_SOCKET), body.raw, deadline)
        on_deadline = partial(self._answer_late, exchange)
        return self._watchdog.run(body.raw, connection, deadline, on_deadline)

    def apply(
        self, exchange: Exchange, endpoint: Endpoint, call: Call, runner: Inline, handle: Handle
    ) -> Answer:
        """Return the answer to a call, or raise DeadlinePassed.

        The watchdog answers on the connection at the deadline. Where it can't (TLS on a stock
        server), the handler runs in a thread of its own.
        """
        environ = exchange.environ
        connection = channel_of(environ)
        try:
            if connection is None:
                # Two threads must not use one TLS connection at a time: the body is read before.
                if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
                    read = partial(_read_body, endpoint, call)
                    read_with_deadline(environ.get(GUNICORN_SOCKET), read, call.deadline)
                work = self._work(exchange, endpoint, call, runner, handle)
                return run_with_deadline(work, call.deadline)
            work = self._work(exchange, endpoint, call, runner, handle)
            on_deadline = partial(self._answer_late, exchange)
            return self._watchdog.run(work, connection, call.deadline, on_deadline)
        except AlreadyAnswered:
            raise DeadlinePassed(exchange.refusal or DeadlineExceeded(), sent=True) from None
        except TimedOut:
            exchange.close = True
            raise DeadlinePassed(_too_late(endpoint), sent=False) from None

    def _work(
        self, exchange: Exchange, endpoint: Endpoint, call: Call, runner: Inline, handle: Handle
    ) -> Handle:
        """Return what the call is to do, once its pipeline has room for another call in flight.

        The room is given back when the work really ends, which may be after the deadline.
        """
        key = idempotency_key(exchange, endpoint, call.caller, call.environment)
        direct = key is None and not endpoint.route.durable
        if direct and exchange.repeats:  # no reply is stored: see still_running
            raise still_running()
        work = handle if direct else self._stored(exchange, endpoint, call, runner, handle, key)
        slots = self._catalog.slots.get(exchange.place.pipeline)
        if slots is not None:
            if not slots.acquire(blocking=False):
                raise Refusal(
                    503,
                    "pipeline-busy",
                    "This pipeline has no room for another call at the moment.",
                    headers=[("Retry-After", "1")],
                )
            work = partial(_work_in_slot, work, slots)
        if direct:
            exchange.runner = runner
        return work

    def _stored(
        self,
        exchange: Exchange,
        endpoint: Endpoint,
        call: Call,
        runner: Inline,
        handle: Handle,
        key: tuple[str, ...] | None,
    ) -> Handle:
        """Return what accepts a durable run, or answers with a stored reply where there is one."""
        services = self._services()
        if services is None:
            raise unavailable()

        def run() -> Answer:
            if exchange.repeats:
                raise still_running()
            exchange.runner = runner
            return handle()

        def answer() -> Answer:
            try:
                if key is None or endpoint.route.durable:
                    return accept(services, self._view, exchange, endpoint, call, key)
                form = endpoint.body is not None and endpoint.body.form
                timeout = endpoint.pipeline.trigger.timeout
                return services.idempotency.once(key, fingerprint(call, form=form), timeout, run)
            finally:
                call.end()

        return answer

    def _answer_late(self, exchange: Exchange) -> bytes:
        """Return the response on the wire to a call whose deadline passed or whose process ends.

        The watchdog calls this, while the handler is still busy.
        """
        endpoint, runner = exchange.endpoint, exchange.runner
        stopping = exchange.deadline is not None and time.monotonic() < exchange.deadline
        performed = endpoint if exchange.call is not None else None
        refusal: Refusal = HostStopping() if stopping else _too_late(performed)
        exchange.refusal = refusal
        failure = (
            failure_at(refusal, runner.thread, endpoint.route.handler)
            if runner is not None and endpoint is not None
            else None
        )
        outcome = Outcome.refused(refusal, exchange.run, failure)
        if (services := self._services()) is not None:
            services.replay_guard.release_later(exchange.claims)
        self._log.record(exchange, outcome)
        self._headers.complete(exchange, outcome.headers, outcome.body)
        self._log.write_late(exchange, outcome)
        body = b"" if exchange.method == "HEAD" else outcome.body
        return closing_response(status_line(outcome.status), outcome.headers, body)


def _work_in_slot(work: Handle, slots: BoundedSemaphore) -> Answer:
    try:
        return work()
    finally:
        slots.release()


def _read_body(endpoint: Endpoint, call: Call) -> object:
    return call.form if endpoint.body is not None and endpoint.body.form else call.body


def _too_late(endpoint: Endpoint | None) -> DeadlineExceeded:
    """Return the answer to a call whose deadline passed."""
    if endpoint is not None and endpoint.route.durable:
        return DeadlineExceeded(f"The database took too long to answer. {MAYBE_ACCEPTED}")
    return DeadlineExceeded()
