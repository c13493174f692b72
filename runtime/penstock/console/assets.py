"""Static files of the console: read once, compressed once, and named after their content."""

from __future__ import annotations

import gzip
import mimetypes
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from flask import Response, abort, request, url_for

from penstock.console.compression import MIN_BYTES, TEXT_TYPES, accepts_gzip
from penstock.console.pages import PUBLIC, blueprint

MAX_AGE_S = 31_536_000  # a year: the URL of a file holds its digest
BEST_LEVEL = 9


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file: its content, plain and compressed, and its digest."""

    content_type: str
    content: bytes
    compressed: bytes | None
    digest: str


@cache
def _names() -> frozenset[str]:
    """Return the paths of all files, so that no other path is ever read."""

    def walk(folder: Traversable, prefix: str) -> list[str]:
        names = []
        for entry in folder.iterdir():
            path = f"{prefix}{entry.name}"
            names += walk(entry, f"{path}/") if entry.is_dir() else [path]
        return names

    return frozenset(walk(files("penstock.console").joinpath("static"), ""))


@cache
def _asset(name: str) -> Asset:
    content = files("penstock.console").joinpath("static", name).read_bytes()
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    small = kind not in TEXT_TYPES or len(content) < MIN_BYTES
    return Asset(
        content_type=f"{kind}; charset=utf-8" if kind in TEXT_TYPES else kind,
        content=content,
        compressed=None if small else gzip.compress(content, BEST_LEVEL, mtime=0),
        digest=sha256(content).hexdigest()[:12],
    )


def asset(name: str) -> str:
    """Return the URL of a static file; the URL changes with the file."""
    return url_for("console.static", filename=name, v=_asset(name).digest)


def _static(filename: str) -> Response:
    if filename not in _names():
        abort(404, f"There is no file {filename}.")
    item = _asset(filename)
    zipped = item.compressed is not None and accepts_gzip()
    response = Response(item.compressed if zipped else item.content, content_type=item.content_type)
    response.vary.add("Accept-Encoding")
    if zipped:
        response.headers["Content-Encoding"] = "gzip"
    # The two encodings are two representations, each with its own tag (RFC 9110, 8.8.3.3).
    response.set_etag(f"{item.digest}-gzip" if zipped else item.digest)
    response.cache_control.public = True
    response.cache_control.max_age = MAX_AGE_S
    response.make_conditional(request)
    return response


PUBLIC.add("console.static")
blueprint.add_url_rule("/static/<path:filename>", "static", _static, methods=["GET"])
