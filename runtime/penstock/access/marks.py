"""Marks of calls that count once, such as signed messages.

Rows of the database, so that they hold in every process.

A call claims its mark at the gate, before it is counted against a rate and before anything is
performed: of two copies one is rejected. The mark is stored for the whole time in which a copy
could pass, so a process that dies leaves it claimed: the message may have been performed. It is
given back when the call is rejected later or fails. Each claim has a random name, and only that
claim is given back: one that is given back late can't free the mark of a later call.

A mark also stores the Idempotency-Key of its call. A copy with the same key is no new message and
no forgery: it may have the stored reply, and nothing else.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import structlog

from penstock import clock
from penstock.contracts.access import Once
from penstock.db import idempotency
from penstock.db.engine import DatabaseUnavailable, Engine


@dataclass(frozen=True, slots=True)
class Mark:
    """A claimed mark.

    `owned` is False where an earlier call with the same Idempotency-Key claimed it.
    """

    digest: bytes
    claim: str
    owned: bool


class Marks:
    """The marks of one environment. `wake` is called when some wait to be given back by `flush`."""

    def __init__(self, engine: Engine, environment: str, wake: Callable[[], object] = bool) -> None:
        self._engine = engine
        self._environment = environment
        self._wake = wake
        self._waiting: dict[bytes, Mark] = {}
        self._flushing = threading.Lock()
        self._log = structlog.get_logger("penstock")

    def claim(
        self, kind: str, consumer_id: int | None, once: Once, key: bytes = b""
    ) -> Mark | None:
        """Return the mark of a call, or None where another call has it.

        The mark is of the authenticator's name, the consumer and the message: which of a consumer's
        secrets proved it makes no difference. `key` identifies the call's Idempotency-Key; empty:
        it has none. Raises DatabaseUnavailable.
        """
        digest = sha256(
            f"once {self._environment} {kind} {consumer_id} ".encode() + once.message
        ).digest()
        if digest in self._waiting:
            self.flush()
        claim, now = secrets.token_hex(16), clock.utc_now()
        row = idempotency.claim(
            self._engine, digest, key, claim, now, now + timedelta(seconds=once.seconds)
        )
        if row is None:
            return Mark(digest, claim, owned=True)
        return Mark(digest, claim, owned=False) if key and row["body"] == key else None

    def give_back(self, marks: Iterable[Mark]) -> None:
        """Give marks back, now or, where the database is away, as soon as it is there again."""
        self._wait(marks)
        self.flush()

    def give_back_soon(self, marks: Iterable[Mark]) -> None:
        """Give marks back in another thread: the caller must not wait for the database."""
        if self._wait(marks):
            self._wake()

    def flush(self) -> None:
        """Give back the marks that wait."""
        if not self._waiting:
            return
        with self._flushing:
            for digest, mark in list(self._waiting.items()):
                try:
                    idempotency.release(self._engine, digest, mark.claim)
                except DatabaseUnavailable as error:
                    self._log.warning("mark of a call not given back yet", error=str(error))
                    return
                if self._waiting.get(digest) is mark:
                    del self._waiting[digest]

    def _wait(self, marks: Iterable[Mark]) -> bool:
        owned = {mark.digest: mark for mark in marks if mark.owned}
        self._waiting.update(owned)
        return bool(owned)
