"""Measure the database's clock, which all hosts share."""

from __future__ import annotations

import time

import sqlalchemy as sa

from penstock import clock
from penstock.db.engine import Engine, reading


def measure(engine: Engine) -> None:
    """Compare this process's time with the database's; SQLite has none of its own, and one host.

    Raises DatabaseUnavailable.
    """
    if engine.dialect.name == "sqlite":
        clock.reset()
        return
    with reading(engine) as connection:
        # The way of the answer alone is to count, and not that of BEGIN.
        connection.exec_driver_sql("SELECT 1")
        asked = time.monotonic()
        answer = connection.scalar(
            sa.select(sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double))
        )
        clock.record_measurement(asked, float(answer or 0.0), time.monotonic())
