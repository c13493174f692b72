"""Encrypt what is secret at rest (Fernet), with keys that rotate."""

from __future__ import annotations

import base64
import binascii
import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from penstock.db.sqlite import sqlite_file
from penstock.errors import CannotStart
from penstock.settings import Settings

HOW = "make one with `penstock secret-key` and set PENSTOCK_SECRET_KEY or PENSTOCK_SECRET_KEY_FILE"


class UnknownKey(CannotStart):
    """Something stored was encrypted with a key that this process does not have.

    The text says when, and which keys there are.
    """


class SecretBox:
    """Seals and opens secrets; the newest key seals, any opens."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        try:
            self._newest, *self._older = [Fernet(key) for key in keys]
        except ValueError:
            raise CannotStart(
                f"PENSTOCK_SECRET_KEY holds a key that is no Fernet key; {HOW}"
            ) from None
        self._fernet = MultiFernet([self._newest, *self._older])
        self._keys = keys

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """What each of our keys may be called in a log, newest first.

        Eight digits that say nothing of the key.
        """
        return tuple(key[:8] for key in self.derived("fingerprint"))

    def encrypt(self, secret: bytes) -> bytes:
        """Encrypt."""
        return self._fernet.encrypt(secret)

    def decrypt(self, sealed: bytes) -> bytes:
        """Decrypt; raise UnknownKey if none of our keys sealed it."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            when = _moment_of(sealed)
            raise UnknownKey(
                f"what is stored was encrypted {f'at {when} ' if when else ''}with another"
                f" PENSTOCK_SECRET_KEY than those of this process ({', '.join(self.fingerprints)});"
                " add that key to the list"
            ) from None

    def renewed(self, sealed: bytes) -> bytes | None:
        """Return the same secret, encrypted with the newest key; None where it is that already.

        Raises UnknownKey.

        What is encrypted does not name its key: whether the newest one opens it is the only way to
        know.
        """
        try:
            self._newest.decrypt(sealed)
        except InvalidToken:
            return self._newest.encrypt(self.decrypt(sealed))
        return None

    def derived(self, purpose: str) -> list[str]:
        """Return keys of their own for a purpose, one from each of our keys, newest first."""
        return [
            HKDF(SHA256(), 32, salt=None, info=f"penstock {purpose}".encode())
            .derive(key.encode())
            .hex()
            for key in self._keys
        ]


def _moment_of(sealed: bytes) -> str:
    """Return when something was encrypted, which a Fernet token says in the clear.

    Empty text where it is no such token.
    """
    try:
        head = base64.urlsafe_b64decode(sealed[:12])
        return f"{datetime.fromtimestamp(int.from_bytes(head[1:9]), UTC):%Y-%m-%d %H:%M:%SZ}"
    except (binascii.Error, ValueError, OverflowError, OSError):
        return ""


def make_secret_key() -> str:
    """Make a key for PENSTOCK_SECRET_KEY."""
    return Fernet.generate_key().decode("ascii")


def load_secret_box(settings: Settings) -> SecretBox:
    """Return the box of this process.

    On SQLite a key is made at first use, in a 0600 file beside the database.

    Raises CannotStart where there is no key and none may be made.
    """
    if settings.secret_keys:
        return SecretBox(settings.secret_keys)
    database = sqlite_file(settings.database_url)
    if database is None:
        raise CannotStart(f"PENSTOCK_SECRET_KEY is not set; {HOW}")
    path = database.with_name(database.name + ".key")
    try:
        key = path.read_text(encoding="ascii").strip() or _make(path)
    except FileNotFoundError:
        key = _make(path)
    except OSError as error:
        raise CannotStart(f"can't read {path}: {error.strerror}") from None
    return SecretBox((key,))


def _make(path: Path) -> str:
    """Write a new key whole or not at all; the first of several processes wins."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(make_secret_key())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise CannotStart(f"can't write {path}: {error.strerror}; {HOW}") from None
