"""Encrypt all stored values with the newest key of PENSTOCK_SECRET_KEY, while processes serve.

After that the older keys can be removed.

An encrypted value does not name its key. So all values are read, and those that the newest key does
not decrypt are encrypted again. Nothing is remembered in between: a rotation that was stopped
begins again, and only reads what is done. A value that changes meanwhile stays as it was changed.
So several passes may be needed, and the last one finds hosts that still encrypt with an older key
because they were not restarted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock import audit
from penstock.access.encryption import SecretBox, UnknownKey
from penstock.db import encrypted_columns
from penstock.db.encrypted_columns import COLUMNS, EncryptedColumn, Key
from penstock.db.engine import Engine

MAX_PASSES = 3  # until no value changed meanwhile has an older key

Pairs = dict[Key, tuple[bytes, bytes]]  # old and new value by the key of the row


@dataclass(slots=True)
class Count:
    """The values of a column, by the key that encrypted them: the newest, an older or an unknown.

    `written` is how many were encrypted again.
    """

    column: EncryptedColumn
    newest: int = 0
    older: int = 0
    unknown: int = 0
    written: int = 0

    @property
    def all(self) -> int:
        """The number of values."""
        return self.newest + self.older + self.unknown


Report = Callable[[Count], None]


def count(engine: Engine, box: SecretBox, report: Report) -> list[Count]:
    """Return the counts of each column, and change nothing.

    `report` is called after each page. Raises DatabaseUnavailable.
    """
    return [_read(engine, box, column, report, lambda _column, _pairs: 0) for column in COLUMNS]


def rotate(engine: Engine, actor: str, box: SecretBox, report: Report) -> list[Count]:
    """Encrypt all values with the newest key; return the counts of each column afterwards.

    `report` is called after each page. Raises DatabaseUnavailable.
    """
    written = dict.fromkeys(COLUMNS, 0)
    counts: list[Count] = []
    for _ in range(MAX_PASSES):
        for column in COLUMNS:
            done = _read(
                engine, box, column, report, lambda *pairs: _write(engine, actor, box, *pairs)
            )
            written[column] += done.written
        counts = count(engine, box, report)
        if not any(item.older for item in counts):
            break
    for item in counts:
        item.written = written[item.column]
    with audit.change(engine, actor, audit.Action.SECRET_KEY_ROTATED, box.fingerprints[0]) as (
        _,
        detail,
    ):
        detail.update(
            encrypted={str(item.column): item.written for item in counts if item.written},
            older=sum(item.older for item in counts),
            unknown=sum(item.unknown for item in counts),
        )
    return counts


def _read(
    engine: Engine,
    box: SecretBox,
    column: EncryptedColumn,
    report: Report,
    write: Callable[[EncryptedColumn, Pairs], int],
) -> Count:
    """Read a column; `write` gets the values that an older key encrypted."""
    counts = Count(column)
    for values in encrypted_columns.pages(engine, column):
        pairs: Pairs = {}
        for key, value in values.items():
            try:
                new = box.renewed(value)
            except UnknownKey:
                counts.unknown += 1
                continue
            if new is None:
                counts.newest += 1
            else:
                counts.older += 1
                pairs[key] = value, new
        counts.written += write(column, pairs) if pairs else 0
        report(counts)
    return counts


def _write(
    engine: Engine, actor: str, box: SecretBox, column: EncryptedColumn, pairs: Pairs
) -> int:
    if not column.access:
        return encrypted_columns.replace(engine, column, pairs)
    with audit.change(engine, actor, audit.Action.SECRET_KEY_ROTATED, box.fingerprints[0]) as (
        rows,
        detail,
    ):
        number = encrypted_columns.replace_in(rows, column, pairs)
        detail["encrypted"] = {str(column): number}
    return number
