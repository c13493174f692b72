"""Replay protection: messages, such as signed ones, that count once.

A call claims its message at the gate, before rate limits and before its handler. Of two copies one
is rejected. Claims are rows of the database, so they hold in every process, for the whole time in
which a copy could be accepted. A process that dies leaves its claims: the message may have been
performed. A claim is released when its call is rejected later, or fails. Each claim has a random
id, so a late release can't release the claim of a later call.

A claim also stores the Idempotency-Key of its call. A copy with the same key is a retry: it may get
the stored reply, and nothing else.
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
from penstock.contracts.authenticators import Once
from penstock.db import idempotency
from penstock.db.engine import Engine
from penstock.db.failures import DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class MessageClaim:
    """The claim of a message by its id.

    `owned` is False where an earlier call with the same Idempotency-Key has the claim.
    """

    digest: bytes
    claim: str
    owned: bool


class ReplayGuard:
    """The claims of one environment.

    `wake` is called when claims wait to be released by `flush`.
    """

    def __init__(self, engine: Engine, environment: str, wake: Callable[[], object] = bool) -> None:
        self._engine = engine
        self._environment = environment
        self._wake = wake
        self._waiting: dict[bytes, MessageClaim] = {}
        self._flushing = threading.Lock()
        self._log = structlog.get_logger("penstock")

    def claim(
        self, kind: str, consumer_id: int | None, once: Once, key: bytes = b""
    ) -> MessageClaim | None:
        """Return the claim of a call's message, or None where another call has it.

        The message is one of a consumer and an authenticator; which of the consumer's secrets
        proved it makes no difference. `key` identifies the call's Idempotency-Key; empty: it has
        none. Raises DatabaseUnavailable.
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
            return MessageClaim(digest, claim, owned=True)
        return MessageClaim(digest, claim, owned=False) if key and row.body == key else None

    def release(self, claims: Iterable[MessageClaim]) -> None:
        """Release claims, now or, while the database is unavailable, as soon as it is available."""
        self._add_waiting(claims)
        self.flush()

    def release_later(self, claims: Iterable[MessageClaim]) -> None:
        """Release claims in another thread: the caller must not wait for the database."""
        if self._add_waiting(claims):
            self._wake()

    def flush(self) -> None:
        """Release the claims that wait."""
        if not self._waiting:
            return
        with self._flushing:
            for digest, claim in list(self._waiting.items()):
                try:
                    idempotency.release(self._engine, digest, claim.claim)
                except DatabaseUnavailable as error:
                    self._log.warning("message claim not released yet", error=str(error))
                    return
                if self._waiting.get(digest) is claim:
                    del self._waiting[digest]

    def _add_waiting(self, claims: Iterable[MessageClaim]) -> bool:
        owned = {claim.digest: claim for claim in claims if claim.owned}
        self._waiting.update(owned)
        return bool(owned)
