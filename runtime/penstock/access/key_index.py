"""The API keys of an environment in memory.

A million of them in less than 200 MB, that processes which were forked can share.
"""

from __future__ import annotations

from collections.abc import Collection
from struct import Struct

from penstock.contracts.access import ApiKey

AT_HAND = 10_000  # keys that are kept as they are asked for
# Of a Bloom filter of the ids that have been put in: three bits each, wrong for one new id in 1,400
# at a million.
SEEN_MASK = (1 << 25) - 1
# Flags of a packed key; SHORT: its id is an ordinary one, and is packed as its six bytes;
# ENDS: it has an end.
USABLE, SHORT, ENDS = 1, 2, 4
PREFIX, ORDINARY = "key_", 16  # how an ordinary id begins, and its length

# Flags and consumer, then the end of those that have one; the id follows.
_HEAD, _END = Struct("<BQ"), Struct("<d")


class Keys:
    """Finds keys by their digest. One thread changes it, others read meanwhile."""

    def __init__(self) -> None:
        # The garbage collector does not track bytes, so forked processes share their memory.
        self._packed: dict[bytes, bytes] = {}
        self._at_hand: dict[bytes, ApiKey] = {}
        self._seen = bytearray((SEEN_MASK + 1) // 8)

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
        flags, consumer_id = _HEAD.unpack_from(packed)
        expires_at = _END.unpack_from(packed, _HEAD.size)[0] if flags & ENDS else None
        key = ApiKey(_id_of(packed), consumer_id, expires_at, bool(flags & USABLE))
        if len(self._at_hand) >= AT_HAND:
            self._at_hand = {}
        at_hand = self._at_hand
        at_hand[digest] = key
        # It changed meanwhile: who changed it may have looked before it was here.
        if self._packed.get(digest) is not packed:
            at_hand.pop(digest, None)
        return key

    def put(
        self,
        digest: bytes,
        key_id: str,
        consumer_id: int,
        expires_at: float | None,
        *,
        usable: bool,
    ) -> None:
        """Keep a key, in place of what was known of it."""
        name, flags = _named(key_id)
        end = b"" if expires_at is None else _END.pack(expires_at)
        self._packed[digest] = (
            _HEAD.pack(flags | usable | (ENDS if end else 0), consumer_id) + end + name
        )
        seen, number = self._seen, hash(key_id)
        seen[(number & SEEN_MASK) >> 3] |= 1 << (number & 7)
        number >>= 20
        seen[(number & SEEN_MASK) >> 3] |= 1 << (number & 7)
        number >>= 19
        seen[(number & SEEN_MASK) >> 3] |= 1 << (number & 7)
        if self._at_hand:
            self._at_hand.pop(digest, None)

    def drop(self, digest: bytes) -> None:
        """Forget a key."""
        self._packed.pop(digest, None)
        self._at_hand.pop(digest, None)

    def moved(self, key_id: str, digest: bytes) -> bool:
        """Return whether a key of that id may be here under another digest.

        Only a look at all keys would tell for sure.
        """
        packed = self._packed.get(digest)
        if packed is not None and _id_of(packed) == key_id:
            return False
        number = hash(key_id)
        return all(
            self._seen[(part & SEEN_MASK) >> 3] & 1 << (part & 7)
            for part in (number, number >> 20, number >> 39)
        )

    def forget(self, ids: Collection[str]) -> None:
        """Forget keys by their ids. It looks at all keys, a tenth of a second for a million.

        A process that looks at them no longer shares their memory with those that it was forked
        with, for Python counts references in them.
        """
        if not ids:
            return
        for digest in [digest for digest, packed in self._packed.items() if _id_of(packed) in ids]:
            self.drop(digest)


def _named(key_id: str) -> tuple[bytes, int]:
    """Return an id as it is packed, and the flag that says how."""
    if len(key_id) == ORDINARY and key_id.startswith(PREFIX):
        try:
            short = bytes.fromhex(key_id[len(PREFIX) :])
        except ValueError:
            return key_id.encode(), 0
        if PREFIX + short.hex() == key_id:
            return short, SHORT
    return key_id.encode(), 0


def _id_of(packed: bytes) -> str:
    name = packed[_HEAD.size + (_END.size if packed[0] & ENDS else 0) :]
    return PREFIX + name.hex() if packed[0] & SHORT else name.decode()
