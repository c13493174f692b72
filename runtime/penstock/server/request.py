"""The head of a request: gunicorn's parser, with a faster path for usual heads.

Beyond gunicorn's, the checks of framing and host that RFC 9112 requires.
"""

from __future__ import annotations

import re
from typing import Any

import gunicorn_h1c
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding
from gunicorn.http.message import Request as GunicornRequest

# Header fields that a request has once (RFC 9110 section 5.3).
SINGLE_FIELDS = frozenset({"HOST", "CONTENT-TYPE"})
FRAMING_FIELDS = frozenset({"CONTENT-LENGTH", "TRANSFER-ENCODING", "CONNECTION", "HOST"})
MAX_CACHED = 500  # header names, and hosts, that are remembered as well-formed
# RFC 9110 section 4.2.1 and RFC 3986 section 3.2.2: a name, an IPv4 address, or an IPv6 address in
# brackets; then a port.
HOST = re.compile(
    r"""(?: (?: [A-Za-z0-9._~!$&'()*+;=-] | %[0-9A-Fa-f]{2} )+
          | \[ [0-9A-Fa-f:.]+ \]
          | \[ v[0-9A-Fa-f]+ \. [A-Za-z0-9._~!$&'()*+;=:-]+ \] )
        (?: : (\d{0,5}) )?""",
    re.ASCII | re.VERBOSE,
)
MAX_PORT = 65_535
# Of a Content-Length. A larger one is an error, and slow to convert.
MAX_LENGTH_DIGITS = 18

_usual_names: dict[bytes, str] = {}
_valid_hosts: set[str] = set()


class HeadIncomplete(Exception):
    """The head of the request has not been received completely."""


class ReceivedBytes:
    """The bytes received on a connection, as the source that gunicorn's parser reads from.

    Reading more than that raises HeadIncomplete.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int | None = None) -> bytes:  # noqa: ARG002  gunicorn's signature
        """Return all received bytes at once."""
        if not self.data:
            raise HeadIncomplete
        data, self.data = self.data, b""
        return data

    def unread(self, data: bytes) -> None:
        """Return bytes that the parser did not use."""
        self.data = data + self.data


class Request(GunicornRequest):  # type: ignore[misc]  # gunicorn ships no types
    """The head of a request.

    `length` is the Content-Length in bytes (0 without one), `chunked` whether the body is chunked.
    `closes` is whether the client asks to close the connection. `continue_sent` is whether
    `100 Continue` was sent.
    """

    length = 0
    chunked = False
    closes = False
    continue_sent = False

    def _parse_fast(self, unreader: Any, buf: bytearray) -> bytes:  # noqa: ANN401  gunicorn's type
        """Parse the head, and return the bytes behind it."""
        data = bytes(buf)
        try:
            head = gunicorn_h1c.parse_request(
                data,
                limit_request_line=self._fast_limit_request_line,
                limit_request_fields=self.limit_request_fields,
                limit_request_field_size=self.limit_request_field_size,
            )
        except Exception:  # noqa: BLE001  gunicorn's own parser raises the error that fits
            return bytes(super()._parse_fast(unreader, buf))
        uri = str(head["path"], "latin-1")
        headers: list[tuple[str, str]] = []
        single = set()
        for raw, value in head["headers"]:
            name = _usual_names.get(raw) or _usual_name(raw)
            if name is None or name in single:
                return bytes(super()._parse_fast(unreader, buf))
            if name in SINGLE_FIELDS:
                single.add(name)
            headers.append((name, str(value, "latin-1")))
        if (
            not uri.startswith("/")
            or uri.startswith("//")
            or "#" in uri
            or self.cfg.casefold_http_method
            or self._peer_is_trusted_proxy()
        ):
            return bytes(super()._parse_fast(unreader, buf))
        self.method, self.uri, self.headers = str(head["method"], "latin-1"), uri, headers
        self.path, _, self.query = uri.partition("?")
        self.fragment = ""
        self.version = 1, head["minor_version"]
        return data[head["consumed"] :]

    def set_body_reader(self) -> None:
        """Set the framing of the message from its head (RFC 9112 sections 3.2, 6 and 9.3).

        Raises gunicorn's ParseException.
        """
        length = coding = host = None
        persists = self.version >= (1, 1)
        for name, value in self.headers:
            if name not in FRAMING_FIELDS:
                continue
            if name == "CONTENT-LENGTH":
                if (
                    length is not None
                    or len(value) > MAX_LENGTH_DIGITS
                    or not (value.isascii() and value.isdigit())
                ):
                    raise InvalidHeader(name, req=self)
                length = int(value)
            elif name == "HOST":
                host = value
            elif name == "TRANSFER-ENCODING":
                if coding is not None:
                    raise InvalidHeader(name, req=self)
                coding = value.lower()
            else:
                options = {option.strip().lower() for option in value.split(",")}
                self.closes = self.closes or "close" in options
                persists = persists or "keep-alive" in options
        self.closes = self.closes or not persists
        if host not in _valid_hosts:
            self._check_host(host)
        if coding is not None:
            self._check_coding(coding, length)
        self.chunked, self.length = coding is not None, length or 0

    def _check_host(self, host: str | None) -> None:
        """Raise InvalidHeader (400) if the host is missing or malformed (RFC 9112 section 3.2)."""
        if host is None:
            if self.version >= (1, 1):
                raise InvalidHeader("HOST", req=self)
            return
        match = HOST.fullmatch(host)
        if match is None or int(match[1] or 0) > MAX_PORT:
            raise InvalidHeader("HOST", req=self)
        if len(_valid_hosts) < MAX_CACHED:
            _valid_hosts.add(host)

    def _check_coding(self, coding: str, length: int | None) -> None:
        """Raise for any transfer coding but `chunked` alone, and for ambiguous framing.

        The application could not decode other codings.
        """
        codings = [part.strip() for part in coding.split(",")]
        if (
            length is not None
            or self.version < (1, 1)
            or codings.count("chunked") > 1
            or "" in codings
        ):
            raise InvalidHeader("TRANSFER-ENCODING", req=self)
        if codings != ["chunked"]:
            if "chunked" in codings[:-1]:
                raise InvalidHeader("TRANSFER-ENCODING", req=self)
            raise UnsupportedTransferCoding(coding)

    def should_close(self) -> bool:
        """Return whether the connection closes after this request."""
        return self.must_close or self.closes

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        return bool(self._expected_100_continue)

    def _peer_is_trusted_proxy(self) -> bool:
        if isinstance(self.peer_addr, tuple) and not self.cfg.forwarded_allow_ips:
            return False
        return bool(super()._peer_is_trusted_proxy())


def _usual_name(raw: bytes) -> str | None:
    """Return a header's name as gunicorn stores it, or None if gunicorn must process it."""
    name = str(raw, "latin-1").upper()
    if "_" in name or name == "EXPECT":
        return None
    if len(_usual_names) < MAX_CACHED:
        _usual_names[raw] = name
    return name


def read_head(config: Any, data: bytes, client: Any, number: int) -> tuple[Request, bytes]:  # noqa: ANN401  gunicorn ships no types
    """Return the request in the received bytes, and the bytes behind its head.

    Raises HeadIncomplete, and gunicorn's ParseException for a malformed request.
    """
    source = ReceivedBytes(data)
    request = Request(config, source, client, number)
    return request, source.data
