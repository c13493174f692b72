"""Where callers reach a path of this server: behind a proxy only an operator knows it (`PENSTOCK_URL`)."""

from __future__ import annotations

import re

WHERE = frozenset({"location", "content-location"})
LINK = re.compile(r"(^|,\s*)<(/(?!/)[^>]*)>")  # RFC 8288; only what begins at this server's root
Headers = list[tuple[str, str]]


def absolute(headers: Headers, base: str) -> Headers:
    """Return the headers of a reply with `base` in front of each URL that begins with a slash, which is this server's root to its handlers.

    It has no meaning to their callers: a reference that begins with a slash would lead past the path prefix of a proxy.
    """
    return [(name, _absolute(name.lower(), value, base)) for name, value in headers]


def _absolute(name: str, value: str, base: str) -> str:
    if name in WHERE and value.startswith("/") and not value.startswith("//"):
        return base + value
    if name == "link":
        return LINK.sub(lambda match: f"{match[1]}<{base}{match[2]}>", value)
    return value
