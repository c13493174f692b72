"""Connections to PostgreSQL: few for each process, with timeouts, also through PgBouncer.

Such a pooler sends each transaction to any session of the server, so nothing may outlive its
transaction there: no prepared statement, no session setting, no session lock, no LISTEN. It also
rejects startup parameters that it does not know, `options` among them; settings are made after
connecting instead. A pooler is recognised by the process id in the greeting: a pooler invents one,
a server's own is what `pg_backend_pid()` returns. Prepared statements save a tenth of the CPU time
of accepting a run, so direct connections keep them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy import event

from penstock.db.liveness import SILENCE_LIMIT, Silence, connection_class, limit

APPLICATION = "penstock"
CHANNEL = "penstock_access"
IDLE_IN_TRANSACTION = "idle_in_transaction_session_timeout"
IDLE_IN_TRANSACTION_MS = 60_000
POOLED = "penstock_pooled"
# Sessions of a process: those that stay open, and the most at a time.
POOL_SIZE, MAX_SESSIONS = 3, 6
# For work that must not wait for other work: following access data, and heartbeats.
RESERVED_POOL_SIZE, MAX_RESERVED_SESSIONS = 1, 2
IDLE_S = 60.0  # after which a session is closed
_engines: WeakValueDictionary[tuple[int, str, bool, float | None], sa.Engine] = (
    WeakValueDictionary()
)
# When more than one of its sessions was last in use.
_together: WeakKeyDictionary[sa.Engine, float] = WeakKeyDictionary()
_opening = threading.Lock()


def shared_engine(url: sa.URL, *, reserved: bool, silence: Silence | None) -> sa.Engine:
    """Return this process's engine for a URL: it has one, so its number of sessions is limited."""
    key = (
        os.getpid(),
        url.render_as_string(hide_password=False),
        reserved,
        silence.limit if silence else None,
    )
    with _opening:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = _engine(
                url,
                *(
                    (RESERVED_POOL_SIZE, MAX_RESERVED_SESSIONS)
                    if reserved
                    else (POOL_SIZE, MAX_SESSIONS)
                ),
            )
            if silence is not None:
                limit(engine, silence)
    return engine


def _engine(url: sa.URL, pool_size: int, max_sessions: int) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=max_sessions - pool_size,
        pool_use_lifo=True,
        connect_args=connection_timeouts(url),
        hide_parameters=True,
    )
    event.listen(engine, "checkout", lambda *_: _note_use(engine))
    event.listen(engine, "connect", _greet)
    event.listen(engine, "begin", _limit_idle)
    return engine


def _note_use(engine: sa.Engine) -> None:
    if isinstance(engine.pool, sa.QueuePool) and engine.pool.checkedout() > 1:
        _together[engine] = time.monotonic()


def close_idle(engine: sa.Engine, seconds: float = IDLE_S) -> None:
    """Close idle sessions where no two were in use at once for some seconds.

    The next use opens a new one.
    """
    pool, used = engine.pool, _together.get(engine)
    if used is None or not isinstance(pool, sa.QueuePool) or time.monotonic() - used < seconds:
        return
    # A session in use would close only when it is returned, and others would open meanwhile.
    if pool.checkedout() == 0:
        del _together[engine]
        engine.dispose()


def connection_timeouts(url: sa.URL) -> dict[str, Any]:
    """Return the timeouts of a connection, without those that its URL sets.

    TCP detects a connection whose packets are dropped within 15 s, by `tcp_user_timeout` while it
    sends and by keepalives while it waits.
    """
    timeouts: dict[str, Any] = {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
        "application_name": APPLICATION,
    }
    return {name: value for name, value in timeouts.items() if name not in url.query}


def _greet(connection: Any, record: Any) -> None:  # noqa: ANN401  a DBAPI connection and SQLAlchemy's record of it
    """Detect a pooler; without one, set a timeout for transactions whose client is gone.

    Their locks would stay for hours.
    """
    connection.autocommit = True
    pooled = record.info[POOLED] = _is_pooled(connection)
    if pooled:
        connection.prepare_threshold = None
    elif (
        connection.execute("SELECT current_setting(%s)", [IDLE_IN_TRANSACTION]).fetchone()[0] == "0"
    ):
        connection.execute(f"SET {IDLE_IN_TRANSACTION} = {IDLE_IN_TRANSACTION_MS}")
    connection.autocommit = False


def _limit_idle(connection: sa.Connection) -> None:
    """Set the timeout for each transaction where a pooler shares the session with other clients."""
    if connection.info.get(POOLED):
        connection.exec_driver_sql(f"SET LOCAL {IDLE_IN_TRANSACTION} = {IDLE_IN_TRANSACTION_MS}")


def _is_pooled(connection: Any) -> bool:  # noqa: ANN401  psycopg's, which is not loaded here
    return bool(
        connection.execute("SELECT pg_backend_pid()").fetchone()[0] != connection.info.backend_pid
    )


def is_pooled(engine: sa.Engine) -> bool:
    """Return whether a database is reached through a pooler; never on SQLite."""
    if engine.dialect.name != "postgresql":
        return False
    with engine.connect() as connection:
        return bool(connection.info[POOLED])


def listen(url: str, wake: Callable[[], None], stopped: Callable[[], bool]) -> bool:
    """Call `wake` for each notification until `stopped`, which is called twice a second.

    Return False behind a pooler, which forwards no notifications. Raises OSError when the
    connection is lost.
    """
    import psycopg  # noqa: PLC0415  not needed for SQLite

    parsed = sa.make_url(url)
    address = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with connection_class(SILENCE_LIMIT).connect(
            address, autocommit=True, **connection_timeouts(parsed)
        ) as connection:
            if _is_pooled(connection):
                return False
            connection.execute(f"LISTEN {CHANNEL}")
            wake()
            while not stopped():
                for _ in connection.notifies(timeout=0.5, stop_after=1):
                    wake()
            return True
    except psycopg.Error as error:
        raise OSError("the listening connection was lost") from error
