"""Parse rows, and remember those that can't be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from penstock.access.encryption import SecretBox
from penstock.access.parsing import Decrypt, Unreadable
from penstock.db.rows import Row
from penstock.errors import CannotStart

RowType = TypeVar("RowType", bound=Row)
Value = TypeVar("Value")


class RowParser:
    """Parses rows of access data for a snapshot.

    A row that can't be read is skipped and remembered in `unreadable`, by its table and its key.
    A value that another key encrypted is such damage where `forgiving` is true; else it raises
    UnknownKey, because a process must not start with a wrong key.
    """

    def __init__(self, box: SecretBox, *, forgiving: bool) -> None:
        self.forgiving = forgiving
        self.unreadable: dict[type[Row], dict[object, str]] = {}
        self._box = box
        self._decrypted: dict[type[Row], dict[bytes, bytes]] = {}

    def clear(self) -> None:
        """Remove what is known of rows."""
        self.unreadable = {}
        self._decrypted = {}

    def messages(self) -> tuple[str, ...]:
        """Return a line for each unreadable row: its table, its key and the column, no value."""
        by_table = sorted(self.unreadable.items(), key=lambda pair: pair[0].table.name)
        return tuple(text for _, rows in by_table for text in rows.values())

    def parse(
        self,
        kind: type[RowType],
        rows: Iterable[RowType],
        parse: Callable[[RowType], Value | None],
    ) -> Iterator[Value]:
        """Yield the values of changed rows; `parse` returns None for a row that grants nothing."""
        unreadable = self.unreadable.setdefault(kind, {})
        table, key = kind.table.name, kind.table.primary_key.columns[0].name
        for row in rows:
            identifier = getattr(row, key)
            unreadable.pop(identifier, None)
            try:
                value = parse(row)
            except CannotStart as error:
                if not self.forgiving:
                    raise
                unreadable[identifier] = f"{table} {identifier}: {error}"
            except Exception as error:  # noqa: BLE001  a damaged row may contain anything
                reason = error if isinstance(error, Unreadable) else type(error).__name__
                unreadable[identifier] = f"{table} {identifier}: {reason}"
            else:
                if value is not None:
                    yield value

    def parse_all(
        self,
        kind: type[RowType],
        rows: Iterable[RowType],
        parse: Callable[[RowType], Value | None],
    ) -> list[Value]:
        """Return the values of all rows of a table; what was known of its rows is dropped."""
        self.unreadable[kind] = {}
        return list(self.parse(kind, rows, parse))

    def decrypt_all(
        self,
        kind: type[RowType],
        rows: Iterable[RowType],
        parse: Callable[[RowType, Decrypt], Value | None],
    ) -> list[Value]:
        """Return the same for a table with encrypted values; each is decrypted once."""
        before, decrypted = self._decrypted.get(kind, {}), dict[bytes, bytes]()

        def decrypt(sealed: bytes) -> bytes:
            decrypted[sealed] = before[sealed] if sealed in before else self._box.decrypt(sealed)
            return decrypted[sealed]

        values = self.parse_all(kind, rows, lambda row: parse(row, decrypt))
        self._decrypted[kind] = decrypted
        return values
