"""Convert a handler's value or refusal into the status, headers and bytes of a response."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from penstock.contracts.call import Reply, Token
from penstock.endpoints.encoding import encode_json, whole
from penstock.errors import Refusal, ReplyError
from penstock.header_fields import PROBLEM_HEADERS, header_fields

JSON = ("Content-Type", "application/json")
TEXT = ("Content-Type", "text/plain; charset=utf-8")
BYTES = ("Content-Type", "application/octet-stream")
NO_STORE = ("Cache-Control", "no-store")
BINARY = (bytes, bytearray, memoryview)
BODILESS = frozenset({204, 304})
EMPTY = BODILESS | {205}  # statuses without a body (RFC 9110 section 15.3.6)
MAX_DEPTH = 64  # levels that are searched for a value that can't be encoded

Answer = tuple[int, list[tuple[str, str]], bytes]


Check = Callable[[object, Answer], None]


def response_of(value: object, where: str, check: Check | None = None) -> Answer:
    """Return a handler's value as a response.

    `where` names the handler in errors; `check` raises ValueError for a value it should not return.

    Raises ReplyError if the value can't be sent.
    """
    try:
        done = answer(value)
        if check is not None:
            check(value, done)
    except Exception as error:  # objects of plugin code may raise anything when they are encoded
        raise ReplyError(f"{where}: {error}") from error
    return done


def checked_refusal(refusal: Refusal, where: str) -> Refusal:
    """Return a refusal with validated headers.

    Raises ReplyError if it can't be sent: a handler may have changed it after its creation.
    """
    try:
        if type(refusal.status) is not int or not 400 <= refusal.status <= 599:  # noqa: PLR2004  the bounds of HTTP error statuses
            raise ValueError(f"the status of a refusal is 400 to 599, not {refusal.status!r}")  # noqa: TRY301  reported below, with the place
        if not all(
            isinstance(part, str) for part in (refusal.code, refusal.title, refusal.detail)
        ) or not isinstance(refusal.extra, dict):
            raise ValueError("type, title and detail of a refusal are text")  # noqa: TRY301  as above
        refusal.headers = header_fields(refusal.headers, PROBLEM_HEADERS)
    except (AttributeError, ValueError) as error:
        raise ReplyError(f"{where}: {error}") from refusal
    return refusal


def answer(value: object) -> Answer:
    """Return a handler's value as a response. Raises TypeError or ValueError."""
    if isinstance(value, Reply):
        return _reply(value)
    if value is None:
        return 204, [], b""
    headers, body = _body(value)
    return 200, headers, body


def _reply(reply: Reply) -> Answer:
    status = reply.status
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:  # noqa: PLR2004  final HTTP statuses
        raise ValueError(f"a reply's status is 200 to 599, not {status!r}")
    headers, body = _body(reply.body)
    if reply.headers:
        own = header_fields(reply.headers)
        taken = {name.lower() for name, _ in own}
        headers = [item for item in headers if item[0].lower() not in taken] + list(own)
    return int(status), headers, b"" if status in EMPTY else body


def _body(value: object) -> tuple[list[tuple[str, str]], bytes]:
    if value is None:
        return [], b""
    if isinstance(value, BINARY):
        return [BYTES], bytes(value)
    if isinstance(value, str):
        return [TEXT], whole(value).encode()
    return [JSON, NO_STORE] if isinstance(value, Token) else [JSON], _json(value)


def _json(value: object) -> bytes:
    try:
        return encode_json(value)
    except TypeError as error:
        place = _fault_pointer(value)
        raise TypeError(f"{error}, at {place}" if place else str(error)) from error


def _fault_pointer(value: object, deep: int = MAX_DEPTH) -> str:
    """Return the JSON Pointer of the first value in another that can't be encoded."""
    for name, item in _children(value) if deep else ():
        try:
            encode_json(item)
        except (TypeError, ValueError):
            return (
                f"/{str(name).replace('~', '~0').replace('/', '~1')}"
                f"{_fault_pointer(item, deep - 1)}"
            )
        except RecursionError:
            break
    return ""


def _children(
    value: Any,  # noqa: ANN401  what a handler returned
) -> Iterable[tuple[object, object]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value):
        return [
            (field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)
        ]
    return ()
