"""The queries of pages, on both databases: paged by key, so that new rows move nothing."""

from __future__ import annotations

from support.place import Place

from penstock import audit
from penstock.access import callbacks, limits
from penstock.contracts.rates import Rate


def test_limits_are_paged_by_consumer(place: Place) -> None:
    for name in ("globex", "acme", "Zeta"):
        place.consumer(name)
        for rate in ("3/hour", "1/second", "2/minute"):
            limits.set_limit(place.engine, "tester", name, "test", Rate(rate))
        limits.set_limit(place.engine, "tester", name, "prod", Rate("9/day"))
        limits.set_networks(
            place.engine, "tester", name, "test", ["192.0.2.0/24", "198.51.100.7"], allowed=True
        )
        callbacks.allow_callbacks(
            place.engine, "tester", name, "test", "https://hooks.example/", place.box, private=False
        )
    whole = [row.id for row in limits.list_limits(place.engine, environment="test")]
    read, after = list[object](), None
    while rows := limits.list_limits(place.engine, environment="test", after=after, limit=2):
        read += [row.id for row in rows]
        after = rows[-1].id
        limits.set_limit(
            place.engine, "tester", "Zeta", "prod", Rate(f"{len(read) + 8}/{len(read) + 1} days")
        )
    networks = limits.list_networks(place.engine, environment="test", after=None, limit=3)
    rest = limits.list_networks(place.engine, environment="test", after=networks[-1].id, limit=9)
    targets = callbacks.list_callbacks(place.engine, environment="test", limit=2)

    assert read == whole
    assert len(whole) == 9
    names = [row.consumer for row in networks + rest]
    assert names == [name for name in dict.fromkeys(names) for _ in range(2)]
    assert len({(row.consumer, row.network) for row in networks + rest}) == 6
    assert len(targets) == 2


def test_the_audit_log_is_filtered_and_paged(place: Place) -> None:
    for name in ("acme", "globex", "a_c.e"):
        place.consumer(name, "orders")
    limits.set_limit(place.engine, "olga", "acme", "prod", Rate("1/second"))

    def actions(**filters: object) -> list[str]:
        return [event.action for event in audit.events(place.engine, limit=50, **filters)]  # type: ignore[arg-type]  # the trail's own

    assert actions(actor="olga") == ["limit:set"]
    assert (
        actions(subject="a_c.e")
        == actions(subject="acme", actor="tester")
        == ["consumer:associated", "consumer:created"]
    )
    assert actions(action="consumer", environment="test") == ["consumer:associated"] * 3
    newest = audit.events(place.engine, limit=3)
    assert [event.id for event in audit.events(place.engine, limit=3, before=newest[-1].id)] == [
        newest[-1].id - number for number in (1, 2, 3)
    ]
    assert len(list(audit.every_event(place.engine))) == newest[0].id
