"""Read a file of orders, as NDJSON or CSV. Each line becomes the JSON of an order."""

from __future__ import annotations

import csv
import io

import msgspec

from penstock import PipelineError

COLUMNS = ("reference", "country", "currency", "sku", "quantity", "unit_price")
MAX_LINES = 100_000


def read_lines(content_type: str, file: bytes) -> list[bytes]:
    """Return the lines of a file that are not empty. Raises PipelineError."""
    kind = content_type.partition(";")[0].strip().lower()
    try:
        text = file.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PipelineError(400, "Not text", "The file is not UTF-8.", type="not-text") from None
    lines = (
        _from_csv(text)
        if kind == "text/csv"
        else [line.encode() for line in text.splitlines() if line.strip()]
    )
    # The last one is the media type that OpenAPI gives for bytes.
    if kind not in {"text/csv", "application/x-ndjson", "application/octet-stream"}:
        raise PipelineError(
            415,
            "Unknown kind of file",
            "Send application/x-ndjson or text/csv.",
            type="unknown-file",
        )
    if not 0 < len(lines) <= MAX_LINES:
        raise PipelineError(
            422,
            "Nothing to do",
            f"The file has {len(lines)} lines; it may have 1 to {MAX_LINES}.",
            type="no-lines",
        )
    return lines


def _from_csv(text: str) -> list[bytes]:
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise PipelineError(
            422,
            "Other columns",
            f"The first line must be {','.join(COLUMNS)}.",
            type="other-columns",
        )
    return [msgspec.json.encode(_order(row)) for row in rows]


def _order(row: dict[str, str]) -> dict[str, object]:
    """Return a row as an order of one line.

    A quantity that is no number stays a text, and fails validation later.
    """
    quantity = row["quantity"] or ""
    line = {
        "sku": row["sku"],
        "quantity": int(quantity) if quantity.isdecimal() else quantity,
        "unit_price": row["unit_price"],
    }
    return {
        "reference": row["reference"],
        "country": row["country"],
        "currency": row["currency"],
        "lines": [line],
    }
