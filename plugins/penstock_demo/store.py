"""The demo's own table, on SQLite or PostgreSQL; opened at first use, so after a server's fork."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

SETTING = "ORDERS_DATABASE_URL"
DEFAULT = "sqlite:///.penstock/orders.db"

_metadata = sa.MetaData()
_orders = sa.Table(
    "demo_orders",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("partner", sa.String(64), nullable=False),
    sa.Column("reference", sa.String(64), nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("partner", "reference"),
)


class Store:
    """Stores orders by partner."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._opened: sa.Engine | None = None

    @property
    def _engine(self) -> sa.Engine:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    self._opened = _open(self._url or os.environ.get(SETTING) or DEFAULT)
        return self._opened

    def add(self, partner: str, order_id: str, reference: str, document: bytes) -> bool:
        """Store an order. Return False if the partner used the reference before."""
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    _orders.insert().values(
                        id=order_id, partner=partner, reference=reference, document=document
                    )
                )
        except sa.exc.IntegrityError:
            return False
        return True

    def get(self, partner: str, order_id: str) -> bytes | None:
        """Return an order of that partner, None if it has no such order."""
        query = sa.select(_orders.c.document).where(
            _orders.c.partner == partner, _orders.c.id == order_id
        )
        with self._engine.connect() as connection:
            return connection.scalar(query)

    def page(self, partner: str, limit: int, after: str | None) -> list[bytes] | None:
        """Return a partner's orders, newest first, older than the order `after`.

        None if the partner has no order of that id.
        """
        query = (
            sa.select(_orders.c.document)
            .where(_orders.c.partner == partner)
            .order_by(_orders.c.number.desc())
            .limit(limit)
        )
        with self._engine.connect() as connection:
            if after is not None:
                number = connection.scalar(
                    sa.select(_orders.c.number).where(
                        _orders.c.partner == partner, _orders.c.id == after
                    )
                )
                if number is None:
                    return None
                query = query.where(_orders.c.number < number)
            return list(connection.scalars(query))

    def counted(self) -> dict[str, int]:
        """Return the number of orders by partner."""
        query = (
            sa.select(_orders.c.partner, sa.func.count().label("orders"))
            .group_by(_orders.c.partner)
            .order_by(_orders.c.partner)
        )
        with self._engine.connect() as connection:
            return {row.partner: row.orders for row in connection.execute(query)}

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.dispose()


def _open(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        Path(parsed.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, connect_args={"timeout": 10})
        sa.event.listen(engine, "connect", _prepare)
    else:
        engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    try:
        _metadata.create_all(engine)
    except sa.exc.DBAPIError:  # another process created it at the same time: now it exists
        _metadata.create_all(engine)
    return engine


def _prepare(connection: DBAPIConnection, _record: Any) -> None:  # noqa: ANN401  SQLAlchemy's type
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()
