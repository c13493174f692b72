"""URLs in paths and headers.

Behind a proxy, only the operator knows the URL by which callers reach this server (PENSTOCK_URL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LOCATIONS = frozenset({"location", "content-location"})
LINK = re.compile(r"(^|,\s*)<(/(?!/)[^>]*)>")  # RFC 8288; only paths from this server's root
Headers = list[tuple[str, str]]


def has_escaped_slash(environ: Mapping[str, Any]) -> bool:
    """Return whether a path contains `%2F`, which is not a separator (RFC 3986 section 2.2).

    PATH_INFO is decoded, so `/v1%2Forders` would look like `/v1/orders` there, and evade the rules
    of a proxy for that path. Servers therefore pass the raw path too: gunicorn as RAW_URI, others
    as REQUEST_URI. No pipeline has a path with an escaped slash.
    """
    uri: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    return "%2" in uri and "%2F" in uri.partition("?")[0].upper()


def absolute_urls(headers: Headers, base: str) -> Headers:
    """Return the headers of a reply, with `base` before each URL that begins with a slash.

    For a handler, the slash is the root of this server. For a caller it would be the root of the
    host, without the path prefix of a proxy.
    """
    return [(name, _absolute(name.lower(), value, base)) for name, value in headers]


def _absolute(name: str, value: str, base: str) -> str:
    if name in LOCATIONS and value.startswith("/") and not value.startswith("//"):
        return base + value
    if name == "link":
        return LINK.sub(lambda match: f"{match[1]}<{base}{match[2]}>", value)
    return value
