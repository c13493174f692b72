"""Where a handler's parameters come from, when it is neither the path, the query nor a JSON body.

Forms, files and headers.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Form:
    """Marks a body that comes as a form, URL-encoded or multipart.

    Example: `signup: Annotated[SignUp, Form()]`. The fields of the type are those of the form; one
    of type `Upload`, or a list of them, takes files.
    """


@dataclass(frozen=True, slots=True)
class Header:
    """Marks a parameter that comes from a header.

    Example: `*, trace: Annotated[str, Header("X-Trace")] = ""`. Without a name it is the
    parameter's own, with dashes: `if_match` is `If-Match`.
    """

    name: str = ""


class Upload:
    """A file that came with a form.

    It is in memory while it is small, else in a temporary file, and is gone when the call ends.

    `filename` is what the caller says, and no path to write to; `size` is in bytes.
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
        """Return what is left of the file, or that many bytes of it."""
        return self.file.read(size)

    def save(self, path: Path | str) -> None:
        """Write the whole file to a path."""
        self.file.seek(0)
        with Path(path).open("wb") as target:
            shutil.copyfileobj(self.file, target, 1024 * 1024)

    def __repr__(self) -> str:
        """Name it; never its content."""
        return f"<Upload {self.filename!r} {self.content_type} {self.size} bytes>"


Fields = dict[str, list[str | Upload]]


def close_files(fields: Fields) -> None:
    """Close a form's files; those on disk are gone with that."""
    for values in fields.values():
        for value in values:
            if isinstance(value, Upload):
                value.file.close()
