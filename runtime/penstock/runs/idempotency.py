"""Calls that may be repeated.

The first with an `Idempotency-Key` runs, the others get its reply
(draft-ietf-httpapi-idempotency-key-header).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from typing import Any

import msgspec
import structlog

from penstock import clock
from penstock.access.encryption import SecretBox, UnknownKey
from penstock.contracts.call import Call
from penstock.contracts.forms import Upload
from penstock.contracts.sanitize import to_plain
from penstock.db import idempotency
from penstock.db.engine import DatabaseUnavailable, Engine, writing
from penstock.errors import RETRYABLE_STATUSES, PipelineError, Refusal
from penstock.header_fields import header_fields

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
KEPT = timedelta(hours=24)
# That a claim holds beyond its call's time limit, and whenever it is renewed.
MARGIN = timedelta(seconds=60)
# A structured field's string, or bare as most send it.
SENT = re.compile(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')
REPEATED = ("Idempotency-Replayed", "true")
FAILED = 500
CHUNK = 1024 * 1024
ATTEMPTS = 3

Answer = tuple[int, list[tuple[str, str]], bytes]


def key_of(header: str) -> str:
    """Return the key that a header holds. Raises Refusal (400)."""
    match = SENT.fullmatch(header.strip())
    if match is None:
        raise Refusal(
            400,
            "idempotency-key-invalid",
            "An Idempotency-Key has 1 to 255 visible characters, such as a UUID.",
        )
    return match[1] or match[2]


def identity(whose: tuple[str, ...]) -> bytes:
    """Return a digest of what identifies a key.

    Environment, pipeline, caller and the key itself.
    """
    return sha256("\0".join(whose).encode()).digest()


def fingerprint(call: Call, *, form: bool) -> bytes:
    """Return what a repeat must have in common with the first call.

    A digest of method, path, query and body, or of a form's fields.
    """
    digest = sha256(f"{call.method}\0{call.path}\0{call.query_string}\0".encode())
    if not form:
        digest.update(call.body)
        return digest.digest()
    for name, values in call.form.items():
        for value in values:
            digest.update(f"\0{name}\0".encode())
            if isinstance(value, Upload):
                digest.update(value.filename.encode("utf-8", "replace") + b"\0" + _digest_of(value))
            else:
                digest.update(sha256(value.encode()).digest())
    return digest.digest()


def _digest_of(upload: Upload) -> bytes:
    digest = sha256()
    while chunk := upload.read(CHUNK):
        digest.update(chunk)
    upload.file.seek(0)
    return digest.digest()


def still_running() -> Refusal:
    """Return the answer to a repeat that comes before the first call has ended."""
    detail = (
        "The first call with this Idempotency-Key is still running; try again when it may have"
        " ended."
    )
    return Refusal(409, "idempotency-key-in-use", detail, headers=[("Retry-After", "1")])


def answered(status: int, refusal: Refusal | None) -> bool:
    """Say whether a call got its answer from its handler, now or when it came first.

    What failed or asks to come again did not.
    """
    if (
        refusal is not None
        and not isinstance(refusal, PipelineError)
        and REPEATED not in refusal.headers
    ):
        return False
    return status < FAILED and status not in RETRYABLE_STATUSES


class IdempotencyStore:
    """The replies that are kept, in the database.

    They hold for all processes and survive a restart. Sealed, for they are customers' data.
    """

    def __init__(self, engine: Engine, box: SecretBox) -> None:
        self._engine = engine
        self._box = box
        self._running: dict[str, bytes] = {}
        self._log = structlog.get_logger("penstock")

    def renew(self) -> None:
        """Lengthen the claims of calls that still run here.

        One that was left behind may go on for hours. Raises DatabaseUnavailable.
        """
        running = dict(self._running)
        if running:
            idempotency.renew(self._engine, running, clock.utc_now() + MARGIN)

    def once(
        self, whose: tuple[str, ...], request: bytes, seconds: float, work: Callable[[], Answer]
    ) -> Answer:
        """Do the work for the first call of its kind and keep its reply.

        Return that to each repeat.

        `whose` names environment, pipeline, caller and key; `request` is what must be the same in a
        repeat; `seconds` is the call's time limit. The work of a call whose time ran out goes on,
        its claim renewed by the host, and what it replies in the end is kept too. What failed (500
        and above), asks to come again or did not get to the handler is not kept: such a call can be
        tried again. Raises Refusal: 409 while the first call runs, 422 for another request, 503
        where the database can't be asked, or the reply was encrypted with a key that this process
        does not have.
        """
        digest = identity(whose)
        claim = secrets.token_hex(16)
        now = clock.utc_now()
        try:
            found = idempotency.claim(
                self._engine, digest, request, claim, now, now + timedelta(seconds=seconds) + MARGIN
            )
        except DatabaseUnavailable as error:
            raise Refusal(
                503,
                "pipeline-unavailable",
                "This pipeline is not available at the moment.",
                headers=[("Retry-After", "1")],
            ) from error
        if found is not None:
            return self._repeat(found["body"], found["reply"], request)
        kept: Answer | PipelineError | None = None
        self._running[claim] = digest
        try:
            kept = work()
        except PipelineError as error:
            kept = error
            raise
        finally:
            del self._running[claim]
            status = kept.status if isinstance(kept, PipelineError) else kept[0] if kept else FAILED
            try:
                if kept is None or not answered(status, None):
                    idempotency.release(self._engine, digest, claim)
                else:
                    idempotency.store(
                        self._engine, digest, claim, self._sealed(kept), clock.utc_now() + KEPT
                    )
            # It stays claimed until its lease ends: better a 409 than a second run.
            except DatabaseUnavailable as error:
                self._log.error("reply not kept", error=str(error))
        return kept

    def accept(
        self, whose: tuple[str, ...], request: bytes, work: Callable[[Any], Answer]
    ) -> Answer:
        """Do the work for the first call of its kind in one transaction with its reply.

        Return that to each repeat.

        `work` is given the connection. Raises Refusal, as `once` does.
        """
        digest = identity(whose)
        for _ in range(ATTEMPTS):
            now = clock.utc_now()
            with suppress(idempotency.AlreadyStored), writing(self._engine) as connection:
                found = idempotency.find(connection, digest, now)
                if found is not None:
                    return self._repeat(found["body"], found["reply"], request)
                made = work(connection)
                idempotency.put(connection, digest, request, self._sealed(made), now, now + KEPT)
                return made
        raise Refusal(
            409,
            "idempotency-key-in-use",
            "Calls with this Idempotency-Key come too fast; try again.",
            headers=[("Retry-After", "1")],
        )

    def _repeat(self, first: bytes, reply: bytes | None, body: bytes) -> Answer:
        if first != body:
            raise Refusal(
                422,
                "idempotency-key-reused",
                "This Idempotency-Key came with another request before; use a new one for each"
                " request.",
            )
        if reply is None:
            raise still_running()
        try:
            kept = msgspec.msgpack.decode(self._box.decrypt(reply), type=_Kept)
        except UnknownKey as error:
            self._log.error("a kept reply can't be read", reason=str(error))
            raise Refusal(
                503,
                "pipeline-unavailable",
                "The reply to the first call can't be read at the moment.",
                headers=[("Retry-After", "10")],
            ) from error
        if kept.problem is not None:
            said = kept.problem
            raise Refusal(
                kept.status,
                said.code,
                said.detail,
                title=said.title,
                headers=[*kept.headers, REPEATED],
                extra=said.extra,
            )
        header_fields(kept.headers)  # an earlier release may have stored it without validation
        return kept.status, [*kept.headers, REPEATED], kept.body

    def _sealed(self, done: Answer | PipelineError) -> bytes:
        if isinstance(done, PipelineError):
            kept = _Kept(
                done.status,
                list(done.headers),
                b"",
                _Problem(done.code, done.detail, done.title, to_plain(done.extra)),
            )
        else:
            kept = _Kept(done[0], list(done[1]), done[2])
        return self._box.encrypt(msgspec.msgpack.encode(kept))


class _Problem(msgspec.Struct):
    code: str
    detail: str
    title: str
    extra: dict[str, object]


class _Kept(msgspec.Struct):
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    problem: _Problem | None = None
