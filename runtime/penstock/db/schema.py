"""All tables: importing this module declares them in `metadata`."""

from __future__ import annotations

from penstock.db import alert_tables, deployment_tables, run_tables, tables
from penstock.db.rows import Row, metadata

__all__ = ["ROW_TYPES", "metadata"]

# The row type of each table.
ROW_TYPES: tuple[type[Row], ...] = tuple(
    item
    for module in (tables, run_tables, deployment_tables, alert_tables)
    for item in vars(module).values()
    if isinstance(item, type) and issubclass(item, Row) and "table" in vars(item)
)
