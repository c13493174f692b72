"""Limit how long queries wait for a silent PostgreSQL server, and report how long one waits.

TCP detects lost packets and dead hosts, but not a server whose process is stopped (SIGSTOP, a
frozen VM or disk): its kernel still acknowledges packets, so a query without a limit never ends.
The limit counts from the last data of the server, not from the beginning of the query, so a large
result may take any time while rows arrive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

if TYPE_CHECKING:
    import psycopg

MAX_SILENCE_S = 15.0  # as TCP waits for an acknowledgement


class Silence:
    """How long the query of each thread has waited for data of the server."""

    def __init__(self, limit: float = MAX_SILENCE_S) -> None:
        """Close a silent connection after `limit` seconds."""
        self.limit = limit
        self._heard_at: dict[int, float] = {}

    def of(self, thread: int | None) -> float:
        """Return for how many seconds the query of a thread has waited, 0 where none waits."""
        heard_at = self._heard_at.get(thread) if thread is not None else None
        return 0.0 if heard_at is None else time.monotonic() - heard_at

    def limited(self, exchange: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run an exchange of psycopg to its end. Raises TimeoutError after too long a silence."""
        thread = threading.get_ident()
        heard_at = self._heard_at[thread] = time.monotonic()
        try:
            event_mask = next(exchange)
            while True:
                ready = yield event_mask
                now = time.monotonic()
                if ready:
                    heard_at = self._heard_at[thread] = now
                elif now - heard_at > self.limit:
                    raise TimeoutError
                event_mask = exchange.send(ready)
        except StopIteration as ended:
            return ended.value
        finally:
            self._heard_at.pop(thread, None)


SILENCE_LIMIT = Silence()  # of all queries of a process, except those that may take long


def connection_class(silence: Silence) -> type[psycopg.Connection[Any]]:
    """Return a class of connections that close after too long a silence of their server."""
    import psycopg  # noqa: PLC0415  not needed for SQLite

    class Limited(psycopg.Connection[Any]):
        def wait(self, gen: Any, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401  psycopg's types differ between releases
            try:
                return super().wait(silence.limited(gen), *arguments, **more)
            except TimeoutError:
                self.pgconn.finish()
                raise psycopg.OperationalError(
                    f"the server has not answered for {silence.limit:g} s"
                ) from None

    return Limited


def limit(engine: Engine, silence: Silence) -> None:
    """Limit the connections that an engine of PostgreSQL opens from now on."""

    def connect(
        _dialect: object, _record: object, arguments: tuple[Any, ...], more: dict[str, Any]
    ) -> object:
        return connection_class(silence).connect(*arguments, **more)

    event.listen(engine, "do_connect", connect)
