"""Commands that change several keys: by ids at once, by filters only with --yes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.commands import run
from support.place import Place

from penstock import audit
from penstock.access import api_keys, key_changes
from penstock.access.key_changes import KeyAct, change_keys
from penstock.errors import UnknownName


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    """Three keys of acme, one of which ends in three days, and one of globex."""
    for name in ("acme", "globex"):
        sqlite_place.consumer(name)
    for days in (3, 100, None):
        expires = timedelta(days=days) if days else None
        api_keys.create_key(sqlite_place.engine, "ann", "acme", "test", expires=expires)
    api_keys.create_key(sqlite_place.engine, "ann", "globex", "prod")
    return sqlite_place


def ids(place: Place) -> list[str]:
    return [key.id for key in api_keys.list_keys(place.engine)]


def states(place: Place) -> list[str]:
    return [key.state for key in api_keys.list_keys(place.engine)]


def days_left(place: Place) -> list[int | None]:
    now = datetime.now(UTC)
    return [
        round((key.expires_at - now).total_seconds() / 86_400) if key.expires_at else None
        for key in api_keys.list_keys(place.engine)
    ]


def test_keys_are_revoked_by_their_ids_in_one_transaction(place: Place) -> None:
    first, second, *_ = ids(place)
    before = place.snapshot().revision

    done = run(place, "key", "revoke", first, second)

    assert done.stdout == f"key {first} revoked\nkey {second} revoked\n"
    assert states(place) == ["revoked", "revoked", "usable", "usable"]
    assert place.snapshot().revision == before + 1
    events = audit.events(place.engine, limit=2)
    assert {event.subject for event in events} == {first, second}
    assert {(event.action, event.detail["consumer"]) for event in events} == {
        ("key:revoked", "acme")
    }


def test_filters_list_the_keys_and_change_them_only_with_yes(place: Place) -> None:
    words = ("key", "disable", "--never-used", "--consumer", "acme")

    dry = run(place, *words)
    assert dry.stdout.count("pk_test_") == 3
    assert dry.stderr == "3 keys; repeat with --yes to disable them\n"
    assert states(place) == ["usable"] * 4

    assert run(place, *words, "--yes").code == 0
    assert states(place) == ["disabled"] * 3 + ["usable"]
    assert run(place, *words, "--yes").stdout == "no keys to disable\n"


def test_expire_only_shortens_and_extend_only_prolongs(place: Place) -> None:
    run(place, "key", "expire", *ids(place), "--in", "30d")
    assert days_left(place) == [3, 30, 30, 30]

    done = run(place, "key", "extend", *ids(place)[:2], "--in", "10d")
    assert days_left(place) == [10, 30, 30, 30]
    assert done.stdout.splitlines()[1] == f"key {ids(place)[1]} left as it is"
    event = audit.events(place.engine, limit=1)[0]
    assert event.act.startswith(f"changed the expiry of the key {ids(place)[0]} in test from ")


def test_an_unknown_id_changes_no_key(place: Place) -> None:
    done = run(place, "key", "revoke", ids(place)[0], "key_unknown")

    assert (done.code, "key_unknown" in done.stderr) == (2, True)
    assert states(place) == ["usable"] * 4
    with pytest.raises(UnknownName):
        change_keys(place.engine, "ann", ["key_unknown"], KeyAct.DISABLE)


@pytest.mark.parametrize("words", [(), ("key_a", "--never-used")])
def test_ids_or_filters_are_needed(place: Place, words: tuple[str, ...]) -> None:
    done = run(place, "key", "revoke", *words)

    assert (done.code, "name the keys to revoke, or give filters" in done.stderr) == (2, True)


def test_one_change_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_changes, "MAX_KEYS", 2)

    by_ids = run(place, "key", "revoke", *ids(place))
    by_filter = run(place, "key", "revoke", "--never-used", "--yes")

    for done in (by_ids, by_filter):
        assert (done.code, "one change has at most 2 keys" in done.stderr) == (2, True)
    assert states(place) == ["usable"] * 4
