"""A call as it was, or as it could be: what it presents at a gate, without any credential.

An explanation must be decided by the gate's own rules, without the caller's credentials. So
a call under examination carries a key that was just drawn, and `SupposedAccess` finds the stored
key in its place. Its token is signed with a key that only such access data knows: it is worth
nothing at a gate that answers calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from penstock.access.snapshot import Snapshot
from penstock.contracts.access import ApiKey, Consumer, SigningKey
from penstock.contracts.networks import Networks

SIGNING_KEY = SigningKey("examined", "HS256", b"", secrets.token_bytes(32))
ANY_CONSUMER = Consumer(-1, "(any consumer with access)", enabled=True)


class Token(StrEnum):
    """The token that a call presents."""

    NONE = "none"
    VALID = "valid"
    INVALID = "invalid"
    OTHER = "other"  # of another consumer


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A stored API key that a call presents, named by its last characters.

    `state` is usable, disabled, expired, revoked or unknown. An unknown key has no digest.
    """

    id: str
    consumer: str
    environment: str
    shown_as: str
    state: str
    digest: bytes = field(default=b"", repr=False)


UNKNOWN_KEY = PresentedKey("", "", "", "a key that is not stored", "unknown")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call to a pipeline, by its id, as one consumer.

    Without `consumer` it is that of a caller who is not known. An empty `address` is one that all
    networks allow. `others` are further kinds of credentials that it presents, all valid.
    """

    pipeline: str
    consumer: str | None = None
    key: PresentedKey | None = None
    token: Token = Token.NONE
    scopes: frozenset[str] = frozenset()
    address: str = ""
    others: frozenset[str] = frozenset()
    internal: bool = False


class SupposedAccess(Snapshot):
    """Access data with supposed changes. It belongs to one thread, and is not refreshed."""

    def __init__(self, base: Snapshot) -> None:
        # The parts are shared with the base and never changed in place.
        self.__dict__.update(vars(base))
        self._presented: dict[bytes, bytes] = {}
        self._supposed_keys: dict[bytes, ApiKey] = {}
        self._supposed_consumers: dict[int, Consumer] = {}
        self._granted: set[tuple[int, str]] = set()

    def key(self, digest: bytes) -> ApiKey | None:
        """Return the API key that is presented under a digest."""
        supposed = self._supposed_keys.get(digest)
        return supposed or super().key(self._presented.get(digest, digest))

    def consumer(self, consumer_id: int) -> Consumer | None:
        """Return a consumer by its id."""
        return self._supposed_consumers.get(consumer_id) or super().consumer(consumer_id)

    def associated(self, consumer_id: int, pipeline: str) -> bool:
        """Return whether a consumer has access to a pipeline."""
        return (consumer_id, pipeline) in self._granted or super().associated(consumer_id, pipeline)

    def signing_keys(self) -> Mapping[str, SigningKey]:
        """Return the key of examined tokens."""
        return {SIGNING_KEY.kid: SIGNING_KEY}

    def present(self, digest: bytes, key: PresentedKey, *, usable: bool) -> None:
        """Find a stored key under another digest. With `usable`, it is enabled."""
        self._presented[digest] = key.digest
        stored = super().key(key.digest)
        if usable and stored is not None:
            self._supposed_keys[digest] = replace(stored, usable=True)

    def present_new(self, digest: bytes, consumer: Consumer) -> None:
        """Find a new key of a consumer under a digest."""
        self._supposed_keys[digest] = ApiKey("key_new", consumer.id, None, usable=True)

    def grant(self, consumer: Consumer, pipeline: str) -> None:
        """Grant a consumer access to a pipeline."""
        self._granted.add((consumer.id, pipeline))

    def suppose_consumer(self, consumer: Consumer) -> None:
        """Replace a consumer, or add one."""
        self._supposed_consumers[consumer.id] = consumer

    def suppose_networks(self, consumer: Consumer, networks: Networks) -> None:
        """Replace the networks from which a consumer may call."""
        self.networks = {**self.networks, consumer.id: networks}

    def decide(self, pipeline: str, *, enabled: bool = False, login_flow: bool = False) -> None:
        """Enable a pipeline, or designate it as a login flow."""
        state = self.pipeline(pipeline)
        self.pipelines = {
            **self.pipelines,
            pipeline: replace(
                state,
                enabled=state.enabled or enabled,
                login_flow=state.login_flow or login_flow,
            ),
        }
