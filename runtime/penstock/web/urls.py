"""Make URLs in headers absolute: behind a proxy only an operator knows where callers reach this server (`PENSTOCK_URL`)."""

from __future__ import annotations

import re

LOCATIONS = frozenset({"location", "content-location"})
LINK = re.compile(r"(^|,\s*)<(/(?!/)[^>]*)>")  # RFC 8288; only what begins at this server's root
Headers = list[tuple[str, str]]


def absolute(headers: Headers, base: str) -> Headers:
    """Return the headers of a reply with `base` in front of each URL that begins with a slash.

    To a handler the slash is the root of this server. To a caller it is the root of the host, outside of the path prefix of a proxy.
    """
    return [(name, _absolute(name.lower(), value, base)) for name, value in headers]


def _absolute(name: str, value: str, base: str) -> str:
    if name in LOCATIONS and value.startswith("/") and not value.startswith("//"):
        return base + value
    if name == "link":
        return LINK.sub(lambda match: f"{match[1]}<{base}{match[2]}>", value)
    return value
