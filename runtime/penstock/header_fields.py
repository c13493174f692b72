"""Validate header fields of responses (RFC 9110 section 5), and encode file names in them.

Every header that plugin code sets passes `header_fields` before its run is recorded. Without this
check the server would reject the header after the run has succeeded, and answer as if the request
were at fault.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# The server sets these itself; gunicorn drops most of them silently.
SERVER_HEADERS = frozenset(
    {
        "connection", "content-length", "date", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "server", "te",
        "trailer", "trailers", "transfer-encoding", "upgrade", "x-run-id",
    }
)  # fmt: skip
# The runtime writes the body of a problem, so it alone describes its bytes.
PROBLEM_HEADERS = SERVER_HEADERS | {
    "content-digest",
    "content-encoding",
    "content-md5",
    "content-range",
    "content-type",
    "digest",
    "repr-digest",
}
SINGLE_HEADERS = frozenset(
    {
        "age", "content-disposition", "content-location", "content-range", "content-type", "etag",
        "expires", "last-modified", "location",
        "retry-after",
    }
)  # fmt: skip
MAX_CACHED_NAMES = 500  # valid names whose lower case is cached
NOT_IN_FILE_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f/\\\u2028\u2029\ud800-\udfff]")
NOT_IN_FALLBACK = re.compile(r"[^\x20-\x7e]|[\"%]")
PLAIN_FILE_NAME = re.compile(r"[\x20-\x24\x26-\x7e]+")  # without %, which some clients decode

HeaderValue = str | float | Sequence[str | float]
Fields = tuple[tuple[str, str], ...]

_lower_names: dict[str, str] = {}


def header_fields(
    headers: Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]],
    reserved: frozenset[str] = SERVER_HEADERS,
) -> Fields:
    """Return headers as name and value of each field line.

    Numbers become text; a list becomes several fields of that name, as `Set-Cookie` needs it.

    Raises:
        ValueError: HTTP can't carry a name or a value, or the name is one of `reserved`. The text
            names the header and the reason, not the value.

    """
    if not headers:
        return ()
    try:
        pairs = (
            headers.items()
            if isinstance(headers, Mapping)
            else [(name, value) for name, value in headers]
        )
    except (TypeError, ValueError):
        raise ValueError("headers are a dict of names and values") from None
    fields: list[tuple[str, str]] = []
    lowers: list[str] = []
    for name, value in pairs:
        lower = (_lower_names.get(name) if type(name) is str else None) or _name(name)
        if lower in reserved:
            raise ValueError(f"the header {name} can't be set: the server does")
        for part in value if isinstance(value, list | tuple) else (value,):
            fields.append((name if type(name) is str else str.__str__(name), _text(name, part)))
            lowers.append(lower)
    if len(lowers) > 1 and len(set(lowers)) < len(lowers):
        for lower in sorted(SINGLE_HEADERS & set(lowers)):
            if lowers.count(lower) > 1:
                raise ValueError(f"the header {lower} can be sent once")
    return tuple(fields)


def _name(name: Any) -> str:  # noqa: ANN401  plugin code may give anything
    """Return a valid name in lower case. Raises ValueError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            "a header's name is a token (RFC 9110 section 5.1): letters, digits and dashes"
        )
    lower = name.lower()
    if len(_lower_names) < MAX_CACHED_NAMES:
        _lower_names[str(name)] = lower
    return lower


def _text(name: str, value: Any) -> str:  # noqa: ANN401  as above
    if type(value) is not str:
        value = _as_text(name, value)
    text: str = value
    if not VALUE.fullmatch(text):
        if CONTROL.search(text):
            raise ValueError(f"the header {name} holds a control character, which HTTP can't carry")
        fix = (
            "write attachment(filename)"
            if name.lower() == "content-disposition"
            else "percent-encode them (urllib.parse.quote)"
        )
        raise ValueError(
            f"the header {name} holds characters outside of Latin-1, which HTTP can't carry; {fix}"
        )
    return text.strip(" \t")  # white space around a value is not part of it (RFC 9110 section 5.5)


def _as_text(name: str, value: Any) -> str:  # noqa: ANN401  as above
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    if isinstance(value, float) and math.isfinite(value):
        return float.__repr__(value)
    kind = f"{value}" if isinstance(value, float) else f"a {type(value).__name__}"
    raise ValueError(f"the header {name} can't be {kind}; give text, a number, or a list of those")


def attachment(filename: str, *, inline: bool = False) -> str:
    """Return the value of a `Content-Disposition` header that saves a reply under a file name.

    Example: `Reply(200, {"Content-Disposition": attachment("Łódź.pdf")}, pdf)`.

    A name outside of ASCII is sent as `filename*` (RFC 8187), with an ASCII fallback for old
    clients (RFC 6266). Slashes and control characters become `_`.

    Args:
        filename: The file name; any characters.
        inline: True: the browser shows the reply, and offers the name if the user saves it.

    """
    kind = "inline" if inline else "attachment"
    name = NOT_IN_FILE_NAMES.sub("_", filename).strip()
    if not name:
        return kind
    if PLAIN_FILE_NAME.fullmatch(name) and '"' not in name:
        return f'{kind}; filename="{name}"'
    plain = "".join(
        character
        for character in unicodedata.normalize("NFKD", name)
        if not unicodedata.combining(character)
    )
    # Normalisation can produce a slash.
    fallback = NOT_IN_FALLBACK.sub("_", plain).replace("/", "_").replace("\\", "_")
    return f"{kind}; filename=\"{fallback}\"; filename*=UTF-8''{quote(name, safe='')}"
