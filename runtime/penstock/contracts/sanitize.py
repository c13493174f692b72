"""Make values fit to be kept.

Whatever a stranger's text, number or exception holds, it must not stop who writes it down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from penstock.contracts.masks import masked

SURROGATES = re.compile(r"[\ud800-\udfff]")
LEAST, MOST = -(2**63), 2**64 - 1  # of whole numbers, in MessagePack
DEEPEST = 64  # values within values
UNFIT = (TypeError, ValueError, OverflowError, RecursionError)


def clean_text(value: str) -> str:
    """Return a text as any encoder and database takes it, and without API keys and tokens.

    No NUL, no half of a character.
    """
    if not value.isascii():
        value = SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if "\0" in value:
        value = value.replace("\0", "")
    return masked(value)


def safe_str(value: object) -> str:
    """Return what a value says of itself as text; a stranger's may raise anything there."""
    try:
        return clean_text(str(value))
    except Exception:  # noqa: BLE001  as above
        return f"<{type(value).__name__}>"


def to_plain(value: Any, deep: int = DEEPEST) -> Any:  # noqa: ANN401  any value
    """Return a value of plain parts alone.

    What is none is told as text, and so are numbers that have no room.
    """
    if value is None or isinstance(value, bool | float | bytes):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return int(value) if LEAST <= value <= MOST else _digits(value)
    return _parts(value, deep - 1) if deep else "…"


def _parts(value: Any, deep: int) -> Any:  # noqa: ANN401  any value
    if isinstance(value, Mapping):
        return {_name(name): to_plain(item, deep) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item, deep) for item in value]
    try:
        built = msgspec.to_builtins(value, builtin_types=(bytes,))
    except Exception:  # noqa: BLE001  a stranger's value may raise anything
        return safe_str(value)
    return safe_str(value) if built is value else to_plain(built, deep)


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes no more than 4,300 digits
        return hex(value)[:DEEPEST] + "…"


def _name(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else safe_str(value)


def as_json(value: object) -> bytes:
    """Return a value as JSON; where it can't be written as it is, as near to that as it can."""
    return _encoded(msgspec.json.encode, value)


def as_msgpack(value: object) -> bytes:
    """Return a value as MessagePack.

    Where it can't be written as it is, as near to that as it can.
    """
    return _encoded(msgspec.msgpack.encode, value)


def _encoded(encode: Callable[..., bytes], value: object) -> bytes:
    try:
        return encode(value, enc_hook=safe_str)
    except UNFIT:
        return encode(to_plain(value))
