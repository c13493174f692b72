"""Parse a multipart form (RFC 7578) part by part, within limits for fields, files and memory."""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import IO, Protocol, cast

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from penstock.contracts.forms import Fields, Upload
from penstock.endpoints.media import charset_of, media_type, parameters_of
from penstock.errors import Refusal

READ_BYTES = 64 * 1024
MAX_FILE_MEMORY_BYTES = 64 * 1024  # of one file, before it is written to disk
MAX_FIELD_BYTES = 1024 * 1024  # of all fields that are not files
MAX_FIELDS = 1000
MAX_FILES = 100  # each may need a file descriptor
IDENTITY_ENCODINGS = frozenset({"7bit", "8bit", "binary"})


class Stream(Protocol):
    """The source of a form."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""


def malformed(detail: str) -> Refusal:
    """Return the Refusal (400) for a body that is malformed."""
    return Refusal(400, "body-malformed", detail)


class MultipartForm:
    """The fields of a multipart form, by name.

    A field is text in the charset of its own part, or else in that of the form. A file is an
    Upload, on disk unless it is small.
    """

    def __init__(self, charset: str) -> None:
        self.fields: Fields = {}
        self._charset = charset
        self._file_count = 0
        self._field_bytes = 0

    def read(self, source: Stream, boundary: bytes) -> None:
        """Read all parts. Raises Refusal: 400, 413 or 415."""
        decoder = MultipartDecoder(
            boundary, max_form_memory_size=MAX_FIELD_BYTES, max_parts=MAX_FIELDS
        )
        part: Field | File | None = None
        text = b""
        try:
            while True:
                event = decoder.next_event()
                if isinstance(event, Epilogue):
                    break
                if isinstance(event, NeedData):
                    decoder.receive_data(source.read(READ_BYTES) or None)
                elif isinstance(event, Field | File):
                    part, text = event, b""
                    _check(part)
                    if isinstance(part, File):
                        self._open_file(part)
                elif isinstance(event, Data) and part is not None:
                    if isinstance(part, File):
                        self._write_file(part, event)
                    else:
                        text += event.data
                        self._add_field(part, text, event)
        except RequestEntityTooLarge:
            raise Refusal(
                413,
                "body-too-large",
                f"The form may have {MAX_FIELDS} fields, with {MAX_FIELD_BYTES} bytes outside of"
                " files.",
            ) from None
        except ValueError:
            raise malformed(
                "The body is not a multipart form, or ends before its last boundary."
            ) from None

    def _open_file(self, part: File) -> None:
        self._file_count += 1
        if self._file_count > MAX_FILES:
            raise Refusal(413, "body-too-large", f"The form may have {MAX_FILES} files.")
        file = cast("IO[bytes]", SpooledTemporaryFile(MAX_FILE_MEMORY_BYTES))  # noqa: SIM115  closed when the call ends
        upload = Upload(
            file,  # type: ignore[arg-type]  # a BinaryIO
            filename=part.filename,
            content_type=part.headers.get("Content-Type", "application/octet-stream"),
        )
        self.fields.setdefault(part.name, []).append(upload)

    def _write_file(self, part: File, event: Data) -> None:
        upload = self.fields[part.name][-1]
        if isinstance(upload, Upload):
            upload.size += upload.file.write(event.data)
            if not event.more_data:
                upload.file.seek(0)
                # A browser sends this for a file input without a chosen file (WHATWG HTML).
                if not upload.size and not upload.filename:
                    self._remove(part.name, upload)

    def _remove(self, name: str, upload: Upload) -> None:
        upload.file.close()
        self.fields[name].remove(upload)
        if not self.fields[name]:
            del self.fields[name]

    def _add_field(self, part: Field, text: bytes, event: Data) -> None:
        self._field_bytes += len(event.data)
        if self._field_bytes > MAX_FIELD_BYTES:
            raise RequestEntityTooLarge
        if not event.more_data:
            charset = charset_of(part.headers.get("Content-Type", ""), self._charset)
            try:
                self.fields.setdefault(part.name, []).append(text.decode(charset))
            except UnicodeError:
                raise malformed(f"A field of the form is not {charset.upper()} text.") from None


def _check(part: Field | File) -> None:
    """Raise Refusal for a part without a name, or with two names.

    Proxies and firewalls may interpret such a part differently.
    """
    dispositions = part.headers.getlist("Content-Disposition")
    names = [name for name, _ in parameters_of(dispositions[0])]
    if len(dispositions) > 1 or media_type(dispositions[0]) != "form-data" or part.name is None:
        raise malformed(
            "Each part of a form has one header such as: Content-Disposition: form-data;"
            ' name="field".'
        )
    if len(set(names)) < len(names) or {"name", "name*"} <= set(names):
        raise malformed("A part of the form has two names or two file names.")
    if (
        part.headers.get("Content-Transfer-Encoding", "binary").strip().lower()
        not in IDENTITY_ENCODINGS
    ):
        raise Refusal(
            415,
            "unsupported-media-type",
            "Send the parts of a form as they are, without Content-Transfer-Encoding.",
        )
