"""Encrypt all that is stored with the newest key of PENSTOCK_SECRET_KEY, while processes serve.

Then the older keys can be dropped.

What is encrypted does not name its key, so all of it is read, and what the newest key does not open
is written anew. Nothing is remembered in between: who is stopped in the middle begins again, and
what is done already is only read. A value that changes meanwhile stays as it was changed; so it may
need another look, and whoever still encrypts with an older key (a host that was not restarted) is
found by the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock import audit
from penstock.access.encryption import SecretBox, UnknownKey
from penstock.db import encrypted_columns
from penstock.db.encrypted_columns import PLACES, Key, Place
from penstock.db.engine import Engine

LOOKS = 3  # at what other processes changed meanwhile


@dataclass(slots=True)
class Count:
    """What there is in a column: encrypted with the newest key, an older one, or none of ours.

    And how much of it was written anew.
    """

    place: Place
    newest: int = 0
    older: int = 0
    unknown: int = 0
    written: int = 0

    @property
    def all(self) -> int:
        """How many there are."""
        return self.newest + self.older + self.unknown


Tell = Callable[[Count], None]


def count(engine: Engine, box: SecretBox, tell: Tell) -> list[Count]:
    """Return what there is in each column, changing nothing.

    `tell` is called after each page. Raises DatabaseUnavailable.
    """
    return [_through(engine, box, place, tell, lambda _place, _pairs: 0) for place in PLACES]


def rotate(engine: Engine, actor: str, box: SecretBox, tell: Tell) -> list[Count]:
    """Encrypt all with the newest key; return what there is in each column afterwards.

    Raises DatabaseUnavailable.
    """
    written = dict.fromkeys(PLACES, 0)
    counts: list[Count] = []
    for _ in range(LOOKS):
        for done in [
            _through(engine, box, place, tell, lambda *pairs: _write(engine, actor, box, *pairs))
            for place in PLACES
        ]:
            written[done.place] += done.written
        counts = count(engine, box, tell)
        if not any(item.older for item in counts):
            break
    for item in counts:
        item.written = written[item.place]
    with audit.change(engine, actor, audit.Action.SECRET_KEY_ROTATED, box.fingerprints[0]) as (
        _,
        detail,
    ):
        detail.update(
            encrypted={str(item.place): item.written for item in counts if item.written},
            older=sum(item.older for item in counts),
            unknown=sum(item.unknown for item in counts),
        )
    return counts


def _through(
    engine: Engine,
    box: SecretBox,
    place: Place,
    tell: Tell,
    write: Callable[[Place, dict[Key, tuple[bytes, bytes]]], int],
) -> Count:
    """Go through a column.

    `write` gets old and new value of what an older key encrypted, by the key of its row.
    """
    found = Count(place)
    for values in encrypted_columns.pages(engine, place):
        pairs: dict[Key, tuple[bytes, bytes]] = {}
        for key, value in values.items():
            try:
                new = box.renewed(value)
            except UnknownKey:
                found.unknown += 1
                continue
            if new is None:
                found.newest += 1
            else:
                found.older += 1
                pairs[key] = value, new
        found.written += write(place, pairs) if pairs else 0
        tell(found)
    return found


def _write(
    engine: Engine, actor: str, box: SecretBox, place: Place, pairs: dict[Key, tuple[bytes, bytes]]
) -> int:
    if not place.access:
        return encrypted_columns.replace(engine, place, pairs)
    with audit.change(engine, actor, audit.Action.SECRET_KEY_ROTATED, box.fingerprints[0]) as (
        rows,
        detail,
    ):
        number = encrypted_columns.replace_in(rows, place, pairs)
        detail["encrypted"] = {str(place): number}
    return number
