"""A snapshot of some consumers: what is served, and what those may call, without all others."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from support.place import Place

from penstock.access import limits, signing_keys
from penstock.access.lookup import consumer_row
from penstock.access.snapshot import Snapshot
from penstock.contracts.keys import digest_of
from penstock.contracts.rates import Rate
from penstock.db import unit_of_work
from penstock.db.engine import reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName


def snapshot_of(place: Place, consumers: Collection[str] | None) -> Snapshot:
    access = Snapshot("test", place.box, consumers=consumers)
    access.read(place.engine)
    return access


def test_a_snapshot_without_consumers_has_what_decides_about_pipelines(place: Place) -> None:
    place.consumer("acme", "orders")
    key = place.key("acme")
    place.enable("orders", enabled=False)
    limits.set_networks(place.engine, "tester", "acme", "test", ["192.0.2.0/24"], allowed=True)

    access = snapshot_of(place, ())

    assert not access.pipeline("v1/orders").enabled
    assert access.environment.name == "test"
    assert access.consumer_named("acme") is None
    assert access.key(digest_of(key.key)) is None
    assert access.networks == {}
    assert snapshot_of(place, None).key(digest_of(key.key)) is not None


def test_a_snapshot_of_one_consumer_decides_as_that_of_all(place: Place) -> None:
    for name in ("acme", "globex"):
        place.consumer(name, "orders")
    keys = {name: digest_of(place.key(name).key) for name in ("acme", "globex")}
    limits.set_limit(
        place.engine, "tester", "acme", "test", Rate("5/minute", by="consumer"), offered={}
    )
    limits.set_networks(place.engine, "tester", "acme", "test", ["192.0.2.0/24"], allowed=True)
    signing_keys.revoke_tokens(place.engine, "tester", "test", consumer="acme")
    signing_keys.revoke_tokens(place.engine, "tester", "test", consumer="globex")

    access, whole = snapshot_of(place, ["acme"]), snapshot_of(place, None)

    acme = access.consumer_named("acme")
    assert acme is not None
    assert access.key(keys["acme"]) == whole.key(keys["acme"])
    assert access.key(keys["globex"]) is None
    assert access.consumer_named("globex") is None
    assert access.associated(acme.id, "v1/orders")
    assert access.limits == whole.limits
    assert access.networks == whole.networks
    assert access.token_revoked("a", "acme", 0.0)
    assert not access.token_revoked("a", "globex", 0.0)


def test_a_snapshot_of_some_consumers_follows_what_changes(place: Place) -> None:
    access = snapshot_of(place, ["acme"])

    for name in ("acme", "globex"):
        place.consumer(name, "orders")
    key = place.key("acme")
    access.read(place.engine)

    assert access.key(digest_of(key.key)) is not None
    assert access.consumer_named("globex") is None


def test_the_nearest_of_many_names_is_found_without_reading_all(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        place.consumer(f"acme-{number}")
    monkeypatch.setattr(unit_of_work, "MAX_NEAR", 4)

    with reading(place.engine) as connection, pytest.raises(UnknownName, match="'acme-4'"):
        consumer_row(RowReader(connection), "acme-4x")
