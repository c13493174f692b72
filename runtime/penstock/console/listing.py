"""The order of a table, as the address of its page names it: ?sort=-calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flask import request

from penstock.console.responses import this_page

PLACE = frozenset({"before", "after", "cursor", "poll"})  # ends with another order


@dataclass(frozen=True, slots=True)
class Sort:
    """The column that a table is sorted by, and whether its highest value comes first."""

    by: str
    descending: bool

    def direction(self, column: str) -> str:
        """Return the value of aria-sort of a column."""
        if column != self.by:
            return "none"
        return "descending" if self.descending else "ascending"

    def url(self, column: str) -> str:
        """Return the address of this page sorted by a column, and the other way around next."""
        sign = "" if column == self.by and self.descending else "-"
        return this_page({"sort": sign + column}, without=PLACE)


def sort_of(columns: Iterable[str], default: str) -> Sort:
    """Return the order in the query; the default, as "-calls", where it names no column."""
    text = request.args.get("sort", default)
    if text.removeprefix("-") not in set(columns):
        text = default
    return Sort(text.removeprefix("-"), text.startswith("-"))


def facet(
    name: str,
    field: str,
    counted: Sequence[tuple[str, int]],
    chosen: str,
    labels: Mapping[str, str],
) -> Mapping[str, object]:
    """Return the most frequent values of a field, each as a link that filters by it."""
    options = [
        {
            "text": labels.get(value, value),
            "url": this_page({} if value == chosen else {field: value}, without={field, *PLACE}),
            "on": value == chosen,
            "count": number,
        }
        for value, number in counted
    ]
    return {"name": name, "options": options}
