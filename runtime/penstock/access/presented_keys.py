"""Find the stored API keys that a call under examination presents."""

from __future__ import annotations

from penstock.access.api_keys import ListedKey, listed_key
from penstock.access.lookup import consumer_row, environment_row
from penstock.db import api_keys as stored
from penstock.db.api_keys import KeyFilter
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName, quoted

FoundKey = tuple[ListedKey, bytes]  # with the digest that it is stored under


def keys_of(engine: Engine, consumer: str, environment: str | None = None) -> list[FoundKey]:
    """Return the keys of a consumer with their digests, newest first. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        consumer_id = consumer_row(reader, consumer).id
        environment_id = environment_row(reader, environment).id if environment else None
        rows = stored.list_keys(connection, KeyFilter(environment_id, consumer_id))
    return [(listed_key(row), row.digest) for row in reversed(rows)]


def key_of(engine: Engine, consumer: str, word: str) -> FoundKey:
    """Return the key of a consumer by its id, or by its last characters. Raises UnknownName."""
    keys = keys_of(engine, consumer)
    for found in keys:
        if word == found[0].id or found[0].shown_as.endswith("…" + word.removeprefix("…")):
            return found
    raise UnknownName(
        f"key of {quoted(consumer)}",
        word,
        (listed.id for listed, _ in keys),
        fix="`penstock key list` shows their ids",
    )


def key_by_id(engine: Engine, identifier: str) -> FoundKey | None:
    """Return a key by its id, None where it is not stored any more."""
    with reading(engine) as connection:
        row = stored.get(connection, identifier)
    return (listed_key(row), row.digest) if row is not None else None
