"""Compress responses of the console with gzip.

Pages hold no lasting secret beside text that an outsider chooses (the BREACH attack): the CSRF
token is signed anew each second, and the session's cookie isn't sent with requests of other sites.
"""

from __future__ import annotations

import gzip

from flask import Response, request

MIN_BYTES = 512  # below, the headers of gzip cost more than they save
LEVEL = 5
TEXT_TYPES = frozenset(
    {
        "text/html",
        "text/css",
        "text/javascript",
        "text/plain",
        "application/javascript",
        "application/json",
        "image/svg+xml",
    }
)


def accepts_gzip() -> bool:
    """Return whether the client of the request takes gzip."""
    return request.accept_encodings["gzip"] > 0


def compress(response: Response) -> Response:
    """Compress a response where its kind and the client allow it. Streams stay as they are."""
    if response.mimetype not in TEXT_TYPES or response.is_streamed:
        return response
    response.vary.add("Accept-Encoding")
    if "Content-Encoding" in response.headers or not accepts_gzip():
        return response
    body = response.get_data()
    if len(body) >= MIN_BYTES:
        response.set_data(gzip.compress(body, LEVEL, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
    return response
