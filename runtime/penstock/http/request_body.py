"""Read a request's body.

Within its limit, framed as it says, inflated where it was compressed, and forms part by part.
"""

from __future__ import annotations

import gzip
import zlib
from codecs import BOM_UTF8
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Protocol, cast
from urllib.parse import unquote_to_bytes

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from penstock.contracts.forms import Fields, Upload, close_files
from penstock.endpoints.media import UTF_8, charset_of, media_type, parameters_of
from penstock.errors import DeadlineExceeded, HostStopping, Refusal
from penstock.http.body_protocol import BodyFault, body_fault
from penstock.http.encodings import decompress, require_gzip
from penstock.runs.timeouts import TimedOut

CHUNK = 64 * 1024
IN_MEMORY = 64 * 1024  # bytes of one file before it goes to disk
FIELDS = 1024 * 1024  # bytes of all fields that are no files
MOST_FIELDS = 1000
MOST_FILES = 100  # each may hold a file descriptor
AS_IT_IS = frozenset({"7bit", "8bit", "binary"})

Environ = dict[str, Any]


class Stream(Protocol):
    """What a form is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most that many bytes, none at the end."""


class MalformedBody(Refusal):
    """The body's framing is broken.

    Where it ends is not known, so the connection can't be used again.
    """

    def __init__(self) -> None:
        super().__init__(
            400,
            "body-malformed",
            "The body ended before it should have, or is not framed as HTTP asks.",
        )


class BodyTimedOut(DeadlineExceeded):
    """The body did not arrive within the pipeline's time; the connection can't be used again."""

    def __init__(self) -> None:
        super().__init__("The body did not arrive in the time that the pipeline has.")


class BodyAborted(HostStopping):
    """The body had not arrived when the host stopped; the connection can't be used again."""

    def __init__(self) -> None:
        super().__init__(
            "The host is stopping. The call was not performed: its body had not arrived."
        )


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413, "body-too-large", f"The body may have {limit} bytes.", extra={"limit": limit}
    )


def _malformed(detail: str) -> Refusal:
    return Refusal(400, "body-malformed", detail)


class _Incoming:
    """A body as it arrives: never more than one byte past the limit is read."""

    def __init__(self, environ: Environ, limit: int) -> None:
        sent = environ.get("CONTENT_LENGTH")
        self._input = environ["wsgi.input"]
        self._limit = limit
        self._length = int(sent) if sent else None
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
        """Return at most that many bytes, all that is left for -1.

        Raises Refusal: 413, or 400 for broken framing; and TimedOut.
        """
        left = (self._length if self._length is not None else self._limit + 1) - self._read
        wanted = left if size < 0 else min(size, left)
        try:
            data: bytes = self._input.read(wanted) if wanted > 0 else b""
        except TimedOut:
            raise
        except Exception as error:
            raise MalformedBody from error
        self._read += len(data)
        if self._read > self._limit:
            raise _too_large(self._limit)
        if self._length is not None and len(data) < wanted:
            raise MalformedBody
        return data


class _Inflated:
    """The same, of a body that came as gzip: what it inflates to is bounded too."""

    def __init__(self, source: _Incoming, limit: int) -> None:
        self._source = gzip.GzipFile(fileobj=cast("IO[bytes]", source), mode="rb")
        self._limit = limit
        self._read = 0

    def read(self, size: int) -> bytes:
        try:
            data = self._source.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise _malformed("The body is not gzip, as its Content-Encoding says.") from None
        self._read += len(data)
        if self._read > self._limit:
            raise _too_large(self._limit)
        return data


class Body:
    """A request's body, read once: as it was sent, inflated, or as a form.

    Reading raises Refusal: 413, 415 or 400.
    """

    __slots__ = ("_environ", "_limit", "_raw")

    def __init__(self, environ: Environ, limit: int) -> None:
        self._environ = environ
        self._limit = limit
        self._raw: bytes | None = None

    def raw(self) -> bytes:
        """Return the body as it was sent."""
        if self._raw is None:
            self._raw = _Incoming(self._environ, self._limit).read()
        return self._raw

    def read(self) -> bytes:
        """Return the whole body, inflated."""
        body = self.raw()
        coding = self._environ.get("HTTP_CONTENT_ENCODING")
        if not coding or coding.lower() == "identity":
            return body
        plain = decompress(body, coding, self._limit)
        if plain is None:
            raise _too_large(self._limit)
        return plain

    def form(self, body: bytes | None = None) -> Fields:
        """Return a form's fields by name; a file is an Upload, on disk where it is not small.

        `body` is the body where it was read already.
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
            raise _malformed(
                "The body is a multipart form, and its Content-Type does not say the boundary."
            )
        parts = _Parts(charset_of(content_type))
        try:
            parts.read(self._stream() if body is None else BytesIO(body), boundary.encode())
        except BaseException:
            close_files(parts.fields)
            raise
        return parts.fields

    def _stream(self) -> Stream:
        """Return the body as it arrives, inflated."""
        if self._raw is not None:
            return BytesIO(self.read())
        incoming = _Incoming(self._environ, self._limit)
        coding = self._environ.get("HTTP_CONTENT_ENCODING") or "identity"
        if coding.lower() == "identity":
            return incoming
        require_gzip(coding)
        return _Inflated(incoming, self._limit)


def _urlencoded(body: bytes, charset: str) -> Fields:
    """Parse a form as the URL standard says.

    Unlike there, bytes that are not in its charset are a fault and are not replaced.
    """
    if charset.startswith(("utf-16", "utf-32")):  # in which `&` and `=` are more than one byte
        raise Refusal(
            415,
            "unsupported-media-type",
            "A URL-encoded form can't come in this charset; send it in UTF-8.",
        )
    if body.count(b"&") >= MOST_FIELDS:
        raise _malformed(f"The form has more than {MOST_FIELDS} fields.")
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
        raise _malformed(f"The form is not {charset.upper()} text.") from None
    return fields


class _Parts:
    """Parse a multipart form as it arrives (RFC 7578).

    A field is text in the charset of its own part, else of the form.
    """

    def __init__(self, charset: str) -> None:
        self.fields: Fields = {}
        self._charset = charset
        self._files = 0
        self._in_memory = 0

    def read(self, source: Stream, boundary: bytes) -> None:
        decoder = MultipartDecoder(boundary, max_form_memory_size=FIELDS, max_parts=MOST_FIELDS)
        part: Field | File | None = None
        text = b""
        try:
            while True:
                event = decoder.next_event()
                if isinstance(event, Epilogue):
                    break
                if isinstance(event, NeedData):
                    decoder.receive_data(source.read(CHUNK) or None)
                elif isinstance(event, Field | File):
                    part, text = event, b""
                    _check(part)
                    if isinstance(part, File):
                        self._open(part)
                elif isinstance(event, Data) and part is not None:
                    if isinstance(part, File):
                        self._write(part, event)
                    else:
                        text += event.data
                        self._keep(part, text, event)
        except RequestEntityTooLarge:
            raise Refusal(
                413,
                "body-too-large",
                f"The form may have {MOST_FIELDS} fields, with {FIELDS} bytes outside of files.",
            ) from None
        except ValueError:
            raise _malformed(
                "The body is no multipart form, or ends before its last boundary."
            ) from None

    def _open(self, part: File) -> None:
        self._files += 1
        if self._files > MOST_FILES:
            raise Refusal(413, "body-too-large", f"The form may have {MOST_FILES} files.")
        file = cast("IO[bytes]", SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115  it is closed when the call ends
        upload = Upload(
            file,  # type: ignore[arg-type]  # a BinaryIO
            filename=part.filename,
            content_type=part.headers.get("Content-Type", "application/octet-stream"),
        )
        self.fields.setdefault(part.name, []).append(upload)

    def _write(self, part: File, event: Data) -> None:
        upload = self.fields[part.name][-1]
        if isinstance(upload, Upload):
            upload.size += upload.file.write(event.data)
            if not event.more_data:
                upload.file.seek(0)
                # How a browser sends a file input that nothing was chosen for (WHATWG HTML).
                if not upload.size and not upload.filename:
                    self._forget(part.name, upload)

    def _forget(self, name: str, upload: Upload) -> None:
        upload.file.close()
        self.fields[name].remove(upload)
        if not self.fields[name]:
            del self.fields[name]

    def _keep(self, part: Field, text: bytes, event: Data) -> None:
        self._in_memory += len(event.data)
        if self._in_memory > FIELDS:
            raise RequestEntityTooLarge
        if not event.more_data:
            charset = charset_of(part.headers.get("Content-Type", ""), self._charset)
            try:
                self.fields.setdefault(part.name, []).append(text.decode(charset))
            except UnicodeError:
                raise _malformed(f"A field of the form is not {charset.upper()} text.") from None


def _check(part: Field | File) -> None:
    """Raise Refusal for a part without a name or with two.

    Proxies and firewalls may read such a part differently.
    """
    dispositions = part.headers.getlist("Content-Disposition")
    names = [name for name, _ in parameters_of(dispositions[0])]
    if len(dispositions) > 1 or media_type(dispositions[0]) != "form-data" or part.name is None:
        raise _malformed(
            "Each part of a form has one header such as: Content-Disposition: form-data;"
            ' name="field".'
        )
    if len(set(names)) < len(names) or {"name", "name*"} <= set(names):
        raise _malformed("A part of the form has two names or two file names.")
    if part.headers.get("Content-Transfer-Encoding", "binary").strip().lower() not in AS_IT_IS:
        raise Refusal(
            415,
            "unsupported-media-type",
            "Send the parts of a form as they are, without Content-Transfer-Encoding.",
        )
