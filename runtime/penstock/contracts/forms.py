"""Annotations for parameters of handlers that come from a form, a file or a header."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Form:
    """Annotates a parameter whose value is the body, sent as a form (URL-encoded or multipart).

    Example: `signup: Annotated[SignUp, Form()]`. The fields of the type are the fields of the form.
    A field of type `Upload`, or a list of them, accepts files.
    """


@dataclass(frozen=True, slots=True)
class Header:
    """Annotates a parameter whose value is a request header.

    Example: `*, trace: Annotated[str, Header("X-Trace")] = ""`. The default `name` is the
    parameter's own with dashes: `if_match` is `If-Match`.
    """

    name: str = ""


class Upload:
    """A file of a form, in memory or in a temporary file. It is deleted when the call ends.

    `filename` is the caller's text: do not use it as a path. `size` is in bytes, `file` is open for
    reading.
    """

    __slots__ = ("content_type", "file", "filename", "size")

    def __init__(
        self,
        file: BinaryIO,
        *,
        filename: str = "",
        content_type: str = "application/octet-stream",
        size: int = 0,
    ) -> None:
        self.file = file
        self.filename = filename
        self.content_type = content_type
        self.size = size

    def read(self, size: int = -1) -> bytes:
        """Return the rest of the file, or the next `size` bytes."""
        return self.file.read(size)

    def save(self, path: Path | str) -> None:
        """Write the whole file to a path."""
        self.file.seek(0)
        with Path(path).open("wb") as target:
            shutil.copyfileobj(self.file, target, 1024 * 1024)

    def __repr__(self) -> str:
        """Return name, type and size, never the content."""
        return f"<Upload {self.filename!r} {self.content_type} {self.size} bytes>"


Fields = dict[str, list[str | Upload]]


def close_files(fields: Fields) -> None:
    """Close the files of a form, which deletes those on disk."""
    for values in fields.values():
        for value in values:
            if isinstance(value, Upload):
                value.file.close()
