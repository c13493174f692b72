"""The API keys in memory: packed, and as they were put in."""

from __future__ import annotations

import tracemalloc
from hashlib import sha256
from typing import Any

import pytest

from penstock.access import key_index as keys_module
from penstock.access.key_index import Keys
from penstock.contracts.access import ApiKey

DIGEST = b"\x01" * 32


def test_a_key_comes_out_as_it_was_put_in() -> None:
    keys = Keys()
    keys.put(DIGEST, "key_7b1ccdd35262", 7, 1_800_000_000.5, usable=True)
    keys.put(b"\x02" * 32, "key_ünusual", 2**40, None, usable=False)

    assert keys.get(DIGEST) == ApiKey("key_7b1ccdd35262", 7, 1_800_000_000.5, usable=True)
    assert keys.get(b"\x02" * 32) == ApiKey("key_ünusual", 2**40, None, usable=False)
    assert keys.get(b"\x03" * 32) is None
    assert len(keys) == 2


@pytest.mark.parametrize(
    "key_id",
    [
        "key_7b1ccdd35262",
        "key_7B1CCDD35262",
        "key_7b 1cdd 3526",
        "key_7b1ccdd3526g",
        "abc_7b1ccdd35262",
        "key_",
        "",
    ],
)
def test_an_id_comes_out_as_it_was_put_in_however_it_is_packed(key_id: str) -> None:
    keys = Keys()
    keys.put(DIGEST, key_id, 7, None, usable=True)

    assert keys.get(DIGEST) == ApiKey(key_id, 7, None, usable=True)


def test_a_key_that_has_another_digest_is_known_again_by_its_id() -> None:
    keys = Keys()
    for number in range(100):
        keys.put(number.to_bytes(32), f"key_{number:012x}", number, None, usable=True)
    moved = f"key_{7:012x}"

    assert keys.moved(moved, b"\xff" * 32)
    assert not keys.moved(moved, (7).to_bytes(32))
    keys.forget({moved})
    assert (keys.get((7).to_bytes(32)), len(keys)) == (None, 99)


def test_no_other_key_is_looked_at_where_none_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at all of them would end what processes share: a million keys would be there once
    in each."""
    keys = Keys()
    for number in range(20_000):
        keys.put(number.to_bytes(32), f"key_{number:012x}", 1, None, usable=True)

    class Untouched(dict[bytes, bytes]):
        def items(self) -> Any:
            raise AssertionError("all keys were looked at")

    monkeypatch.setattr(keys, "_packed", Untouched(keys._packed))  # noqa: SLF001
    new = [f"key_{number:012x}" for number in range(1_000_000, 1_010_000)]
    moved = {key_id for key_id in new if keys.moved(key_id, b"\xff" * 32)}
    keys.forget(set())

    assert len(moved) < 10


def test_what_changes_is_seen_at_once_also_where_it_was_asked_for_before() -> None:
    keys = Keys()
    keys.put(DIGEST, "key_1", 1, None, usable=True)
    seen = [keys.get(DIGEST)]
    keys.put(DIGEST, "key_1", 1, None, usable=False)
    seen.append(keys.get(DIGEST))
    keys.drop(DIGEST)
    seen.append(keys.get(DIGEST))

    assert [key.usable if key else None for key in seen] == [True, False, None]


def test_more_keys_than_are_kept_at_hand_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "AT_HAND", 10)
    keys = Keys()
    for number in range(100):
        keys.put(number.to_bytes(32), f"key_{number}", number, None, usable=True)

    for _ in range(2):
        stored_keys = [keys.get(number.to_bytes(32)) for number in range(100)]
        assert [key.consumer_id for key in stored_keys if key] == list(range(100))


def test_a_key_takes_little_memory() -> None:
    keys = Keys()
    tracemalloc.start()
    for number in range(10_000):
        keys.put(
            sha256(str(number).encode()).digest(), f"key_{number:012x}", number, None, usable=True
        )
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert taken / 10_000 < 250
