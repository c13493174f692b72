"""Idempotency: the first call with an `Idempotency-Key` runs, repeats get its reply.

See draft-ietf-httpapi-idempotency-key-header.

**Threads and races.** The first call claims its key by a row in the database, under a lease. A
repeat in any process finds the claim and gets 409 until the reply is stored. The lease is longer
than the time limit of the call and is renewed while the call runs, for a call that timed out still
runs. If its process dies, the lease ends and the call may be repeated. A claim has a random value,
so a call that lost its claim can't overwrite the reply of another.
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
from penstock.db.engine import Engine, writing
from penstock.db.failures import DatabaseUnavailable
from penstock.db.run_tables import IdempotentReplyRow
from penstock.errors import RETRYABLE_STATUSES, PipelineError, Refusal
from penstock.header_fields import header_fields

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
REPLY_RETENTION = timedelta(hours=24)
# by which a claim outlasts the time limit of its call, and every renewal
CLAIM_MARGIN = timedelta(seconds=60)
# the string of a structured field (RFC 9651), or without quotes as most clients send it
HEADER_FORM = re.compile(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x2b\x2d-\x7e]{1,255})')
REPLAYED_HEADER = ("Idempotency-Replayed", "true")
FIRST_SERVER_ERROR_STATUS = 500
CHUNK_BYTES = 1024 * 1024
MAX_ATTEMPTS = 3

Answer = tuple[int, list[tuple[str, str]], bytes]


def key_of(header: str) -> str:
    """Return the key in a header. Raises Refusal (400).

    A server joins several headers of one name with a comma, so a bare key has none.
    """
    match = HEADER_FORM.fullmatch(header.strip())
    if match is None:
        raise Refusal(
            400,
            "idempotency-key-invalid",
            "An Idempotency-Key has 1 to 255 visible characters, such as a UUID, and is sent once.",
        )
    return match[1] or match[2]


def identity(key: tuple[str, ...]) -> bytes:
    """Return the digest of a key: of environment, pipeline, caller and the key itself."""
    return sha256("\0".join(key).encode()).digest()


def fingerprint(call: Call, *, form: bool) -> bytes:
    """Return the digest that a repeat must have in common with the first call.

    It covers method, path, query and body, or the fields of a form.
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
    while chunk := upload.read(CHUNK_BYTES):
        digest.update(chunk)
    upload.file.seek(0)
    return digest.digest()


def still_running() -> Refusal:
    """Return the answer to a repeat while the first call still runs."""
    detail = (
        "The first call with this Idempotency-Key is still running; try again when it may have"
        " ended."
    )
    return Refusal(409, "idempotency-key-in-use", detail, headers=[("Retry-After", "1")])


def answered(status: int, refusal: Refusal | None) -> bool:
    """Return whether a handler has answered the call, now or the first time.

    That is false for a call that failed or should be tried again.
    """
    if (
        refusal is not None
        and not isinstance(refusal, PipelineError)
        and REPLAYED_HEADER not in refusal.headers
    ):
        return False
    return status < FIRST_SERVER_ERROR_STATUS and status not in RETRYABLE_STATUSES


def _status_of(answer: Answer | PipelineError) -> int:
    return answer.status if isinstance(answer, PipelineError) else answer[0]


class IdempotencyStore:
    """Stored replies by key, in the database of all processes; encrypted, as data of customers."""

    def __init__(self, engine: Engine, box: SecretBox) -> None:
        self._engine = engine
        self._box = box
        self._running: dict[str, bytes] = {}
        self._log = structlog.get_logger("penstock")

    def renew(self) -> None:
        """Renew the claims of calls that still run in this process, for hours if need be.

        Raises DatabaseUnavailable.
        """
        running = dict(self._running)
        if running:
            idempotency.renew(self._engine, running, clock.utc_now() + CLAIM_MARGIN)

    def once(
        self, key: tuple[str, ...], request: bytes, seconds: float, work: Callable[[], Answer]
    ) -> Answer:
        """Return the reply of `work` for the first call with a key, and the stored one for repeats.

        `key` is environment, pipeline, caller and key; `request` is the fingerprint of the call;
        `seconds` is its time limit. A call that timed out still runs, with its claim renewed, and
        its late reply is stored too. A reply is not stored where the call failed (500 and above),
        should be tried again or did not reach the handler, so that it may be repeated.

        Raises Refusal: 409 while the first call runs, 422 for another fingerprint, 503 where the
        database is unavailable or the reply is encrypted with a key that this process does not
        have.
        """
        digest, claim = identity(key), secrets.token_hex(16)
        first = self._claim(digest, request, claim, timedelta(seconds=seconds) + CLAIM_MARGIN)
        if first is not None:
            return self._repeat(first.body, first.reply, request)
        answer: Answer | PipelineError | None = None
        self._running[claim] = digest
        try:
            answer = work()
        except PipelineError as error:
            answer = error
            raise
        finally:
            del self._running[claim]
            self._settle(digest, claim, answer)
        return answer

    def _claim(
        self, digest: bytes, request: bytes, claim: str, lease: timedelta
    ) -> IdempotentReplyRow | None:
        """Claim a key; return the row of the first call where there was one. Raises Refusal."""
        now = clock.utc_now()
        try:
            return idempotency.claim(self._engine, digest, request, claim, now, now + lease)
        except DatabaseUnavailable as error:
            raise Refusal(
                503,
                "pipeline-unavailable",
                "This pipeline is not available at the moment.",
                headers=[("Retry-After", "1")],
            ) from error

    def _settle(self, digest: bytes, claim: str, answer: Answer | PipelineError | None) -> None:
        """Store the reply of a call, or release its claim where it may be repeated.

        Without the database the claim stays until its lease ends: a 409 is better than a second
        run.
        """
        try:
            if answer is None or not answered(_status_of(answer), None):
                idempotency.release(self._engine, digest, claim)
            else:
                until = clock.utc_now() + REPLY_RETENTION
                idempotency.store(self._engine, digest, claim, self._encrypted(answer), until)
        except DatabaseUnavailable as error:
            self._log.error("reply not kept", error=str(error))

    def accept(self, key: tuple[str, ...], request: bytes, work: Callable[[Any], Answer]) -> Answer:
        """Do as `once`, with the work and its reply in one transaction.

        `work` gets the connection. Raises Refusal as `once` does.
        """
        digest = identity(key)
        for _ in range(MAX_ATTEMPTS):
            now = clock.utc_now()
            with suppress(idempotency.AlreadyStored), writing(self._engine) as connection:
                first = idempotency.find(connection, digest, now)
                if first is not None:
                    return self._repeat(first.body, first.reply, request)
                answer = work(connection)
                idempotency.put(
                    connection, digest, request, self._encrypted(answer), now, now + REPLY_RETENTION
                )
                return answer
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
            stored = msgspec.msgpack.decode(self._box.decrypt(reply), type=_StoredReply)
        except UnknownKey as error:
            self._log.error("a kept reply can't be read", reason=str(error))
            raise Refusal(
                503,
                "pipeline-unavailable",
                "The reply to the first call can't be read at the moment.",
                headers=[("Retry-After", "10")],
            ) from error
        if stored.problem is not None:
            problem = stored.problem
            raise Refusal(
                stored.status,
                problem.code,
                problem.detail,
                title=problem.title,
                headers=[*stored.headers, REPLAYED_HEADER],
                extra=problem.extra,
            )
        header_fields(stored.headers)  # an earlier release may have stored it without validation
        return stored.status, [*stored.headers, REPLAYED_HEADER], stored.body

    def _encrypted(self, answer: Answer | PipelineError) -> bytes:
        if isinstance(answer, PipelineError):
            stored = _StoredReply(
                answer.status,
                list(answer.headers),
                b"",
                _StoredProblem(answer.code, answer.detail, answer.title, to_plain(answer.extra)),
            )
        else:
            stored = _StoredReply(answer[0], list(answer[1]), answer[2])
        return self._box.encrypt(msgspec.msgpack.encode(stored))


class _StoredProblem(msgspec.Struct):
    code: str
    detail: str
    title: str
    extra: dict[str, object]


class _StoredReply(msgspec.Struct):
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    problem: _StoredProblem | None = None
