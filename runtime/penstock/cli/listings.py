"""Options of listings, and a page of rows as a table, JSON or CSV.

A listing prints one page, and on standard error the cursor of the next one. Listings that can
become long read their page from the database; short ones take it from all their rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import wraps
from typing import Any, TypeVar

import click

from penstock.cli.base import json_default, show, shown_value
from penstock.contracts.csv_lines import csv_line
from penstock.errors import UsageError, quoted

Result = TypeVar("Result")
Item = TypeVar("Item")
DEFAULT_LIMIT, MAX_LIMIT = 100, 10_000


@dataclass(frozen=True, slots=True)
class Listing:
    """The options of a listing: how many rows, with which text, after which one, in which form."""

    limit: int = DEFAULT_LIMIT
    search: str = ""
    cursor: str | None = None
    form: str = "table"

    @property
    def fetched(self) -> int:
        """The number of rows to read: one more than a page shows whether there is a next page."""
        return self.limit + 1

    @property
    def number(self) -> int | None:
        """The cursor of a listing by numbers. Raises UsageError."""
        if self.cursor is None:
            return None
        if not (self.cursor.isascii() and self.cursor.isdigit() and len(self.cursor) < 19):  # noqa: PLR2004  digits of a BIGINT
            raise UsageError(
                f"--cursor {quoted(self.cursor)} isn't a cursor of this listing; use the one that"
                " the page before printed"
            )
        return int(self.cursor)


LISTING_OPTIONS = (
    click.option(
        "--limit",
        type=click.IntRange(1, MAX_LIMIT),
        default=DEFAULT_LIMIT,
        show_default=True,
        help="Number of rows.",
    ),
    click.option("--search", default="", metavar="TEXT", help="Only rows with this text."),
    click.option(
        "--cursor",
        metavar="CURSOR",
        help="The next page: the cursor that the page before printed on standard error.",
    ),
    click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json", "csv"]),
        default="table",
        help="Output format.",
    ),
)


def listing_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command the options of listings; it takes them as `listing`."""

    @wraps(command)
    def run(
        *arguments: Any,  # noqa: ANN401  those of the command
        limit: int,
        search: str,
        cursor: str | None,
        form: str,
        **options: Any,  # noqa: ANN401  those of the command
    ) -> Result:
        return command(*arguments, listing=Listing(limit, search, cursor, form), **options)

    for option in reversed(LISTING_OPTIONS):
        run = option(run)
    return run


def show_page(
    rows: Sequence[Item],
    listing: Listing,
    columns: Sequence[str],
    cursor_of: Callable[[Item], object],
    *,
    empty: str = "nothing yet",
) -> None:
    """Print a page, and the cursor of the next one on standard error.

    `rows` has `listing.fetched` rows at most. `empty` is printed for a table without rows.
    """
    page = rows[: listing.limit]
    if listing.form == "csv":
        click.echo(csv_line(columns), nl=False)
        for row in page:
            click.echo(csv_line(_plain(shown_value(row, name)) for name in columns), nl=False)
    else:
        narrowed = listing.search or listing.cursor is not None
        show(page, listing.form, columns, empty="no rows match" if narrowed else empty)
    if len(rows) > listing.limit:
        click.echo(f"next page: --cursor {cursor_of(page[-1])}", err=True)


def show_rows(
    rows: Iterable[Item],
    listing: Listing,
    columns: Sequence[str],
    cursor_of: Callable[[Item], object],
    *,
    empty: str = "nothing yet",
) -> None:
    """Print a page of a listing that has all its rows in memory.

    `--search` is a text in one of the columns. Raises UsageError for a cursor that no row has.
    """
    items = list(rows)
    if listing.cursor is not None:
        cursors = [str(cursor_of(item)) for item in items]
        if listing.cursor not in cursors:
            raise UsageError(
                f"no row has the cursor {quoted(listing.cursor)}; list from the beginning again"
            )
        items = items[cursors.index(listing.cursor) + 1 :]
    if listing.search:
        text = listing.search.lower()
        items = [
            item
            for item in items
            if any(text in _plain(shown_value(item, name)).lower() for name in columns)
        ]
    show_page(items[: listing.fetched], listing, columns, cursor_of, empty=empty)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date):
        return str(json_default(value))
    if isinstance(value, dict | list | tuple | set | frozenset):
        return json.dumps(value, default=json_default, ensure_ascii=False)
    return str(value)
