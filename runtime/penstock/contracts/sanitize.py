"""Convert arbitrary values from plugin code into plain ones that encoders and databases accept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from penstock.contracts.masks import masked

SURROGATES = re.compile(r"[\ud800-\udfff]")
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # of MessagePack
MAX_DEPTH = 64  # of nested values
ENCODE_ERRORS = (TypeError, ValueError, OverflowError, RecursionError)


def clean_text(value: str) -> str:
    """Return a text that every encoder and database accepts, without API keys and tokens.

    NUL is removed and half of a surrogate pair replaced.
    """
    if not value.isascii():
        value = SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if "\0" in value:
        value = value.replace("\0", "")
    return masked(value)


def safe_str(value: object) -> str:
    """Return `str` of a value, or its type's name if that raises an exception."""
    try:
        return clean_text(str(value))
    except Exception:  # noqa: BLE001  plugin code may raise anything
        return f"<{type(value).__name__}>"


def to_plain(value: Any, deep: int = MAX_DEPTH) -> Any:  # noqa: ANN401  any value
    """Return a value that consists of plain types only.

    Other types become text, and so do numbers that MessagePack can't store.
    """
    if value is None or isinstance(value, bool | float | bytes):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return int(value) if MIN_INTEGER <= value <= MAX_INTEGER else _digits(value)
    return _parts(value, deep - 1) if deep else "…"


def _parts(value: Any, deep: int) -> Any:  # noqa: ANN401  any value
    if isinstance(value, Mapping):
        return {_name(name): to_plain(item, deep) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item, deep) for item in value]
    try:
        built = msgspec.to_builtins(value, builtin_types=(bytes,))
    except Exception:  # noqa: BLE001  plugin code may raise anything
        return safe_str(value)
    return safe_str(value) if built is value else to_plain(built, deep)


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes no more than 4,300 digits
        return hex(value)[:MAX_DEPTH] + "…"


def _name(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else safe_str(value)


def as_json(value: object) -> bytes:
    """Return a value as JSON. Parts that JSON can't express are converted by `to_plain`."""
    return _encoded(msgspec.json.encode, value)


def as_msgpack(value: object) -> bytes:
    """Return a value as MessagePack. Parts that it can't express are converted by `to_plain`."""
    return _encoded(msgspec.msgpack.encode, value)


def _encoded(encode: Callable[..., bytes], value: object) -> bytes:
    try:
        return encode(value, enc_hook=safe_str)
    except ENCODE_ERRORS:
        return encode(to_plain(value))
