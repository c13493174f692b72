"""Read the body of a request within its limit: raw, decompressed, or as a form."""

from __future__ import annotations

import gzip
import zlib
from codecs import BOM_UTF8
from io import BytesIO
from typing import IO, Any, cast
from urllib.parse import unquote_to_bytes

from penstock.contracts.forms import Fields, close_files
from penstock.endpoints.media import UTF_8, charset_of, media_type, parameters_of
from penstock.errors import DeadlineExceeded, HostStopping, Refusal
from penstock.http.body_protocol import BodyFault, body_fault
from penstock.http.encodings import decompress, require_gzip
from penstock.http.multipart import MAX_FIELDS, MultipartForm, Stream, malformed
from penstock.runs.timeouts import TimedOut

Environ = dict[str, Any]


class MalformedBody(Refusal):
    """The framing of the body is malformed, so the connection can't be used again."""

    def __init__(self) -> None:
        super().__init__(
            400,
            "body-malformed",
            "The body ended before it should have, or is not framed as HTTP asks.",
        )


class BodyTimedOut(DeadlineExceeded):
    """The body did not arrive before the deadline, so the connection can't be used again."""

    def __init__(self) -> None:
        super().__init__("The body did not arrive in the time that the pipeline has.")


class BodyAborted(HostStopping):
    """The body had not arrived when the host stopped, so the connection can't be used again."""

    def __init__(self) -> None:
        super().__init__(
            "The host is stopping. The call was not performed: its body had not arrived."
        )


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413, "body-too-large", f"The body may have {limit} bytes.", extra={"limit": limit}
    )


class _Incoming:
    """A body as a stream. At most one byte more than the limit is read."""

    __slots__ = ("_input", "_length", "_limit", "_read")

    def __init__(self, environ: Environ, limit: int) -> None:
        length = environ.get("CONTENT_LENGTH")
        self._input = environ["wsgi.input"]
        self._limit = limit
        self._length = int(length) if length else None
        self._read = 0
        fault = body_fault(environ)
        if fault is BodyFault.TOO_LARGE or (self._length is not None and self._length > limit):
            raise _too_large(limit)
        if fault is BodyFault.TIMED_OUT:
            raise TimedOut
        if fault is BodyFault.HOST_STOPPING:
            raise BodyAborted
        if fault is BodyFault.MALFORMED:
            raise MalformedBody

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, or all that are left for -1.

        Raises TimedOut, and Refusal: 413, or 400 for malformed framing.
        """
        left = (self._length if self._length is not None else self._limit + 1) - self._read
        expected = left if size < 0 else min(size, left)
        try:
            data: bytes = self._input.read(expected) if expected > 0 else b""
        except TimedOut:
            raise
        except Exception as error:
            raise MalformedBody from error
        self._read += len(data)
        if self._read > self._limit:
            raise _too_large(self._limit)
        if self._length is not None and len(data) < expected:
            raise MalformedBody
        return data


class _Decompressed:
    """A gzip body as a stream of its content. The limit applies to the content too."""

    def __init__(self, source: _Incoming, limit: int) -> None:
        self._source = gzip.GzipFile(fileobj=cast("IO[bytes]", source), mode="rb")
        self._limit = limit
        self._read = 0

    def read(self, size: int) -> bytes:
        try:
            data = self._source.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise malformed("The body is not gzip, as its Content-Encoding says.") from None
        self._read += len(data)
        if self._read > self._limit:
            raise _too_large(self._limit)
        return data


class Body:
    """The body of a request, read once: raw, decompressed, or as a form.

    Reading raises Refusal: 400, 413 or 415.
    """

    __slots__ = ("_environ", "_limit", "_raw")

    def __init__(self, environ: Environ, limit: int) -> None:
        self._environ = environ
        self._limit = limit
        self._raw: bytes | None = None

    def raw(self) -> bytes:
        """Return the body as it was sent, compressed or not."""
        if self._raw is None:
            self._raw = _Incoming(self._environ, self._limit).read()
        return self._raw

    def read(self) -> bytes:
        """Return the whole body, decompressed."""
        body = self.raw()
        coding = self._environ.get("HTTP_CONTENT_ENCODING")
        if not coding or coding.lower() == "identity":
            return body
        content = decompress(body, coding, self._limit)
        if content is None:
            raise _too_large(self._limit)
        return content

    def form(self, body: bytes | None = None) -> Fields:
        """Return the fields of a form by name. A file is an Upload, on disk unless it is small.

        `body` is the decompressed body, if it was read before.
        """
        content_type = self._environ.get("CONTENT_TYPE") or ""
        kind = media_type(content_type)
        if kind == "application/x-www-form-urlencoded":
            return _urlencoded(self.read() if body is None else body, charset_of(content_type))
        if kind != "multipart/form-data":
            accepted = "application/x-www-form-urlencoded, multipart/form-data"
            raise Refusal(
                415,
                "unsupported-media-type",
                "Send the body as a form.",
                headers=[("Accept", accepted)],
            )
        boundaries = [value for name, value in parameters_of(content_type) if name == "boundary"]
        boundary = boundaries[0] if len(boundaries) == 1 else ""
        if not boundary or not boundary.isascii():
            raise malformed("The body is a multipart form, and its Content-Type has no boundary.")
        form = MultipartForm(charset_of(content_type))
        try:
            form.read(self._stream() if body is None else BytesIO(body), boundary.encode())
        except BaseException:
            close_files(form.fields)
            raise
        return form.fields

    def _stream(self) -> Stream:
        """Return the decompressed body as a stream."""
        if self._raw is not None:
            return BytesIO(self.read())
        incoming = _Incoming(self._environ, self._limit)
        coding = self._environ.get("HTTP_CONTENT_ENCODING") or "identity"
        if coding.lower() == "identity":
            return incoming
        require_gzip(coding)
        return _Decompressed(incoming, self._limit)


def _urlencoded(body: bytes, charset: str) -> Fields:
    """Return the fields of a URL-encoded form (URL standard).

    Unlike in that standard, bytes outside the charset are an error; they are not replaced.
    """
    if charset.startswith(("utf-16", "utf-32")):  # `&` and `=` have more than one byte in them
        raise Refusal(
            415,
            "unsupported-media-type",
            "A URL-encoded form can't come in this charset; send it in UTF-8.",
        )
    if body.count(b"&") >= MAX_FIELDS:
        raise malformed(f"The form has more than {MAX_FIELDS} fields.")
    fields: Fields = {}
    try:
        for pair in (body.removeprefix(BOM_UTF8) if charset == UTF_8 else body).split(b"&"):
            if pair:
                name, _, value = (
                    unquote_to_bytes(part).decode(charset)
                    for part in pair.replace(b"+", b" ").partition(b"=")
                )
                fields.setdefault(name, []).append(value)
    except UnicodeError:
        raise malformed(f"The form is not {charset.upper()} text.") from None
    return fields
