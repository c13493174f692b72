"""HTTP/1.1 (RFC 9112) with one client, from the first byte of its connection to the last.

`Http1.serve` is a coroutine: a generator that yields the event it waits for, and never blocks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.config import PostRequest, PreRequest
from gunicorn.http import errors as http_errors

from penstock.http.body_protocol import SUPPORTS_BODY_PROTOCOL, BodyFault, ResumeAfterBody
from penstock.http.watchdog import AlreadyAnswered
from penstock.logs import LogThrottle
from penstock.server.body import RequestBody
from penstock.server.connection import (
    PAUSED,
    READ,
    WRITE,
    Connection,
    Disconnected,
    Phase,
    ReplyMemory,
    TlsConnection,
)
from penstock.server.environ import EnvironBuilder
from penstock.server.request import HeadIncomplete, Request, read_head
from penstock.server.response import Response, rejection_response
from penstock.server.transfer import (
    CLOSE_S,
    MAX_DISCARD_BYTES,
    Coroutine,
    discard_body,
    handshake,
    lingering_close,
    receive,
    receive_body,
    send_reply,
)

FIRST_BYTE_S = 10.0  # for the first byte of a connection; PENSTOCK_KEEP_ALIVE for later requests
HEAD_S = 10.0
MAX_HEAD_BYTES = 64 * 1024  # of a head, in addition to the longest field
BODY_S = 60.0  # for a body, if the application does not support the body protocol
FAIR_REQUESTS = 16  # requests in a row on one connection before other connections are served

STATUSES: dict[type[BaseException], int] = {
    http_errors.LimitRequestLine: 414,
    http_errors.LimitRequestHeaders: 431,
    http_errors.UnsupportedTransferCoding: 501,
    http_errors.ExpectationFailed: 417,
    http_errors.ForbiddenProxyRequest: 403,
    http_errors.ConfigurationProblem: 500,
    http_errors.ParseException: 400,
}
# The status of a body fault, if the application does not support the body protocol.
BODY_STATUSES = {BodyFault.TIMED_OUT: 408, BodyFault.HOST_STOPPING: 503}
END_OF_HEAD = b"\r\n\r\n"


class Http1:
    """Speaks HTTP/1.1 for one worker.

    `worker` is gunicorn's, `memory` limits the replies that wait for their clients.
    """

    def __init__(
        self,
        worker: Any,  # noqa: ANN401  gunicorn ships no types
        config: Any,  # noqa: ANN401  gunicorn ships no types
        memory: ReplyMemory,
        promote_next: Callable[[], object],
    ) -> None:
        self._worker = worker
        self._config = config
        self._memory = memory
        self._log = worker.log
        self._max_head = MAX_HEAD_BYTES + config.limit_request_field_size
        self._throttle = LogThrottle(structlog.get_logger("penstock.server"))
        self._supports_body_protocol = bool(getattr(worker.wsgi, SUPPORTS_BODY_PROTOCOL, False))
        has_hooks = not (
            config.pre_request is PreRequest.default and config.post_request is PostRequest.default
        )
        self._observed = has_hooks or bool(worker.log.access_log_enabled)
        self._environ = EnvironBuilder(config, promote_next)

    def serve(self, connection: Connection) -> Coroutine[None]:
        """Serve a connection, and return when it can be closed."""
        connection.base_environ = self._environ.of_connection(connection)
        try:
            if isinstance(connection, TlsConnection) and not (yield from handshake(connection)):
                return
            number, seconds = 0, FIRST_BYTE_S
            while (
                request := (yield from self._next_request(connection, number, seconds))
            ) is not None:
                number, seconds = number + 1, self._config.keepalive
                began = time.monotonic() if connection.pipelined else None
                if not (yield from self._exchange(connection, request)):
                    break
                if began is not None:
                    self._worker.count_pipelined(time.monotonic() - began)
                connection.pipelined = bool(connection.received)
                if not connection.received:
                    continue
                while not self._worker.may_pipeline():
                    connection.uncork()
                    connection.wait_for(Phase.IDLE, seconds)
                    yield PAUSED
                if not number % FAIR_REQUESTS:
                    yield WRITE  # resumes at once, but after connections that wait
            if connection.phase is not Phase.IDLE or connection.overdue:
                yield from lingering_close(connection, self._worker, self._memory)
        except Disconnected:
            pass

    def _next_request(
        self, connection: Connection, number: int, seconds: float
    ) -> Coroutine[Request | None]:
        """Return the next request, None if the connection ends instead."""
        connection.wait_for(Phase.IDLE, seconds)
        if not connection.received and not connection.has_pending:
            yield READ
        while True:
            data = connection.received
            if data:
                if connection.phase is Phase.IDLE:
                    connection.wait_for(Phase.HEAD, HEAD_S)
                # An empty line may precede a request (RFC 9112 section 2.2).
                first = data[2:3] if data.startswith(b"\r\n") else data[:1]
                if (
                    END_OF_HEAD in data
                    or not first.isalpha()
                    or b"\n\n" in data
                    or len(data) > self._max_head
                ):
                    request = self._read_head(connection, data, number)
                    if request is not None or connection.phase is Phase.CLOSING:
                        return request
            connection.uncork()
            more = yield from receive(connection)
            if more is None and connection.phase is Phase.HEAD:
                self._reject_late_head(connection)
            elif not more and data:
                self._read_head(connection, data, number)  # it may be malformed so far
            if not more:
                return None
            connection.received = data + more

    def _read_head(self, connection: Connection, data: bytes, number: int) -> Request | None:
        """Return the request whose head was received, None if it is incomplete or malformed.

        A malformed head is answered, and its connection ends.
        """
        try:
            request, connection.received = read_head(
                self._config, data, connection.client, number + 1
            )
        except HeadIncomplete:
            if len(data) > self._max_head:
                self._reject(connection, 431, "LimitRequestHeaders")
            return None
        except Exception as error:  # noqa: BLE001  a client may send anything
            self._reject(
                connection,
                next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500),
                type(error).__name__,
            )
            return None
        return request

    def _reject(self, connection: Connection, status: int, reason: str) -> None:
        """Answer bytes that are no valid request. The connection ends."""
        connection.wait_for(Phase.CLOSING, CLOSE_S)
        client = (
            str(connection.client[0]) if isinstance(connection.client, tuple) else "a Unix socket"
        )
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self._log.exception("request failed: %s", reason)
        elif self._throttle.allow(time.monotonic(), reason=reason, address=client):
            self._log.warning("invalid request from %s: %s", client, reason)
        connection.send(rejection_response(status))

    def _reject_late_head(self, connection: Connection) -> None:
        if self._worker.rejects_incomplete:
            self._reject(connection, 503, "the host is stopping")
        else:
            self._reject(connection, 408, "timeout")

    def _exchange(self, connection: Connection, request: Request) -> Coroutine[bool]:
        """Answer a request, and return whether another can follow on the connection."""
        connection.start_working()
        body, connection.received = RequestBody.of(request, connection.received)
        connection.send_flags = (
            socket.MSG_MORE
            if connection.received and not isinstance(connection, TlsConnection)
            else 0
        )
        try:
            if not self._supports_body_protocol and not body.complete:
                deadline = time.monotonic() + BODY_S
                yield from receive_body(connection, request, body, deadline, self._worker)
                if body.fault is not None:
                    self._reject(connection, BODY_STATUSES.get(body.fault, 400), body.fault.value)
                    return False
            response = Response(request, self._config, connection.send)
            if (
                not (yield from self._answer(connection, request, body, response))
                or response.should_close()
            ):
                connection.wait_for(Phase.CLOSING, CLOSE_S)
                return False
            return body.ended or (yield from discard_body(connection, body))
        finally:
            body.close()

    def _answer(
        self, connection: Connection, request: Request, body: RequestBody, response: Response
    ) -> Coroutine[bool]:
        """Send the application's reply, and return whether it was sent completely."""
        self._worker.count_request(response)
        environ = self._environ.of_request(connection, request, body)
        began = time.monotonic()
        if self._observed:
            self._config.pre_request(self._worker, request)
        try:
            reply = yield from self._call_application(connection, request, body, environ, response)
            try:
                yield from send_reply(connection, response, reply, self._memory)
            finally:
                if hasattr(reply, "close"):
                    reply.close()
        except AlreadyAnswered:
            return False
        except Disconnected:
            raise
        except Exception as error:
            # Part of the reply was sent. The client must see that it is incomplete.
            if response.headers_sent:
                self._log.exception("reply failed after its head was sent")
                raise Disconnected from error
            self._reject(connection, 500, type(error).__name__)
            return False
        finally:
            if self._observed:
                self._log.access(
                    response, request, environ, timedelta(seconds=time.monotonic() - began)
                )
                self._config.post_request(self._worker, request, environ, response)
        return True

    def _call_application(
        self,
        connection: Connection,
        request: Request,
        body: RequestBody,
        environ: dict[str, Any],
        response: Response,
    ) -> Coroutine[Iterable[bytes]]:
        """Return the application's reply. Receive the body first if the application needs it."""
        reply = self._worker.wsgi(environ, response.start_response)
        while type(reply) is ResumeAfterBody:
            body.set_limit(reply.limit)
            yield from receive_body(connection, request, body, reply.deadline, self._worker)
            reply = reply.resume()
        # The worker may have begun to stop meanwhile.
        if not self._worker.alive or not _can_continue(request, body):
            response.force_close()
        return reply  # type: ignore[no-any-return]  # any other return value of the application


def _can_continue(request: Request, body: RequestBody) -> bool:
    """Return whether another request can follow on the connection, given the rest of the body."""
    if body.fault is BodyFault.MALFORMED:
        return False
    if body.ended:
        return True
    # The client may or may not send a body that it announced with `Expect: 100-continue`.
    uncertain = request.expects_continue and not request.continue_sent
    return not uncertain and body.left is not None and body.left <= MAX_DISCARD_BYTES
