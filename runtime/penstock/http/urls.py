"""URLs.

Those in headers made absolute, for behind a proxy only an operator knows where callers reach this
server; and a path's escapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LOCATIONS = frozenset({"location", "content-location"})
LINK = re.compile(r"(^|,\s*)<(/(?!/)[^>]*)>")  # RFC 8288; only what begins at this server's root
Headers = list[tuple[str, str]]


def has_escaped_slash(environ: Mapping[str, Any]) -> bool:
    """Say whether a path has a slash as `%2F`, which is no separator (RFC 3986 section 2.2).

    Such a path names nothing here.

    WSGI's PATH_INFO can't tell both apart: `/v1%2Forders` would be `/v1/orders`, past the rules of
    a proxy for that path. So servers hand over the path as it came too: gunicorn as RAW_URI, others
    as REQUEST_URI. What a proxy has decoded is a slash for both of us.
    """
    uri: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    return "%2" in uri and "%2F" in uri.partition("?")[0].upper()


def absolute_urls(headers: Headers, base: str) -> Headers:
    """Return the headers of a reply with `base` in front of each URL that begins with a slash.

    To a handler the slash is the root of this server. To a caller it is the root of the host,
    outside of the path prefix of a proxy.
    """
    return [(name, _absolute(name.lower(), value, base)) for name, value in headers]


def _absolute(name: str, value: str, base: str) -> str:
    if name in LOCATIONS and value.startswith("/") and not value.startswith("//"):
        return base + value
    if name == "link":
        return LINK.sub(lambda match: f"{match[1]}<{base}{match[2]}>", value)
    return value
