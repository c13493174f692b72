"""The way of a call: locate its endpoint, admit it, run its handler, send the reply.

Nothing here asks the database. A step that needs the body of a request before it has arrived raises
BodyNotReceived: the server receives the body without a thread, and the call begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from penstock.contracts.call import Call, Caller
from penstock.contracts.triggers import MAX_CALL_S
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import BODILESS
from penstock.endpoints.router import Place, Routes
from penstock.errors import DeadlineExceeded, Refusal
from penstock.execution import Execution
from penstock.execution.executor import Outcome
from penstock.execution.subpipelines import ParentRun
from penstock.gate.compliance import is_exposed
from penstock.gate.gate import unavailable
from penstock.gate.refusals import internal_error
from penstock.host.compilation import LoadedPipeline
from penstock.host.host import Host
from penstock.host.tokens import issue_token
from penstock.http.body_protocol import (
    BodyFault,
    BodyNotReceived,
    ResumeAfterBody,
    body_fault,
    body_received,
    must_close_if_unread,
)
from penstock.http.encodings import MIN_COMPRESSED_BYTES, compress_reply
from penstock.http.leader_followers import LONG_CALL_S, PROMOTE_NEXT
from penstock.http.problems import status_line
from penstock.http.request_body import Body, BodyAborted, BodyTimedOut, MalformedBody
from penstock.http.watchdog import (
    AlreadyAnswered,
    ClosingReply,
    close_after_reply,
)
from penstock.runs.idempotency import answered
from penstock.runs.steps import Inline
from penstock.runs.timeouts import TimedOut
from penstock.web.admission import Admission
from penstock.web.call_limits import CallLimits
from penstock.web.call_log import CallLog
from penstock.web.exchange import (
    Environ,
    Exchange,
    address_of_caller,
    request_headers,
    request_path,
    request_query,
)
from penstock.web.reply_headers import ReplyHeaders

Match = tuple[Place, list[str]]
StartResponse = Callable[..., object]

PARTIAL_CONTENT = 206  # a part has the coding of the whole


class Dispatcher:
    """Answers the calls of pipelines on one of the listeners."""

    def __init__(self, host: Host, execution: Execution, *, internal: bool = False) -> None:
        self._host, self._catalog, self._view = host, host.catalog, host.view
        self._executor, self._calls = execution.executor, execution.calls
        self._subpipelines = execution.subpipelines
        served = {
            identifier: item
            for identifier, item in host.catalog.loaded.items()
            if is_exposed(item.pipeline, internal=internal)
        }
        self._routes = _routes_of(served)
        self._headers = ReplyHeaders(
            host.catalog, host.view, served, "" if internal else host.settings.url
        )
        self._log = CallLog(
            self._executor,
            lambda: host.services.recorder if host.services is not None else None,
            host.view,
            host.upkeep.log_throttle,
            host.settings.log_calls,
            partial(address_of_caller, host.settings),
        )
        self._limits = CallLimits(
            host.catalog,
            host.view,
            lambda: host.services,
            shortest=min(
                (item.pipeline.trigger.timeout for item in served.values() if not item.broken),
                default=MAX_CALL_S,
            ),
            headers=self._headers,
            log=self._log,
        )
        self._admission = Admission(
            host.catalog,
            host.view,
            host.settings,
            lambda: host.services,
            served,
            self._limits.read_signed,
            internal=internal,
        )
        # Endpoints, by pipeline, whose last call held its thread for long.
        self._slow: dict[str, set[str]] = {item.pipeline.name: set() for item in served.values()}

    def find(self, environ: Environ) -> Match | None:
        """Return the path of a pipeline that a request asks for, and its parameters."""
        try:
            return self._routes.find(request_path(environ))
        except UnicodeDecodeError:
            return None

    def end_calls(self, moment: float) -> None:
        """Answer every call that has not ended at that moment, a `time.monotonic()` reading."""
        self._limits.answer_all_at(moment)

    def answer(
        self, environ: Environ, start_response: StartResponse, match: Match
    ) -> Iterable[bytes]:
        """Answer one call, or return ResumeAfterBody where its body is needed first."""
        return self._proceed(Exchange.of(environ, *match), start_response)

    def _proceed(self, exchange: Exchange, start_response: StartResponse) -> Iterable[bytes]:
        try:
            endpoint = self._locate(exchange)
            if endpoint is None:
                return self._reply(exchange, Outcome(204, [], b""), start_response)
            body = Body(exchange.environ, endpoint.pipeline.trigger.max_body)
            caller = exchange.caller or self._admission.admit(exchange, endpoint, body)
            call = self._call(exchange, endpoint, caller, body)
            outcome = self._execute(exchange, endpoint, call)
        except BodyNotReceived:
            return self._resume_after_body(exchange, start_response)
        except AlreadyAnswered:
            raise
        except TimedOut:
            exchange.close = True
            outcome = Outcome.refused(DeadlineExceeded(), exchange.run)
        except Refusal as refusal:
            outcome = Outcome.refused(self._headers.sendable(refusal, exchange), exchange.run)
        except Exception as error:  # noqa: BLE001  an authenticator is plugin code; its faults admit no call
            self._log.write_fault(exchange, error)
            outcome = Outcome.refused(internal_error(), exchange.run)
        return self._reply(exchange, outcome, start_response)

    # Locate

    def _locate(self, exchange: Exchange) -> Endpoint | None:
        """Return the endpoint of a call, None for a preflight request (the Fetch standard).

        Raises Refusal: 405, or 503 where the pipeline is blocked.
        """
        place, method = exchange.place, exchange.method
        endpoint = place.endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is not None:
            exchange.endpoint = endpoint
            return endpoint
        if not place.endpoints:
            raise unavailable()
        if (
            method == "OPTIONS"
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in exchange.environ
            and self._headers.cors(place) is not None
        ):
            return None
        raise Refusal(
            405,
            "method-not-allowed",
            f"This path takes {place.allowed}.",
            headers=[("Allow", place.allowed)],
        )

    # Receive

    def _resume_after_body(
        self, exchange: Exchange, start_response: StartResponse
    ) -> ResumeAfterBody[Iterable[bytes]]:
        endpoint = exchange.endpoint
        return ResumeAfterBody[Iterable[bytes]](
            endpoint.pipeline.trigger.max_body if endpoint is not None else 0,
            exchange.deadline or 0.0,
            partial(self._proceed, exchange, start_response),
        )

    def _require_body(self, exchange: Exchange, limit: int) -> None:
        """Raise BodyNotReceived unless the body has arrived, or is too long to be read.

        Raises Refusal where the rest of the body will not arrive.
        """
        environ = exchange.environ
        if not exchange.awaits_body:
            if not body_received(environ) and int(environ.get("CONTENT_LENGTH") or 0) <= limit:
                exchange.awaits_body = True
                raise BodyNotReceived
            return
        fault = body_fault(environ)
        if fault is BodyFault.TIMED_OUT:  # the sender used up the time, and no handler has begun
            raise BodyTimedOut
        if fault is BodyFault.HOST_STOPPING:
            raise BodyAborted

    def _call(self, exchange: Exchange, endpoint: Endpoint, caller: Caller, body: Body) -> Call:
        """Return the call that the handler gets, once its body is there."""
        environ, pipeline = exchange.environ, endpoint.pipeline
        withheld, query = self._catalog.withheld, request_query(environ)
        if exchange.call is None:
            forward_token = pipeline.trigger.forward_token and bool(caller.claims)
            exchange.call = self._calls.create(
                endpoint,
                exchange.run,
                exchange.deadline or 0.0,
                caller,
                path=request_path(environ),
                method=exchange.method,
                params=(
                    dict(zip(endpoint.in_path, exchange.values, strict=True))
                    if exchange.values
                    else None
                ),
                query_string=(
                    withheld.query(query, lambda: request_headers(environ)) if query else ""
                ),
                content_type=environ.get("CONTENT_TYPE", ""),
                traceparent=environ.get("HTTP_TRACEPARENT"),
                read_headers=lambda: withheld.without(
                    request_headers(environ), forward_token=forward_token
                ),
                read_body=body.read,
                read_form=body.form,
                issue=partial(issue_token, self._catalog, self._view, pipeline, caller),
            )
        self._require_body(exchange, pipeline.trigger.max_body)
        return exchange.call

    # Execute

    def _execute(self, exchange: Exchange, endpoint: Endpoint, call: Call) -> Outcome:
        """Run the handler of a call within the call's deadline."""
        slow = self._slow[call.pipeline]
        if endpoint.name in slow and PROMOTE_NEXT in exchange.environ:
            exchange.environ[PROMOTE_NEXT]()
        parent = ParentRun(
            call, (exchange.place.pipeline,), exchange.environ.get("HTTP_TRACEPARENT")
        )
        runner = Inline(call.deadline, self._subpipelines.bind(parent))
        within = partial(self._limits.apply, exchange, endpoint, call, runner)
        outcome = self._executor.execute(endpoint, call, runner, within)
        if outcome.seconds > LONG_CALL_S:
            slow.add(endpoint.name)
        else:
            slow.discard(endpoint.name)
        if outcome.refusal is not None and not outcome.sent:
            sendable = self._headers.sendable(outcome.refusal, exchange)
            if sendable is not outcome.refusal:
                return Outcome.refused(sendable, exchange.run, outcome.failure)
        return outcome

    # Reply

    def _reply(
        self, exchange: Exchange, outcome: Outcome, start_response: StartResponse
    ) -> Iterable[bytes]:
        if outcome.sent:
            raise AlreadyAnswered
        environ, status, headers, body = (
            exchange.environ,
            outcome.status,
            outcome.headers,
            outcome.body,
        )
        refusal = outcome.refusal
        services = self._host.services
        if exchange.claims and services is not None and not answered(status, refusal):
            services.replay_guard.release(exchange.claims)
        self._log.record(exchange, outcome)
        if len(body) > MIN_COMPRESSED_BYTES and status != PARTIAL_CONTENT:
            body = compress_reply(body, headers, environ.get("HTTP_ACCEPT_ENCODING", ""))
        self._headers.complete(exchange, headers, None if status in BODILESS else body)
        self._log.write(exchange, outcome)
        close = exchange.close or isinstance(refusal, MalformedBody | BodyTimedOut | BodyAborted)
        if close or (refusal is not None and must_close_if_unread(environ)):
            close_after_reply(start_response)
        start_response(status_line(status), headers)
        body = b"" if exchange.method == "HEAD" else body
        return ClosingReply(environ, body) if close else (body,)


def _routes_of(served: Mapping[str, LoadedPipeline]) -> Routes:
    return Routes(
        (
            (identifier, endpoint)
            for identifier, item in served.items()
            for endpoint in item.endpoints
        ),
        (identifier for identifier, item in served.items() if item.broken),
    )
