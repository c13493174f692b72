"""Content codings (RFC 9110 section 8.4): requests and replies may be compressed with gzip."""

from __future__ import annotations

import gzip
import re
import zlib

from werkzeug.http import parse_accept_header

from penstock.errors import Refusal

MIN_COMPRESSED_BYTES = 1024  # below that, the headers cost more than compression saves
COMPRESSIBLE = re.compile(r"text/|application/(?:[a-z.+-]*\+)?(?:json|xml)|application/javascript")
# A reply with one of these headers describes its exact bytes.
FIXED_BODY_HEADERS = frozenset(
    {"content-encoding", "content-range", "content-digest", "content-md5", "digest", "repr-digest"}
)
GZIP = 16 + zlib.MAX_WBITS


def require_gzip(coding: str) -> None:
    """Raise Refusal (415) for a content coding other than gzip."""
    if coding.strip().lower() not in {"gzip", "x-gzip"}:
        detail = "Send the body as it is, or compressed once with gzip."
        raise Refusal(415, "unsupported-media-type", detail, headers=[("Accept-Encoding", "gzip")])


def decompress(body: bytes, coding: str, limit: int) -> bytes | None:
    """Return a decompressed request body, None if it has more than `limit` bytes.

    At most one byte more than the limit is decompressed. Raises Refusal: 415 for another coding,
    400 for a body that is not one gzip stream.
    """
    require_gzip(coding)
    decompressor = zlib.decompressobj(GZIP)
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error:
        raise Refusal(
            400, "body-malformed", "The body is not gzip, as its Content-Encoding says."
        ) from None
    if len(content) > limit:
        return None
    if not decompressor.eof or decompressor.unused_data:
        raise Refusal(400, "body-malformed", "The body is not one whole gzip stream.")
    return content


def compress_reply(body: bytes, headers: list[tuple[str, str]], accepted: str) -> bytes:
    """Return the body of a reply, compressed if its type and the client allow that.

    `accepted` is the request's Accept-Encoding. The headers are updated, and a strong entity tag
    becomes a weak one. A reply that describes its exact bytes, or forbids transformation, stays as
    it is.
    """
    values = {name.lower(): value for name, value in headers}
    if not FIXED_BODY_HEADERS.isdisjoint(values) or not COMPRESSIBLE.match(
        values.get("content-type", "")
    ):
        return body
    if "no-transform" in values.get("cache-control", "").lower():
        return body
    headers.append(("Vary", "Accept-Encoding"))
    if not parse_accept_header(accepted)["gzip"]:
        return body
    headers[:] = [
        (name, f"W/{value}" if name.lower() == "etag" and value.startswith('"') else value)
        for name, value in headers
    ]
    headers.append(("Content-Encoding", "gzip"))
    return gzip.compress(body, compresslevel=4, mtime=0)
