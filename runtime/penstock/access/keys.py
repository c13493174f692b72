"""The API keys of an environment in memory: a million of them in less than 200 MB, that processes which were forked can share."""

from __future__ import annotations

import math
from struct import Struct

from penstock.contracts.access import ApiKey

AT_HAND = 10_000  # keys that are kept as they are asked for

_HEAD = Struct("<Qd?")  # consumer, end, whether it can be used; the id follows


class Keys:
    """Finds keys by their digest. One thread changes it, others read meanwhile."""

    def __init__(self) -> None:
        self._packed: dict[bytes, bytes] = {}  # the garbage collector has nothing to do with bytes: forks go on sharing them
        self._at_hand: dict[bytes, ApiKey] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._packed)

    def get(self, digest: bytes) -> ApiKey | None:
        """Return the key with that SHA-256 digest."""
        key = self._at_hand.get(digest)
        if key is not None:
            return key
        packed = self._packed.get(digest)
        if packed is None:
            return None
        consumer_id, expires, usable = _HEAD.unpack_from(packed)
        key = ApiKey(packed[_HEAD.size :].decode(), consumer_id, None if expires == math.inf else expires, usable)
        if len(self._at_hand) >= AT_HAND:
            self._at_hand = {}
        at_hand = self._at_hand
        at_hand[digest] = key
        if self._packed.get(digest) is not packed:  # it changed meanwhile: who changed it may have looked before it was here
            at_hand.pop(digest, None)
        return key

    def put(self, digest: bytes, key_id: str, consumer_id: int, expires_at: float | None, *, usable: bool) -> None:
        """Keep a key, in place of what was known of it."""
        self._packed[digest] = _HEAD.pack(consumer_id, math.inf if expires_at is None else expires_at, usable) + key_id.encode()
        if self._at_hand:
            self._at_hand.pop(digest, None)

    def drop(self, digest: bytes) -> None:
        """Forget a key."""
        self._packed.pop(digest, None)
        self._at_hand.pop(digest, None)
