"""Turn what a handler returned into status, headers and bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from penstock.contracts.call import Reply, Token
from penstock.runs.values import UNFIT, encode, encode_nearest, whole

JSON = ("Content-Type", "application/json")
TEXT = ("Content-Type", "text/plain; charset=utf-8")
BYTES = ("Content-Type", "application/octet-stream")
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "content-length"})
BODILESS = frozenset({204, 304})

Answer = tuple[int, list[tuple[str, str]], bytes]


def answer(value: object) -> Answer:
    """Return a handler's value as a response. Raises TypeError for what is none."""
    if type(value) is Reply:
        status, fields, value = value.status, value.headers, value.body
        if not isinstance(status, int) or not 200 <= status <= 599:  # noqa: PLR2004  final HTTP statuses
            raise TypeError(f"a reply's status is 200 to 599, not {status!r}")
        headers, body = _body(value)
        return status, _merge(headers, fields), b"" if status in BODILESS else body
    if value is None:
        return 204, [], b""
    headers, body = _body(value)
    return 200, headers, body


def _body(value: object) -> tuple[list[tuple[str, str]], bytes]:
    if value is None:
        return [], b""
    if isinstance(value, bytes):
        return [BYTES], value
    if isinstance(value, str):
        return [TEXT], _utf8(value)
    if isinstance(value, Token):
        return [JSON, ("Cache-Control", "no-store")], encode(value)
    try:
        return [JSON], encode(value)
    except UNFIT:
        return [JSON], encode_nearest(value)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return whole(text).encode()


def _merge(headers: list[tuple[str, str]], fields: Mapping[str, str]) -> list[tuple[str, str]]:
    own = []
    for name, text in fields.items():
        if not NAME.fullmatch(name) or not isinstance(text, str) or any(character in text for character in "\r\n\0"):
            raise TypeError(f"a reply's header {name!r} is malformed")
        if name.lower() in HOP_BY_HOP:
            raise TypeError(f"a reply can't set {name}: the server does")
        own.append((name, text))
    taken = {name.lower() for name, _ in own}
    return [item for item in headers if item[0].lower() not in taken] + own
