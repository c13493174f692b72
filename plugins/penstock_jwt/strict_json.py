"""Read the parts of a token strictly: JSON objects in UTF-8 in which no name comes twice.

PyJWT reads them again. It would also take other encodings, and the last of two members of one name.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from jwt.utils import base64url_decode

HEADER, CLAIMS = 0, 1  # parts of a token


def token_part(token: str, part: int) -> dict[str, Any]:
    """Return a token's header or claims. Raises ValueError or TypeError."""
    text = base64url_decode(token.split(".", 2)[part].encode()).decode("utf-8")
    value = STRICT_JSON.decode(text)
    if not isinstance(value, dict):
        raise TypeError("it is no object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name comes twice")
    return members


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


STRICT_JSON = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_json)
