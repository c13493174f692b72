"""Encrypt what is secret at rest (Fernet), with keys that rotate."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from penstock.db.engine import sqlite_file
from penstock.errors import CannotStart
from penstock.settings import Settings

HOW = "make one with `penstock secret-key` and set PENSTOCK_SECRET_KEY or PENSTOCK_SECRET_KEY_FILE"


class Box:
    """Seals and opens secrets; the newest key seals, any opens."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise CannotStart(f"PENSTOCK_SECRET_KEY holds a key that is no Fernet key; {HOW}") from None
        self._keys = keys

    def seal(self, secret: bytes) -> bytes:
        """Encrypt."""
        return self._fernet.encrypt(secret)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt; raise CannotStart if none of our keys sealed it."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise CannotStart("a stored secret was sealed with another PENSTOCK_SECRET_KEY; add that key to the list") from None

    def derived(self, purpose: str) -> list[str]:
        """Return keys of their own for a purpose, one from each of our keys, newest first."""
        return [HKDF(SHA256(), 32, salt=None, info=f"penstock {purpose}".encode()).derive(key.encode()).hex() for key in self._keys]


def make_secret_key() -> str:
    """Make a key for PENSTOCK_SECRET_KEY."""
    return Fernet.generate_key().decode("ascii")


def open_box(settings: Settings) -> Box:
    """Return the box of this process. On SQLite a key is made at first use, in a 0600 file beside the database.

    Raises CannotStart where there is no key and none may be made.
    """
    if settings.secret_keys:
        return Box(settings.secret_keys)
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
    return Box((key,))


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
