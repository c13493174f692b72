"""The search for a text in the audit log reads a part of it at a time, and finds all by pages."""

from __future__ import annotations

import pytest
from support.place import Place

from penstock import audit
from penstock.access import api_keys


def test_a_page_searches_a_bounded_part(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_SEARCHED", 3)
    for number in range(9):
        name = f"Needle{number}" if number in {0, 7} else f"hay{number}"
        audit.record(place.engine, "ann", audit.Action.CONSUMER_CREATED, name, {})
    reads, found, before = 0, list[str](), None
    while True:
        events, before = audit.page_of_events(place.engine, limit=5, before=before, text="needle")
        reads, found = reads + 1, [*found, *(event.subject for event in events)]
        if before is None:
            break
    everything, more = audit.page_of_events(place.engine, limit=50)

    assert found == ["Needle7", "Needle0"]
    assert reads >= 3
    assert (len(everything) >= 9, more) == (True, None)


def test_events_of_keys_carry_environment_and_consumer(place: Place) -> None:
    place.consumer("acme")
    key = place.key("acme").id
    api_keys.set_key_enabled(place.engine, "ann", key, enabled=False)
    api_keys.revoke_key(place.engine, "ann", key)
    revoked, disabled = audit.events(place.engine, limit=2, environment="test")

    assert revoked.act == f"revoked the key {key} of acme in test"
    assert disabled.act == f"disabled the key {key} of acme in test"
