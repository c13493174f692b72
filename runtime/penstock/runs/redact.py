"""Take out of a body what must not be kept: sensitive fields by name at any depth, or by JSON Pointer (RFC 6901), and API keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import msgspec

from penstock.contracts.forms import Upload
from penstock.contracts.keys import LIKE_A_KEY as API_KEY

HIDDEN = "***"
ALWAYS = frozenset(
    {
        "access_token", "api_key", "apikey", "authorization", "client_secret", "id_token", "passwd", "password", "private_key", "refresh_token",
        "secret", "token",
    }
)  # fmt: skip
LARGEST = 64 * 1024  # bytes of a body that is kept


@dataclass(frozen=True, slots=True)
class Sensitive:
    """What to hide: fields by their names, whatever their case, and places by their pointers, split at the slashes."""

    names: frozenset[str]
    places: frozenset[tuple[str, ...]]

    @classmethod
    def of(cls, fields: Iterable[str]) -> Sensitive:
        """Read what operators and developers have listed; what is always hidden comes on top."""
        names, places = set(ALWAYS), set()
        for field in fields:
            if field.startswith("/"):
                places.add(tuple(part.replace("~1", "/").replace("~0", "~") for part in field[1:].split("/")))
            else:
                names.add(field.casefold())
        return cls(frozenset(names), frozenset(places))

    def hide(self, value: object, place: tuple[str, ...] = ()) -> object:
        """Return a value of JSON without what is sensitive."""
        if place in self.places:
            return HIDDEN
        if isinstance(value, dict):
            return {
                API_KEY.sub(HIDDEN, str(name)): HIDDEN if str(name).casefold() in self.names else self.hide(item, (*place, str(name)))
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.hide(item, (*place, str(index))) for index, item in enumerate(value)]
        return API_KEY.sub(HIDDEN, value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """Return a text without API keys, and without what it says of fields by name, as `password=…` or `"password": …`."""
        shown = API_KEY.sub(HIDDEN, text) if "pk_" in text else text
        return _named(self.names).sub(rf"\1{HIDDEN}", shown)

    def body(self, content_type: str, body: bytes) -> dict[str, object]:
        """Return what may be kept of a body: its JSON, or no more than what kind of thing it was, for in a text nobody knows the fields."""
        kind = content_type.partition(";")[0].strip().lower() or "application/json"
        said: dict[str, object] = {"type": kind, "size": len(body)}
        if not body or len(body) > LARGEST or not (kind == "application/json" or kind.endswith("+json")):
            return said
        try:
            return {**said, "json": self.hide(msgspec.json.decode(body))}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return said

    def form(self, fields: Mapping[str, list[Any]]) -> dict[str, object]:
        """Return what may be kept of a form: its fields, and of files what they were called."""
        told = {name: [repr(value) if isinstance(value, Upload) else value for value in values] for name, values in fields.items()}
        return {"type": "form", "json": self.hide({name: values[0] if len(values) == 1 else values for name, values in told.items()})}

    def query(self, text: str) -> dict[str, object]:
        """Return what may be kept of a query: each name with all its values."""
        return {name: self.hide({name: values})[name] for name, values in parse_qs(text, keep_blank_values=True).items()}  # type: ignore[index]  # a dict stays one


@lru_cache(maxsize=256)
def _named(names: frozenset[str]) -> re.Pattern[str]:
    """Return what finds fields by name in a text, as people and programs write them there, with their values."""
    any_of = "|".join(re.escape(name) for name in sorted(names))
    return re.compile(rf"""((?<![\w-])(?:{any_of})["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s,;&"']+)""", re.IGNORECASE)


def hidden_in(value: object, place: str = "") -> list[str]:
    """Return the pointers of what was hidden in a value."""
    if value == HIDDEN:
        return [place]
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in hidden_in(item, f"{place}/{str(name).replace('~', '~0').replace('/', '~1')}")]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in hidden_in(item, f"{place}/{index}")]
    return []
