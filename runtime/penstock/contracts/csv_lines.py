"""Lines of CSV (RFC 4180) that spreadsheets show as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO

# Spreadsheets take a text with one of these at its beginning for a formula.
FORMULA_PREFIXES = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "＝",  # noqa: RUF001  the full-width form
    "＋",  # noqa: RUF001  the full-width form
    "－",  # noqa: RUF001  the full-width form
    "＠",  # noqa: RUF001  the full-width form
)


def csv_line(values: Iterable[str]) -> str:
    """Return values as a line of CSV, with an apostrophe before the formulas of spreadsheets."""
    line = StringIO()
    csv.writer(line).writerow(
        [f"'{value}" if value.startswith(FORMULA_PREFIXES) else value for value in values]
    )
    return line.getvalue()
