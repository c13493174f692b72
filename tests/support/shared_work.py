"""Work that a test process does once, not in each test.

Almost every test makes a database, and with it an engine whose cache of compiled statements is
empty: that was a quarter of the CPU time of all tests. Each `httpx.get` reads all certificates
that the machine trusts, which takes longer than most of the calls. And a hash of a password takes a
tenth of a second, as it has to.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import httpx._transports.default
from argon2 import PasswordHasher
from sqlalchemy.engine import Engine

from penstock.access import passwords

Key = tuple[Any, ...]


class SharedStatements(dict[Key, Any]):
    """Compiled statements by the name of their dialect, in place of the dialect of one engine."""

    def get(self, key: Key, default: Any = None) -> Any:
        return super().get(_by_name(key), default)

    def __setitem__(self, key: Key, compiled: Any) -> None:
        super().__setitem__(_by_name(key), compiled)


def _by_name(key: Key) -> Key:
    return (key[0].name, key[0].driver, *key[1:])


def share_compiled_statements() -> None:
    """Give all engines of this process one cache, in place of the one that each makes."""
    shared = SharedStatements()
    # There is no hook for it: `Engine.__init__` sets this attribute, and its value is dropped here.
    Engine._compiled_cache = property(lambda _: shared, lambda _, __: None)  # type: ignore[assignment]  # noqa: SLF001


def share_trusted_certificates() -> None:
    """Give all clients of this process with the same options one TLS context."""
    default = httpx._transports.default  # noqa: SLF001  httpx has no hook for it
    default.create_ssl_context = cache(default.create_ssl_context)


def hash_passwords_quickly() -> None:
    """Let hashes of passwords cost little; those of commands and servers stay as they are."""
    passwords._hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)  # noqa: SLF001  no setting may weaken it
