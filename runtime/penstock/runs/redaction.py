"""Redaction: remove sensitive fields, API keys and tokens from what is recorded.

A field is sensitive by its name at any depth, or by its JSON Pointer (RFC 6901).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec

from penstock.contracts.forms import Upload
from penstock.contracts.masks import (
    DEFAULT_SENSITIVE_NAMES,
    HIDDEN,
    is_sensitive,
    masked,
    masked_fields,
)

MAX_STORED_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Redactor:
    """Sensitive fields of one pipeline.

    `names` are in lower case; `places` are JSON Pointers, split at the slashes.
    """

    names: frozenset[str]
    places: frozenset[tuple[str, ...]]

    @classmethod
    def of(cls, fields: Iterable[str]) -> Redactor:
        """Return a redactor for listed fields, and for those that are always sensitive."""
        names, places = set(DEFAULT_SENSITIVE_NAMES), set()
        for field in fields:
            if field.startswith("/"):
                places.add(
                    tuple(
                        part.replace("~1", "/").replace("~0", "~") for part in field[1:].split("/")
                    )
                )
            else:
                names.add(field.casefold())
        return cls(frozenset(names), frozenset(places))

    def hide(self, value: object, place: tuple[str, ...] = ()) -> object:
        """Return a JSON value with its sensitive fields hidden."""
        if place in self.places:
            return HIDDEN
        if isinstance(value, dict):
            return {
                masked(str(name)): self._field(str(name), item, place)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.hide(item, (*place, str(index))) for index, item in enumerate(value)]
        return masked(value) if isinstance(value, str) else value

    def _field(self, name: str, value: object, place: tuple[str, ...] = ()) -> object:
        return HIDDEN if is_sensitive(name, self.names) else self.hide(value, (*place, name))

    def text(self, text: str) -> str:
        """Return a text without API keys, tokens and values of sensitive names.

        Such a value is one in `password=…` or `"password": …`.
        """
        return masked_fields(text, self.names)

    def path(self, path: str, params: Mapping[str, str]) -> str:
        """Return the path of a call without credentials and values of sensitive parameters."""
        hidden = {
            value
            for name, value in params.items()
            if is_sensitive(name, self.names) or (name,) in self.places
        }
        return masked(
            "/".join(HIDDEN if part in hidden else part for part in path.split("/"))
            if hidden
            else path
        )

    def body(self, content_type: str, body: bytes) -> dict[str, object]:
        """Return type, size and redacted JSON of a body.

        A body that is not JSON is not recorded: its sensitive parts can't be recognised.
        """
        kind = content_type.partition(";")[0].strip().lower() or "application/json"
        description: dict[str, object] = {"type": masked(kind), "size": len(body)}
        if (
            not body
            or len(body) > MAX_STORED_BODY_BYTES
            or not (kind == "application/json" or kind.endswith("+json"))
        ):
            return description
        try:
            return {**description, "json": self.hide(msgspec.json.decode(body))}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return description

    def form(self, fields: Mapping[str, list[Any]]) -> dict[str, object]:
        """Return the redacted fields of a form; a file is recorded by its name."""
        texts = {
            name: [repr(value) if isinstance(value, Upload) else value for value in values]
            for name, values in fields.items()
        }
        return {
            "type": "form",
            "json": self.hide(
                {name: values[0] if len(values) == 1 else values for name, values in texts.items()}
            ),
        }

    def query(self, text: str) -> dict[str, object]:
        """Return the redacted parameters of a query, each with all its values."""
        parameters: dict[str, object] = {}
        for name, values in parse_qs(text, keep_blank_values=True).items():
            shown, value = masked(name), self._field(name, values)
            before = parameters.get(shown, [])
            parameters[shown] = (
                [*before, *value]
                if isinstance(before, list) and isinstance(value, list)
                else HIDDEN
            )
        return parameters


def hidden_in(value: object, place: str = "") -> list[str]:
    """Return the pointers of values that are hidden, in full or in part."""
    if isinstance(value, str):
        return [place] if HIDDEN in value else []
    if isinstance(value, dict):
        pointers = [place] if any(HIDDEN in str(name) for name in value) else []
        return pointers + [
            pointer
            for name, item in value.items()
            for pointer in hidden_in(item, f"{place}/{_escaped(str(name))}")
        ]
    if isinstance(value, list):
        return [
            pointer
            for index, item in enumerate(value)
            for pointer in hidden_in(item, f"{place}/{index}")
        ]
    return []


def _escaped(name: str) -> str:
    """Return a name as part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")
