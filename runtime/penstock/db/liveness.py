"""Limit how long queries wait for a PostgreSQL server that is silent.

This module also tells since when one waits.

TCP notices lost packets and dead hosts, but not a server whose process is stopped (SIGSTOP, a
frozen VM or disk): the kernel there goes on acknowledging, and a query without a limit waits for
ever. The limit counts from the last sign of the server, not from the begin of the query, so a large
result may take as long as it does while rows arrive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

if TYPE_CHECKING:
    import psycopg

LONGEST_SILENCE_S = 15.0  # as long as TCP waits for an acknowledgement


class Silence:
    """Since when the queries of each thread have waited for a sign of the server."""

    def __init__(self, limit: float = LONGEST_SILENCE_S) -> None:
        """Take the seconds after which a silent connection is closed."""
        self.limit = limit
        self._heard_at: dict[int, float] = {}

    def of(self, thread: int | None) -> float:
        """Return how many seconds the query of a thread has waited without a sign of the server.

        0 where none waits.
        """
        heard_at = self._heard_at.get(thread) if thread is not None else None
        return 0.0 if heard_at is None else time.monotonic() - heard_at

    def limited(self, exchange: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Pass an exchange of psycopg through until it ends.

        Raises TimeoutError once the server was silent for too long.
        """
        thread = threading.get_ident()
        heard_at = self._heard_at[thread] = time.monotonic()
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard_at = self._heard_at[thread] = now
                elif now - heard_at > self.limit:
                    raise TimeoutError
                wanted = exchange.send(ready)
        except StopIteration as ended:
            return ended.value
        finally:
            self._heard_at.pop(thread, None)


SILENCE = Silence()  # of this process, but for queries that may take long


def connection_class(silence: Silence) -> type[psycopg.Connection[Any]]:
    """Return a class of connections that are closed once their server was silent for too long."""
    import psycopg  # noqa: PLC0415  a process with SQLite need not load it

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
    """Have the connections that an engine of PostgreSQL makes from now on limited."""

    def connect(
        _dialect: object, _record: object, arguments: tuple[Any, ...], more: dict[str, Any]
    ) -> object:
        return connection_class(silence).connect(*arguments, **more)

    event.listen(engine, "do_connect", connect)
