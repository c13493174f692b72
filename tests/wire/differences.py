"""The differences between Penstock's worker and stock gunicorn, each with its reason. Any other
difference is a fault."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from wire.compare import Answer, Difference

REASONS = {
    "host": (
        "A request of HTTP/1.1 without a valid host is 400 (RFC 9112 section 3.2, MUST); stock"
        " gunicorn accepts any."
    ),
    "coding": (
        "Transfer codings other than `chunked` are 501, or 400 where the framing is ambiguous (RFC"
        " 9112 section 6.1); stock accepts some, and passes coded bytes or none."
    ),
    "connection": (
        "`close` is recognised in any list of the Connection fields (RFC 9112 section 9.6, MUST);"
        " stock recognises it alone, and in the first field."
    ),
    "extension": (
        "A control character within a chunk extension, or kilobytes of them, is 400: another parser"
        " may end the line there; stock accepts LF and NUL."
    ),
    "length": "A Content-Length of more than 18 digits is 400; stock accepts it, or fails.",
    "silent end": (
        "A body with invalid framing, or that ends too early, is 400; stock ends the connection"
        " without an answer."
    ),
    "cut off": (
        "A body that ends before its length is 400; stock passes it to the application as if it"
        " were complete."
    ),
    "status": (
        "A malformed request has a specific status (414, 417, 431, 501); stock answers 400 or 500."
    ),
    "unread": "An incomplete head is dropped; stock drops it too, or answers 400.",
}
HOST = re.compile(
    r"(?:(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
)
CHUNK_WITH_CONTROL = re.compile(
    rb"[0-9A-Fa-f]+[ \t]*;[^\r]*?[\x00-\x08\x0a-\x1f\x7f]|[0-9A-Fa-f]+;[^\r]{1000}"
)
REFUSED = frozenset({400, 408, 414, 417, 431, 501})


def environ(answer: Answer | None) -> dict[str, Any]:
    return json.loads(answer.given)["environ"] if answer is not None and answer.given else {}


def reason(difference: Difference) -> str | None:
    """Return the reason for the first difference in a case. Later differences follow from it."""
    pairs = list(zip(difference.stock, difference.ours, strict=False))
    at = next((index for index, (stock, ours) in enumerate(pairs) if stock != ours), len(pairs))
    stock = difference.stock[at] if at < len(difference.stock) else None
    ours = difference.ours[at] if at < len(difference.ours) else None
    if ours is not None and ours.status not in REFUSED:
        return None  # Penstock never accepts what stock rejects
    if ours is None:
        return _why_ended(environ(difference.stock[at - 1]) if at else {}, stock)
    if stock is None:
        return "silent end"
    if stock.status == 200:
        return _why_refused(stock, difference.case.sent)
    return "status" if stock.status in REFUSED | {500} else None


def _why_ended(before: dict[str, Any], stock: Answer | None) -> str | None:
    options = {option.strip().lower() for option in before.get("HTTP_CONNECTION", "").split(",")}
    if "close" in options:
        return "connection"
    return "unread" if not before and stock is not None and stock.status in REFUSED else None


def _why_refused(stock: Answer, sent: bytes) -> str | None:
    given = environ(stock)
    host, coding, length = (
        given.get("HTTP_HOST"),
        given.get("HTTP_TRANSFER_ENCODING"),
        given.get("CONTENT_LENGTH", ""),
    )
    if host is None and given.get("SERVER_PROTOCOL") == "HTTP/1.1":
        return "host"
    if host is not None and not (
        HOST.fullmatch(host) and int(re.sub(r".*(?::|^)([0-9]*)$|.*", r"\1", host) or 0) <= 65_535
    ):
        return "host"
    if coding is not None:
        return (
            "coding"
            if coding.lower() != "chunked"
            else "extension"
            if CHUNK_WITH_CONTROL.search(sent)
            else None
        )
    if len(length) > 18:
        return "length"
    return (
        "cut off"
        if length.isdigit() and len(base64.b64decode(json.loads(stock.given)["body"])) < int(length)
        else None
    )
