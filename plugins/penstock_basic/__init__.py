"""The Basic authenticator (RFC 7617): user and password of a consumer, kept as an argon2id hash."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from dataclasses import replace
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

SHORTEST = 12
LONGEST = 1024
CACHED = 1024
PATIENCE = 0.5  # seconds that a call waits for its turn
# Each takes tens of milliseconds of a core and tens of megabytes: guessing must not take them all.
AT_ONCE = 2
# An unknown user costs as much time as a wrong password.
NOBODY = (
    "$argon2id$v=19$m=65536,t=3,p=4$uHTSQXSWywBzep3VSFaCAg"
    "$Z3M4ks3w0hNXS1jQnopYEqp5OvfkJaqB8q0JBf5w5zw"
)


class Basic(Authenticator):
    """Takes a user and a password.

    A password that was right is not hashed again, for as long as its hash stays the same.
    """

    name = "basic"
    noun = "user and password"
    refusal = "invalid-login"
    challenge = "Basic"
    guessable = True
    credential_headers = ("Authorization",)

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._hashing = threading.BoundedSemaphore(AT_ONCE)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, head: RequestHead, access: AccessView) -> str | None:  # noqa: ARG002  the same in every environment
        """Return what comes after the scheme; any other scheme is not ours."""
        sent = head.authorization
        return sent[1] if sent is not None and sent[0] == "basic" else None

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return the consumer whose user that is."""
        if len(credential) > LONGEST:
            raise CredentialRejected("too long")
        try:
            user, colon, password = (
                base64.b64decode(credential, validate=True).decode("utf-8").partition(":")
            )
        except ValueError:  # of either; also for a character that is no ASCII
            raise CredentialRejected("not base64 of UTF-8") from None
        if not colon:
            raise CredentialRejected("no colon between user and password")
        known = access.credentials(self.name).get(user)
        if not self._matches(known.secret.decode() if known else NOBODY, password) or known is None:
            raise CredentialRejected("unknown user or wrong password")
        if known.expires_at is not None and known.expires_at <= now:
            raise CredentialRejected(f"{known.id} has expired")
        consumer = access.consumer(known.consumer_id)
        if consumer is None or (
            caller.consumer_id is not None and caller.consumer_id != consumer.id
        ):
            raise CredentialRejected(
                f"{known.id} is not of the consumer that the other credentials prove"
            )
        return replace(caller, consumer=consumer.name, consumer_id=consumer.id)

    def _matches(self, hashed: str, password: str) -> bool:
        digest = sha256(f"{hashed}\0{password}".encode()).digest()
        with self._lock:
            if digest in self._right:
                self._right.move_to_end(digest)
                return True
        if not self._hashing.acquire(timeout=PATIENCE):
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
            if len(self._right) > CACHED:
                self._right.popitem(last=False)
        return True

    def enrol(self, name: str, secret: str) -> tuple[str, bytes]:
        """Return the user's name and the password's hash."""
        if not name or ":" in name or not name.isprintable():
            raise ValueError("a user's name has no colon and only visible characters (RFC 7617)")
        if not SHORTEST <= len(secret) <= LONGEST // 2:
            raise ValueError(
                f"a password has at least {SHORTEST} characters, and at most {LONGEST // 2};"
                " --generate makes a good one"
            )
        return name, self._hasher.hash(secret).encode()


@hookimpl
def penstock_authenticators(
    setup: PluginSetup,  # noqa: ARG001  the hook's argument
) -> list[Authenticator]:
    """Offer the Basic authenticator."""
    return [Basic()]
