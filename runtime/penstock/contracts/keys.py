"""The form of an API key.

`pk_{environment}_{random}{checksum}`, base62, told apart by scanners and checked without a look-up.
"""

from __future__ import annotations

import re
import secrets
import zlib
from hashlib import sha256
from typing import NamedTuple

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM = 24  # characters of base62: 142 bits
CHECKSUM = 6  # characters of base62 hold a CRC32
PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
KEY = re.compile(r"pk_([a-z][a-z0-9-]{0,30})_([0-9A-Za-z]{22,})([0-9A-Za-z]{6})", re.ASCII)


class ParsedKey(NamedTuple):
    """A well-formed key: the environment it names and the SHA-256 digest it is looked up by."""

    environment: str
    digest: bytes

    def __repr__(self) -> str:
        """Show the environment alone."""
        return f"ParsedKey(environment={self.environment!r})"


def checksum(text: str) -> str:
    """Return the CRC32 of a text as six characters of base62."""
    high, low = divmod(zlib.crc32(text.encode("ascii")), len(PAIRS))
    high, middle = divmod(high, len(PAIRS))
    return PAIRS[high] + PAIRS[middle] + PAIRS[low]


def make_api_key(environment: str) -> str:
    """Make a new key for an environment; it can't be had a second time."""
    body = f"pk_{environment}_" + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM))
    return body + checksum(body)


def digest_of(key: str) -> bytes:
    """Return what is kept of a key.

    Its SHA-256 (keys are high-entropy, a slow hash would buy nothing).
    """
    return sha256(key.encode("ascii")).digest()


def parse_api_key(text: str) -> ParsedKey | None:
    """Return a key's parts, or None if it is malformed or mistyped."""
    match = KEY.fullmatch(text)
    if match is None or checksum(text[:-CHECKSUM]) != match[3]:
        return None
    return ParsedKey(match[1], digest_of(text))
