"""Passwords of the console's users, as argon2id hashes."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from penstock.errors import UsageError

MIN_LENGTH, MAX_LENGTH = 12, 1024  # characters
MIN_DISTINCT = 5  # characters
MIN_NAME = 3  # characters of a name that a password may not contain
# A hash takes tens of milliseconds of a core and tens of megabytes: guessing must not use all of
# them.
MAX_PARALLEL_HASHES = 2
# An unknown user takes as much time as a wrong password.
HASH_OF_UNKNOWN = (
    "$argon2id$v=19$m=65536,t=3,p=4$uHTSQXSWywBzep3VSFaCAg"
    "$Z3M4ks3w0hNXS1jQnopYEqp5OvfkJaqB8q0JBf5w5zw"
)

_hasher = PasswordHasher()
_hashing = threading.BoundedSemaphore(MAX_PARALLEL_HASHES)


def generate_password(name: str) -> str:
    """Return a random password for the user of a name, that `hash_password` accepts."""
    password = secrets.token_urlsafe(18)
    while _holds(password, name) or len(set(password)) < MIN_DISTINCT:
        password = secrets.token_urlsafe(18)
    return password


def _holds(password: str, name: str) -> bool:
    """Return whether a password contains the name; a short name occurs by chance."""
    return len(name) >= MIN_NAME and name.lower() in password.lower()


def hash_password(name: str, password: str) -> str:
    """Return the hash of a password. Raises UsageError where it is easy to guess.

    `name` is the user's, in lower case.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise UsageError(
            f"a password has at least {MIN_LENGTH} characters and at most {MAX_LENGTH}"
        )
    if _holds(password, name) or len(set(password)) < MIN_DISTINCT:
        raise UsageError("a password must not hold the user's name, nor repeat a few characters")
    with _hashing:
        return _hasher.hash(password)


def verify_password(hashed: str | None, password: str) -> bool:
    """Return whether a password has a hash; False, after the same time, where there is none."""
    with suppress(VerificationError, InvalidHashError), _hashing:
        right = _hasher.verify(hashed or HASH_OF_UNKNOWN, password[: MAX_LENGTH + 1])
        return right and bool(hashed)
    return False
