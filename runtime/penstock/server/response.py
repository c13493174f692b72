"""A response on the wire: gunicorn's, but the head and the first part of the body are one piece."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from gunicorn.http.wsgi import HEADER_VALUE_RE
from gunicorn.http.wsgi import Response as GunicornResponse

from penstock.errors import HostStopping, Refusal
from penstock.http.problems import CONTENT_TYPE, problem_document, status_line
from penstock.http.watchdog import closing_response

MAX_CACHED_NAMES = 500  # header names that are remembered as well-formed
MAX_COPIED_BYTES = 64 * 1024  # of a body, to send it in one piece with the head
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_well_formed: set[str] = set()


class Response(GunicornResponse):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's response. `send` receives the bytes for the wire."""

    headers_sent: bool

    _date: tuple[int, str] = (0, "")

    def __init__(self, request: Any, config: Any, send: Callable[[bytes], object]) -> None:  # noqa: ANN401  gunicorn's types
        super().__init__(request, None, config)
        self._send = send

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Add headers. A name that gunicorn accepted without acting on it is checked only once."""
        for name, value in headers:
            if name in _well_formed and isinstance(value, str) and HEADER_VALUE_RE.fullmatch(value):
                self.headers.append((name, value.strip(" \t")))
                continue
            before = len(self.headers)
            super().process_headers([(name, value)])
            lower = name.lower()
            if (
                len(self.headers) > before
                and lower not in {"content-length", "upgrade"}
                and len(_well_formed) < MAX_CACHED_NAMES
            ):
                _well_formed.add(name)

    def default_headers(self) -> list[str]:
        """Return status line and server headers. Date is cached (RFC 9110 section 6.6.1)."""
        if self.upgrade or self.chunked:
            return list(super().default_headers())
        now = int(time.time())
        if self._date[0] != now:
            Response._date = now, formatdate(now, usegmt=True)
        major, minor = self.req.version
        connection = "close" if self.should_close() else "keep-alive"
        head = (
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {self._date[1]}\r\nConnection: {connection}\r\n"
        )
        return [head]

    def _head(self) -> bytes:
        self.headers_sent = True
        return "".join(
            [
                *self.default_headers(),
                *[f"{name}: {value}\r\n" for name, value in self.headers],
                "\r\n",
            ]
        ).encode("latin-1")

    def send_headers(self) -> None:
        """Send the head, unless it was sent."""
        if not self.headers_sent:
            self._send(self._head())

    def write(self, arg: bytes) -> None:
        """Send a part of the body; the first part together with the head."""
        if self.headers_sent or self.chunked or self._omits_body or type(arg) is not bytes:
            super().write(arg)
            return
        if self.response_length is not None and len(arg) > self.response_length:
            arg = arg[: self.response_length]
        self.sent += len(arg)
        if len(arg) > MAX_COPIED_BYTES:
            self._send(self._head())
            self._send(arg)
        else:
            self._send(self._head() + arg)

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def close(self) -> None:
        """Complete the response: its head if it has no body, and the last chunk."""
        self.send_headers()
        if self.chunked:
            self._send(b"0\r\n\r\n")


def rejection_response(status: int) -> bytes:
    """Return the response on the wire to bytes that are no valid request."""
    refusal: Refusal = HostStopping("The host is stopping. The request had not arrived.")
    if status != refusal.status:
        refusal = Refusal(
            status, "request-rejected", f"{HTTPStatus(status).phrase}: the request can't be read."
        )
    body = problem_document(refusal, None)
    headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body)))]
    return closing_response(status_line(status), headers, body)
