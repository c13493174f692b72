"""HTTP/1.1 (RFC 9112) with one client, from its connection's first byte to the last.

It is a generator that never blocks.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Generator, Iterable
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.config import PostRequest, PreRequest
from gunicorn.http import errors as http_errors
from gunicorn.http import wsgi
from gunicorn.util import unquote_to_wsgi_str

from penstock.http.body_protocol import (
    CONNECTION,
    SUPPORTS_BODY_PROTOCOL,
    BodyFault,
    ResumeAfterBody,
)
from penstock.http.leader_followers import PROMOTE_NEXT
from penstock.http.watchdog import AlreadyAnswered
from penstock.logs import LogThrottle
from penstock.server.body import RequestBody
from penstock.server.connection import (
    NEITHER,
    READ,
    WRITE,
    Connection,
    Disconnected,
    Phase,
    TlsConnection,
    Unsent,
)
from penstock.server.request import HeadIncomplete, Request, read_head
from penstock.server.response import CONTINUE, Response, refusal_of

Conversation = Generator[int, None, None]
Waiting = Generator[int, None, bool]

FIRST_WAIT_S = 10.0  # for the first byte of a connection; later on PENSTOCK_KEEP_ALIVE
HANDSHAKE_S = 10.0
HEAD_S = 10.0
MAX_HEAD = 64 * 1024  # bytes that are gathered of a head, beyond the longest field
BODY_S = 60.0  # for a body, where the application is only called when it is whole
# What is discarded of a body that nobody wanted so that its connection can go on.
DISCARD_S, MAX_DISCARD = 5.0, 64 * 1024
SEND_SILENCE_S = 30.0  # without any progress of a reply
# A reply has that many seconds, and one more for each so many bytes that went out.
SEND_GRACE_S, MIN_SEND_RATE = 60.0, 8 * 1024
# That a client may go on sending, and be silent, after its last reply.
CLOSE_S, CLOSE_SILENCE_S = 10.0, 2.0
FAIR = 16  # requests in a row on one connection before others have their turn

REFUSALS: dict[type[BaseException], int] = {
    http_errors.LimitRequestLine: 414,
    http_errors.LimitRequestHeaders: 431,
    http_errors.UnsupportedTransferCoding: 501,
    http_errors.ExpectationFailed: 417,
    http_errors.ForbiddenProxyRequest: 403,
    http_errors.ConfigurationProblem: 500,
    http_errors.ParseException: 400,
}
# Where the application is only called when a body is whole.
UNFIT = {BodyFault.TIMED_OUT: 408, BodyFault.HOST_STOPPING: 503}
END_OF_HEAD = b"\r\n\r\n"


class Pace:
    """How a reply is getting on.

    A client must take some of it all the time, and keep up a least rate.
    """

    __slots__ = ("_began", "_sent")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._sent = 0

    def deadline(self, sent: int) -> float:
        """Return until when the next bytes must have gone out, now that `sent` more have."""
        self._sent += sent
        return min(
            time.monotonic() + SEND_SILENCE_S,
            self._began + SEND_GRACE_S + self._sent / MIN_SEND_RATE,
        )


class Http1:
    """Speaks HTTP/1.1 for a worker.

    `worker` is gunicorn's, `unsent` bounds what clients have not taken yet.
    """

    def __init__(
        self,
        worker: Any,  # noqa: ANN401  gunicorn ships no types
        config: Any,  # noqa: ANN401  gunicorn ships no types
        unsent: Unsent,
        pass_on: Callable[[], object],
    ) -> None:
        self._worker = worker
        self._config = config
        self._unsent = unsent
        self._log = worker.log
        self._max_head = MAX_HEAD + config.limit_request_field_size
        self._sparing = LogThrottle(structlog.get_logger("penstock.server"))
        self._takes_heads = bool(getattr(worker.wsgi, SUPPORTS_BODY_PROTOCOL, False))
        plain = (
            config.pre_request is PreRequest.default and config.post_request is PostRequest.default
        )
        self._watched = not plain or bool(worker.log.access_log_enabled)
        self._common: dict[str, Any] | None = None
        if (
            not os.environ.get("SCRIPT_NAME")
            and not config.forwarder_headers
            and config.proxy_protocol == "off"
        ):
            self._common = {
                **wsgi.base_environ(config),
                "wsgi.multithread": True,
                PROMOTE_NEXT: pass_on,
            }
        self._pass_on = pass_on

    # The conversation.

    def converse(self, connection: Connection) -> Conversation:
        """Serve a connection, and return when it can be closed. Yields what is waited for."""
        connection.facts = self._facts(connection)
        try:
            if isinstance(connection, TlsConnection) and not (
                yield from self._shake_hands(connection)
            ):
                return
            number, patience = 0, FIRST_WAIT_S
            while (
                request := (yield from self._next_request(connection, number, patience))
            ) is not None:
                number, patience = number + 1, self._config.keepalive
                began = time.monotonic() if connection.follows else None
                if not (yield from self._exchange(connection, request)):
                    break
                if began is not None:
                    self._worker.followed(time.monotonic() - began)
                connection.follows = bool(connection.arrived)
                if not connection.arrived:
                    continue
                while not self._worker.may_follow():
                    connection.flush()
                    connection.wait(Phase.IDLE, patience)
                    yield NEITHER
                if not number % FAIR:
                    yield WRITE  # at once, but after those that have waited meanwhile
            if connection.phase is not Phase.IDLE or connection.late:
                yield from self._part(connection)
        except Disconnected:
            pass

    @staticmethod
    def _shake_hands(connection: TlsConnection) -> Waiting:
        connection.wait(Phase.HANDSHAKE, HANDSHAKE_S)
        while not connection.shake_hands():
            yield connection.wants
            if connection.late:
                return False
        return True

    def _next_request(
        self, connection: Connection, number: int, patience: float
    ) -> Generator[int, None, Request | None]:
        """Return the next request, None where there is no other."""
        connection.wait(Phase.IDLE, patience)
        if not connection.arrived and not connection.buffered:
            yield READ
        while True:
            data = connection.arrived
            if data:
                if connection.phase is Phase.IDLE:
                    connection.wait(Phase.HEAD, HEAD_S)
                # An empty line may come before (RFC 9112 section 2.2).
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
            connection.flush()
            more = yield from _receive(connection)
            if more is None and connection.phase is Phase.HEAD:
                self._refuse(
                    connection,
                    *((503, "the host is stopping") if self._worker.must_end else (408, "silence")),
                )
            elif not more and data:
                self._read_head(connection, data, number)  # it may be wrong before it is whole
            if not more:
                return None
            connection.arrived = data + more

    def _read_head(self, connection: Connection, data: bytes, number: int) -> Request | None:
        """Return the request whose head has come, None where it is not whole, or is none.

        Then the client is told.
        """
        try:
            request, connection.arrived = read_head(
                self._config, data, connection.client, number + 1
            )
        except HeadIncomplete:
            if len(data) > self._max_head:
                self._refuse(connection, 431, "LimitRequestHeaders")
            return None
        except Exception as error:  # noqa: BLE001  a client may send anything
            self._refuse(
                connection,
                next((status for kind, status in REFUSALS.items() if isinstance(error, kind)), 500),
                type(error).__name__,
            )
            return None
        return request

    def _refuse(self, connection: Connection, status: int, reason: str) -> None:
        """Answer what can't be read as a request; the connection ends."""
        connection.wait(Phase.CLOSING, CLOSE_S)
        client = (
            str(connection.client[0]) if isinstance(connection.client, tuple) else "a local socket"
        )
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self._log.exception("request failed: %s", reason)
        elif self._sparing.allow(time.monotonic(), reason=reason, address=client):
            self._log.warning("request from %s can't be read: %s", client, reason)
        connection.send(refusal_of(status))

    def _exchange(self, connection: Connection, request: Request) -> Waiting:
        """Answer a request; return whether the connection may have another."""
        connection.work()
        body, connection.arrived = RequestBody.of(request, connection.arrived)
        connection.more = (
            socket.MSG_MORE
            if connection.arrived and not isinstance(connection, TlsConnection)
            else 0
        )
        try:
            if not self._takes_heads and not body.complete:
                yield from self._receive_body(connection, request, body, time.monotonic() + BODY_S)
                if body.fault is not None:
                    self._refuse(connection, UNFIT.get(body.fault, 400), body.fault.value)
                    return False
            response = Response(request, self._config, connection.send)
            if (
                not (yield from self._answer(connection, request, body, response))
                or response.should_close()
            ):
                connection.wait(Phase.CLOSING, CLOSE_S)
                return False
            return body.ended or (yield from self._discard(connection, body))
        finally:
            body.close()

    def _answer(
        self, connection: Connection, request: Request, body: RequestBody, response: Response
    ) -> Waiting:
        """Have the application answer a request; return whether the reply went out whole."""
        self._worker.begin(response)
        environ = self._environ(connection, request, body)
        began = time.monotonic()
        if self._watched:
            self._config.pre_request(self._worker, request)
        try:
            reply = yield from self._ask(connection, request, body, environ, response)
            try:
                yield from self._send(connection, response, reply)
            finally:
                if hasattr(reply, "close"):
                    reply.close()
        except AlreadyAnswered:
            return False
        except Disconnected:
            raise
        except Exception as error:
            # It can't be taken back: the client must see that it is not whole.
            if response.headers_sent:
                self._log.exception("a reply broke off")
                raise Disconnected from error
            self._refuse(connection, 500, type(error).__name__)
            return False
        finally:
            if self._watched:
                self._log.access(
                    response, request, environ, timedelta(seconds=time.monotonic() - began)
                )
                self._config.post_request(self._worker, request, environ, response)
        return True

    def _ask(
        self,
        connection: Connection,
        request: Request,
        body: RequestBody,
        environ: dict[str, Any],
        response: Response,
    ) -> Generator[int, None, Iterable[bytes]]:
        """Return the application's reply, after receiving the body where it asks for that."""
        reply = self._worker.wsgi(environ, response.start_response)
        while type(reply) is ResumeAfterBody:
            body.keep_at_most(reply.limit)
            yield from self._receive_body(connection, request, body, reply.deadline)
            reply = reply.resume()
        # It may have been told to stop meanwhile.
        if not self._worker.alive or not _can_go_on(request, body):
            response.force_close()
        return reply  # type: ignore[no-any-return]  # what the application returns is taken for one

    def _send(
        self, connection: Connection, response: Response, reply: Iterable[bytes]
    ) -> Conversation:
        """Send a reply as fast as its client takes it.

        Nothing is asked for that could not go out yet.
        """
        pace: Pace | None = None
        for item in reply:
            response.write(item)
            if connection.unsent:
                pace = pace or Pace()
                yield from self._send_rest(connection, pace)
        response.close()
        if connection.unsent:
            yield from self._send_rest(connection, pace or Pace())

    def _receive_body(
        self, connection: Connection, request: Request, body: RequestBody, deadline: float
    ) -> Conversation:
        """Receive what is still to come of a body, until it is whole or has a fault."""
        connection.phase, connection.deadline = Phase.BODY, deadline
        if request.expects_continue and not body.size and not body.ended:
            request.told_to_continue = True
            connection.send(CONTINUE)
        while not body.complete and body.fault is None:
            data = yield from _receive(connection)
            if data:
                connection.arrived = body.feed(data)
            else:
                late = BodyFault.HOST_STOPPING if self._worker.must_end else BodyFault.TIMED_OUT
                body.end(late if data is None else BodyFault.MALFORMED)
        connection.work()

    def _send_rest(self, connection: Connection, pace: Pace) -> Conversation:
        """Send what did not go out at once.

        Raises Disconnected where the client takes it too slowly.
        """
        connection.phase, connection.deadline = Phase.SENDING, pace.deadline(0)
        held = connection.held  # memory is kept of all of it until the last byte has gone
        self._unsent.add(held)
        try:
            while connection.unsent:
                yield connection.wants
                sent = connection.send_more()
                if sent:
                    connection.deadline = pace.deadline(sent)
                elif connection.late:
                    raise Disconnected
            connection.work()
        finally:
            self._unsent.add(-held)

    @staticmethod
    def _discard(connection: Connection, body: RequestBody) -> Waiting:
        """Discard what is left of a body that nobody read.

        Return whether the next request can follow.
        """
        body.discard()
        connection.wait(Phase.DISCARDING, DISCARD_S)
        discarded = 0
        while not body.ended:
            data = yield from _receive(connection)
            discarded += len(data or b"")
            connection.arrived = body.feed(data or b"")
            if not data or body.fault is BodyFault.MALFORMED or discarded > MAX_DISCARD:
                connection.wait(Phase.CLOSING, CLOSE_S)
                return False
        return True

    def _part(self, connection: Connection) -> Conversation:
        """End a connection such that its client can read its last reply.

        Also a client that is still sending (RFC 9112 section 9.6).
        """
        if connection.unsent:
            yield from self._send_rest(connection, Pace())
        connection.wait(Phase.CLOSING, CLOSE_SILENCE_S)
        connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + CLOSE_S
        while True:
            dropped = connection.drop()
            if dropped is None:
                yield READ
                if connection.late:
                    return
            elif not dropped or time.monotonic() > end:
                return
            else:
                connection.deadline = min(time.monotonic() + CLOSE_SILENCE_S, end)
                if not self._worker.may_drop(dropped):
                    yield NEITHER

    # What the application is told.

    def _facts(self, connection: Connection) -> dict[str, Any] | None:
        """Return what is the same in all environs of a connection (PEP 3333).

        Return None where gunicorn must say it.
        """
        if (
            self._common is None
            or not isinstance(connection.client, tuple)
            or not isinstance(connection.server, tuple)
        ):
            return None
        host, port = connection.client[:2]
        return {
            **self._common,
            CONNECTION: connection,
            "gunicorn.socket": connection.sock,
            "REMOTE_ADDR": host,
            "REMOTE_PORT": str(port),
            "SERVER_NAME": connection.server[0],
            "SERVER_PORT": str(connection.server[1]),
            "SCRIPT_NAME": "",
        }

    def _environ(
        self, connection: Connection, request: Request, body: RequestBody
    ) -> dict[str, Any]:
        """Return a request's environ (PEP 3333), as gunicorn makes it."""
        facts = connection.facts
        if facts is None:
            return self._gunicorn_environ(connection, request, body)
        environ: dict[str, Any] = {
            **facts,
            "wsgi.input": body,
            "wsgi.url_scheme": request.scheme,
            "REQUEST_METHOD": request.method,
            "QUERY_STRING": request.query,
            "RAW_URI": request.uri,
            "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
            "PATH_INFO": unquote_to_wsgi_str(request.path),
        }
        for name, value in request.headers:
            key = name.replace("-", "_")
            if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
                key = "HTTP_" + key
                if key in environ:
                    value = f"{environ[key]},{value}"  # noqa: PLW2901  several fields of one name are one list (RFC 9110 section 5.3)
            environ[key] = value
        return environ

    def _gunicorn_environ(
        self, connection: Connection, request: Request, body: RequestBody
    ) -> dict[str, Any]:
        """Have gunicorn make the environ, for a local socket and for its own settings."""
        expected, request._expected_100_continue = (  # noqa: SLF001  it would answer that at once
            request._expected_100_continue,  # noqa: SLF001  it would answer that at once
            False,
        )
        request.body = body
        _, environ = wsgi.create(
            request, connection.sock, connection.client, connection.server, self._config
        )
        request._expected_100_continue = expected  # noqa: SLF001
        environ.pop("wsgi.early_hints", None)
        return {
            **environ,
            "wsgi.multithread": True,
            CONNECTION: connection,
            PROMOTE_NEXT: self._pass_on,
        }


def _receive(connection: Connection) -> Generator[int, None, bytes | None]:
    """Return what comes next, empty bytes at the end, None where it does not come in time."""
    while True:
        data = connection.receive()
        if data is not None:
            return data
        if connection.late:
            return None
        yield connection.wants


def _can_go_on(request: Request, body: RequestBody) -> bool:
    """Return whether another request can follow on the connection, whatever is left of the body."""
    if body.fault is BodyFault.MALFORMED:
        return False
    if body.ended:
        return True
    # Whether the body comes at all is not known then.
    expected = request.expects_continue and not request.told_to_continue
    return not expected and body.left is not None and body.left <= MAX_DISCARD
