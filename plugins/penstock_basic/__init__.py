"""The Basic authenticator (RFC 7617): user and password of a consumer, stored as argon2id hash."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from hashlib import sha256

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from penstock import (
    AccessView,
    Authenticator,
    Caller,
    CredentialRejected,
    PipelineError,
    PluginSetup,
    RequestHead,
    hookimpl,
)

MIN_PASSWORD_LENGTH = 12
MAX_CREDENTIAL_LENGTH = 1024
MAX_PASSWORD_LENGTH = MAX_CREDENTIAL_LENGTH // 2
MAX_CACHED = 1024
MAX_WAIT_S = 0.5  # of a call for its turn to hash
# A hash takes tens of milliseconds of a core and tens of megabytes; guessing must not use up both.
MAX_HASHES_AT_ONCE = 2
# Hashed for an unknown user, so that it costs as much time as a wrong password.
UNKNOWN_USER_HASH = (
    "$argon2id$v=19$m=65536,t=3,p=4$uHTSQXSWywBzep3VSFaCAg"
    "$Z3M4ks3w0hNXS1jQnopYEqp5OvfkJaqB8q0JBf5w5zw"
)


class Basic(Authenticator):
    """Accepts a user and a password.

    A password that was right is not hashed again while its stored hash stays the same.
    """

    name = "basic"
    noun = "user and password"
    refusal = "invalid-login"
    challenge = "Basic"
    guessable = True
    credential_headers = ("Authorization",)

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._hashing = threading.BoundedSemaphore(MAX_HASHES_AT_ONCE)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, head: RequestHead, access: AccessView) -> str | None:  # noqa: ARG002  the same in every environment
        """Return the part after the scheme; None for any other scheme."""
        sent = head.authorization
        return sent[1] if sent is not None and sent[0] == "basic" else None

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return the consumer of the user. Raises CredentialRejected."""
        if len(credential) > MAX_CREDENTIAL_LENGTH:
            raise CredentialRejected("too long")
        try:
            user, colon, password = (
                base64.b64decode(credential, validate=True).decode("utf-8").partition(":")
            )
        except ValueError:  # of both; also for a character outside ASCII
            raise CredentialRejected("not base64 of UTF-8") from None
        if not colon:
            raise CredentialRejected("no colon between user and password")
        stored = access.credentials(self.name).get(user)
        hashed = stored.secret.decode() if stored else UNKNOWN_USER_HASH
        if not self._matches(hashed, password) or stored is None:
            raise CredentialRejected("unknown user or wrong password")
        if stored.expires_at is not None and stored.expires_at <= now:
            raise CredentialRejected(f"{stored.id} has expired")
        consumer = access.consumer(stored.consumer_id)
        if consumer is None or (
            caller.consumer_id is not None and caller.consumer_id != consumer.id
        ):
            raise CredentialRejected(
                f"{stored.id} is not of the consumer that the other credentials prove"
            )
        return caller.replace(consumer=consumer.name, consumer_id=consumer.id)

    def _matches(self, hashed: str, password: str) -> bool:
        digest = sha256(f"{hashed}\0{password}".encode()).digest()
        with self._lock:
            if digest in self._right:
                self._right.move_to_end(digest)
                return True
        if not self._hashing.acquire(timeout=MAX_WAIT_S):
            raise PipelineError(
                503,
                "Busy",
                "Too many passwords are being checked; try again.",
                type="pipeline-busy",
                headers={"Retry-After": "1"},
            )
        try:
            self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False
        finally:
            self._hashing.release()
        with self._lock:
            self._right[digest] = None
            if len(self._right) > MAX_CACHED:
                self._right.popitem(last=False)
        return True

    def enrol(self, name: str, secret: str) -> tuple[str, bytes]:
        """Return the user's name and the password's hash. Raises ValueError."""
        if not name or ":" in name or not name.isprintable():
            raise ValueError("a user's name has no colon and only visible characters (RFC 7617)")
        if not MIN_PASSWORD_LENGTH <= len(secret) <= MAX_PASSWORD_LENGTH:
            raise ValueError(
                f"a password has at least {MIN_PASSWORD_LENGTH} characters, and at most"
                f" {MAX_PASSWORD_LENGTH}; --generate makes a good one"
            )
        return name, self._hasher.hash(secret).encode()


@hookimpl
def penstock_authenticators(
    setup: PluginSetup,  # noqa: ARG001  the hook's argument
) -> list[Authenticator]:
    """Offer the Basic authenticator."""
    return [Basic()]
