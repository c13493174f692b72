"""The format of API keys: `pk_{environment}_{random}{checksum}`, in base62.

Secret scanners recognise the prefix, and the checksum detects typing errors without a look-up.
"""

from __future__ import annotations

import re
import secrets
import zlib
from hashlib import sha256
from typing import NamedTuple

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_LENGTH = 24  # characters of base62: 142 bits
CHECKSUM_LENGTH = 6  # characters of base62 hold a CRC32
PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
KEY = re.compile(r"pk_([a-z][a-z0-9-]{0,30})_([0-9A-Za-z]{22,})([0-9A-Za-z]{6})", re.ASCII)


class ParsedKey(NamedTuple):
    """A well-formed key: its environment, and the SHA-256 digest that it is looked up by."""

    environment: str
    digest: bytes

    def __repr__(self) -> str:
        """Return the environment only: the digest identifies the key."""
        return f"ParsedKey(environment={self.environment!r})"


def checksum(text: str) -> str:
    """Return the CRC32 of a text as six characters of base62."""
    high, low = divmod(zlib.crc32(text.encode("ascii")), len(PAIRS))
    high, middle = divmod(high, len(PAIRS))
    return PAIRS[high] + PAIRS[middle] + PAIRS[low]


def make_api_key(environment: str) -> str:
    """Return a new random key of an environment."""
    body = f"pk_{environment}_" + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LENGTH))
    return body + checksum(body)


def digest_of(key: str) -> bytes:
    """Return the SHA-256 digest of a key, which is what the database stores.

    Keys have 142 random bits, so a slow hash would add no security.
    """
    return sha256(key.encode("ascii")).digest()


def parse_api_key(text: str) -> ParsedKey | None:
    """Return the parts of a key, or None if its form or checksum is wrong."""
    match = KEY.fullmatch(text)
    if match is None or checksum(text[:-CHECKSUM_LENGTH]) != match[3]:
        return None
    return ParsedKey(match[1], digest_of(text))
