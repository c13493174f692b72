"""Content codings (RFC 9110 section 8.4): bodies may come and go compressed with gzip."""

from __future__ import annotations

import gzip
import re
import zlib

from werkzeug.http import parse_accept_header

from penstock.errors import Refusal

MIN_COMPRESSED_BYTES = 1024  # bytes; below, the headers cost more than is won
COMPRESSIBLE = re.compile(r"text/|application/(?:[a-z.+-]*\+)?(?:json|xml)|application/javascript")
AS_IT_IS = frozenset(
    {"content-encoding", "content-range", "content-digest", "content-md5", "digest", "repr-digest"}
)
GZIP = 16 + zlib.MAX_WBITS


def require_gzip(coding: str) -> None:
    """Refuse (415) a body that is compressed in any other way."""
    if coding.strip().lower() not in {"gzip", "x-gzip"}:
        refused = "Send the body as it is, or compressed once with gzip."
        raise Refusal(415, "unsupported-media-type", refused, headers=[("Accept-Encoding", "gzip")])


def decompress(body: bytes, coding: str, limit: int) -> bytes | None:
    """Return a request's body as it was before it was coded.

    Return None if that has more bytes than the limit.

    Never more than the limit is inflated, whatever the body promises. Raises Refusal: 415 for
    another coding, 400 for what is no gzip.
    """
    require_gzip(coding)
    inflater = zlib.decompressobj(GZIP)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise Refusal(
            400, "body-malformed", "The body is not gzip, as its Content-Encoding says."
        ) from None
    if len(plain) > limit:
        return None
    if not inflater.eof or inflater.unused_data:
        raise Refusal(400, "body-malformed", "The body is not one whole gzip stream.")
    return plain


def compress_reply(body: bytes, headers: list[tuple[str, str]], accepted: str) -> bytes:
    """Return a reply's body, compressed where that is worth it and accepted.

    Say so in its headers.

    What holds for these very bytes, or may not be transformed, stays as it is. A strong entity tag
    becomes a weak one.
    """
    names = {name.lower(): value for name, value in headers}
    if not AS_IT_IS.isdisjoint(names) or not COMPRESSIBLE.match(names.get("content-type", "")):
        return body
    if "no-transform" in names.get("cache-control", "").lower():
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
