"""The body of a request: its framing, and the buffer that holds it until it is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, Any

from penstock.http.body_protocol import BodyFault, BodyNotReceived

MAX_MEMORY_BYTES = 64 * 1024  # of a body in memory; a larger one is written to disk
MAX_SIZE_LINE = 1024  # bytes of the line with a chunk's size and its extensions
MAX_EXTENSIONS = 16 * 1024  # bytes of all chunk extensions of a body
MAX_TRAILERS = 16 * 1024  # bytes of the trailer section
MAX_SIZE_DIGITS = 16  # hexadecimal digits of a chunk's size
HEX = frozenset(b"0123456789abcdefABCDEF")
# RFC 9112 section 7.1.1 allows none of these in a chunk extension. A parser that ends the line at
# one of them reads another body: request smuggling.
CONTROL = frozenset(byte for byte in range(0x20) if byte != 0x09) | {0x7F}  # noqa: PLR2004  the tab


class InvalidFraming(ValueError):
    """The framing violates RFC 9112 section 7.1, so the end of the body is unknown."""


class LengthFraming:
    """A body with a Content-Length. `left` is the number of bytes not received yet."""

    def __init__(self, length: int) -> None:
        self.left: int | None = length

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the content in received bytes, and the bytes behind the body.

        The second value is None before the end of the body.
        """
        left = self.left or 0
        self.left = max(0, left - len(data))
        return data[:left], data[left:] if not self.left else None


class ChunkedFraming:
    """A body in chunks (RFC 9112 section 7.1).

    `check_trailers` receives the trailer section, and raises if it is malformed.
    """

    left = None

    def __init__(self, check_trailers: Callable[[bytes], object]) -> None:
        self._check_trailers = check_trailers
        self._pending = b""
        # Bytes of the chunk that were not received yet; -1 before its size, 0 before its line end.
        self._chunk = -1
        self._last = False
        self._extensions = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the content in received bytes, and the bytes behind the body.

        The second value is None before the end of the body. Raises InvalidFraming.
        """
        data, at, content = self._pending + data, 0, []
        while not self._last:
            if self._chunk > 0:
                piece = data[at : at + self._chunk]
                if not piece:
                    break
                content.append(piece)
                at += len(piece)
                self._chunk -= len(piece)
            elif self._chunk == 0:
                if data[at : at + 2] != b"\r\n":
                    if data[at:] not in (b"", b"\r"):
                        raise InvalidFraming("a chunk is longer than its size")
                    break
                self._chunk, at = -1, at + 2
            else:
                end = data.find(b"\r\n", at, at + MAX_SIZE_LINE)
                size = self._size(
                    data[at:end] if end >= 0 else data[at:].removesuffix(b"\r"), whole=end >= 0
                )
                if end < 0:
                    break
                self._chunk, self._last, at = size, size == 0, end + 2
        self._pending = data[at:]
        return b"".join(content), self._end() if self._last else None

    def _size(self, line: bytes, *, whole: bool) -> int:
        """Return the size in the line before a chunk. Raises InvalidFraming.

        An incomplete line is checked as far as it was received; its size counts as 0.
        """
        if not whole and len(line) >= MAX_SIZE_LINE - 1:
            raise InvalidFraming("the line before a chunk is too long")
        digits, semicolon, extension = line.partition(b";")
        if semicolon or not whole:
            digits = digits.rstrip(b" \t")
        if (
            not HEX.issuperset(digits)
            or len(digits) > MAX_SIZE_DIGITS
            or (not digits and (whole or semicolon))
        ):
            raise InvalidFraming("the size of a chunk is not a hexadecimal number")
        if not CONTROL.isdisjoint(extension):
            raise InvalidFraming("a chunk extension holds a control character")
        self._extensions += len(extension) if whole else 0
        if self._extensions > MAX_EXTENSIONS:
            raise InvalidFraming("the chunk extensions take too many bytes")
        return int(digits, 16) if whole else 0

    def _end(self) -> bytes | None:
        """Check the trailer section, and return the bytes behind it (None if it is incomplete)."""
        section, end, rest = self._pending.partition(b"\r\n\r\n")
        if self._pending.startswith(b"\r\n"):
            section, rest = b"", self._pending[2:]
        elif not end:
            if len(self._pending) > MAX_TRAILERS:
                raise InvalidFraming("the trailer section is too long")
            return None
        if section:
            try:
                self._check_trailers(section)
            except Exception as error:
                raise InvalidFraming("the trailer section is malformed") from error
        return rest


class RequestBody:
    """The `wsgi.input` of a request (PEP 3333).

    The server adds bytes, and the application reads them once the body is `complete`. `ended` is
    whether the connection is past the body, complete or not. `size` counts bytes of content.

    Reading it earlier raises BodyNotReceived. If it has a `fault`, reading raises OSError.
    """

    __slots__ = ("_discard", "_file", "_framing", "_limit", "complete", "ended", "fault", "size")

    def __init__(self, framing: LengthFraming | ChunkedFraming | None) -> None:
        self._framing = framing
        self._file: IO[bytes] | None = None
        self._limit: int | None = None
        self._discard = False
        self.size = 0
        self.fault: BodyFault | None = None
        self.ended = self.complete = framing is None

    @classmethod
    def of(cls, request: Any, data: bytes) -> tuple[RequestBody, bytes]:  # noqa: ANN401  gunicorn ships no types
        """Return the body that a head announces (RFC 9112 section 6.3), and the data behind it.

        `data` is everything received behind the head.
        """
        length: int = request.length
        if not length and not request.chunked:
            return cls(None), data
        if length and len(data) >= length:  # usually received together with the head
            body = cls(None)
            body._file, body.size = BytesIO(data[:length]), length
            return body, data[length:]
        body = cls(
            ChunkedFraming(partial(request.parse_headers, from_trailer=True))
            if request.chunked
            else LengthFraming(length)
        )
        return body, body.feed(data)

    @property
    def left(self) -> int | None:
        """The number of bytes not received yet, None if unknown."""
        return 0 if self.ended or self._framing is None else self._framing.left

    def feed(self, data: bytes) -> bytes:
        """Add received bytes, and return those behind the body."""
        if self._framing is None or self.fault is BodyFault.MALFORMED:
            return b""
        try:
            content, rest = self._framing.feed(data)
        except InvalidFraming:
            self.fail(BodyFault.MALFORMED)
            return b""
        self.size += len(content)
        if self._limit is not None and self.size > self._limit:
            self.fail(BodyFault.TOO_LARGE)
        if content and not self._discard:
            self._store(content)
        if rest is None:
            return b""
        self.ended, self.complete = True, not self._discard
        if self._file is not None:
            self._file.seek(0)
        return rest

    def _store(self, content: bytes) -> None:
        file = self._file
        if file is None:
            file = self._file = BytesIO()
        if self.size > MAX_MEMORY_BYTES and isinstance(file, BytesIO):
            self._file = TemporaryFile()  # noqa: SIM115  closed with the request
            self._file.write(file.getbuffer())
            file = self._file
        file.write(content)

    def set_limit(self, limit: int) -> None:
        """Set the maximum size in bytes. A larger body has a fault."""
        self._limit = limit
        if self.size > limit:
            self.fail(BodyFault.TOO_LARGE)

    def fail(self, fault: BodyFault) -> None:
        """Set why the body will never be complete, and discard it."""
        if self.fault is None and not self.complete:
            self.fault = fault
            self.discard()

    def discard(self) -> None:
        """Drop the content, and do not store further content."""
        self._discard = True
        self.close()

    def close(self) -> None:
        """Release memory and disk."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # The interface of PEP 3333.

    def _readable(self) -> IO[bytes]:
        if self.fault is not None:
            raise OSError(f"the body is {self.fault.value}")
        if not self.complete:
            raise BodyNotReceived
        if self._file is None:
            self._file = BytesIO()
        return self._file

    def read(self, size: int | None = -1) -> bytes:
        """Return at most `size` bytes, or all that are left for -1."""
        return self._readable().read(-1 if size is None else size)

    def readline(self, size: int | None = -1) -> bytes:
        """Return the next line with its end."""
        return self._readable().readline(-1 if size is None else size)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Return all lines that are left."""
        return self._readable().readlines(-1 if hint is None else hint)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
