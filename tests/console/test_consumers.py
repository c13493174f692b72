"""Consumers: made, found, given keys and pipelines, and kept out; what is typed never becomes
markup, and a viewer changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from support.console import Quick
from support.place import Place

from penstock.access import api_keys, consumers
from penstock.contracts.keys import parse_api_key
from penstock.errors import UnknownName

Make = Callable[..., Quick]
EVIL = "<script>window.owned=1</script>\"'><img src=x onerror=window.owned=1>"


def shown_key(text: str) -> str:
    found = re.search(r"pk_[a-z]+_[0-9A-Za-z]{28,}", text)
    assert found is not None
    return found[0]


def row(text: str, name: str) -> list[str]:
    """Return the cells of the row that begins with a link to a consumer."""
    found = re.search(rf'<a href="[^"]*/{re.escape(name)}">.*?</tr>', text, re.DOTALL)
    assert found is not None
    return [
        re.sub(r"<[^>]+>", "", cell).strip()
        for cell in re.findall(r"<td[^>]*>(.*?)</td>", found[0], re.DOTALL)
    ]


def associated(place: Place, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = consumers.show_consumer(place.engine, name)["associations"]  # type: ignore[assignment]  # see there
    return found


def test_without_consumers_the_page_says_what_to_do_next(quick: Make) -> None:
    here = quick()

    assert "Nobody may call yet. Make a consumer" in here.visitor("vic").text("/consumers")
    assert 'href="/-/console/new-consumer"' in here.visitor("oli").text("/consumers")
    assert 'href="/-/console/new-consumer"' not in here.visitor("vic").text("/consumers")


def test_an_operator_makes_a_consumer_and_what_is_wrong_is_said_beside_its_field(
    quick: Make,
) -> None:
    here = quick()
    oli = here.visitor("oli")

    made = oli.post("/new-consumer", name=" acme ", description="The shop")
    assert "acme is made." in oli.text("/consumers/acme")
    again = oli.post("/new-consumer", name="acme", description="Another")
    odd = oli.post("/new-consumer", name="a b", description="kept")

    assert (made.status_code, made.headers["Location"]) == (303, "/-/console/consumers/acme")
    assert (again.status_code, odd.status_code) == (422, 422)
    assert (
        'id="e-name" class="error" role="alert">Consumer &#39;acme&#39; exists already.'
        in again.text
    )
    assert 'value="kept"' in odd.text
    assert oli.post("/new-consumer", name="nul", description="a\0b").status_code == 400
    assert [oli.get(path).status_code for path in ("/consumers/a%00", "/consumers?find=%00")] == [
        400,
        400,
    ]
    assert here.events()[0] == ("oli", "consumer:created", None, "acme")


def test_the_list_counts_pipelines_and_keys_that_work_in_each_environment(quick: Make) -> None:
    here = quick()
    place = here.place
    place.consumer("acme", "orders", "status")
    place.consumer("bolt")
    place.associate("acme", "orders", env="prod")
    place.dissociate("acme", "status")
    for _ in range(3):
        place.key("acme", "prod")
    api_keys.revoke_key(place.engine, "tester", place.key("acme", "prod").id)
    api_keys.set_key_enabled(place.engine, "tester", place.key("acme", "prod").id, enabled=False)
    api_keys.create_key(place.engine, "tester", "acme", "prod", expires=timedelta(seconds=-1))
    consumers.set_consumer_enabled(place.engine, "tester", "bolt", enabled=False)
    text = here.visitor("vic").text("/consumers")

    assert text.index(">prod<") < text.index(">test<")
    assert row(text, "acme")[:5] == ["active", "1", "3", "1", "0"]
    assert row(text, "bolt")[:5] == ["kept out", "0", "0", "0", "0"]


def test_the_list_is_paged_by_name_and_can_be_narrowed_down(quick: Make) -> None:
    here = quick()
    for number in range(53):
        here.place.consumer(f"c{number:02}")
    here.place.consumer("Acme_1")
    vic = here.visitor("vic")

    first = vic.text("/consumers")
    onward = re.search(r'<a href="([^"]+)" rel="next">', first)
    assert onward is not None
    here.place.consumer("B-came-between")  # pages go on where they were, whatever came between
    second = vic.text(onward[1].replace("&amp;", "&").removeprefix("/-/console"))
    found = vic.text("/consumers", find="acME_")

    assert ("c48" in first, "c49" in first, "Acme_1" in first) == (True, False, True)
    assert re.findall(r">(c\d\d)</a>", second) == ["c49", "c50", "c51", "c52"]
    assert 'rel="next"' not in second
    assert re.findall(r'href="/-/console/consumers/([^"]+)"', found) == ["Acme_1"]
    assert "No consumer has “c%” in its name." in vic.text("/consumers", find="c%")


def test_a_key_is_shown_once_and_by_its_ends_from_then_on(quick: Make) -> None:
    here = quick()
    here.place.consumer("acme", "orders")
    oli = here.visitor("oli")

    made = oli.post("/consumers/acme/keys", environment="test", expires="30d", note="for the pilot")
    key = shown_key(made.text)
    page = oli.text("/consumers/acme")
    stored = api_keys.list_keys(here.place.engine, consumer="acme")[0]

    assert made.status_code == 200
    assert made.headers["Cache-Control"] == "no-store"
    assert 'data-copy="#secret"' in made.text
    parsed = parse_api_key(key)
    assert parsed is not None
    known = here.place.snapshot().key(parsed.digest)
    assert known is not None
    assert known.usable
    assert stored["expires_at"] - stored["created_at"] == timedelta(days=30)  # type: ignore[operator]  # moments
    assert key not in page
    assert f"pk_test_…{key[-4:]}" in page
    assert "for the pilot" in page
    assert here.events()[0] == ("oli", "key:created", "test", "acme")
    nonsense = oli.post("/consumers/acme/keys", environment="test", expires="soon", note="kept")
    nowhere = oli.post("/consumers/acme/keys", environment="tset", expires="", note="")
    assert (nonsense.status_code, nowhere.status_code) == (422, 422)
    assert 'id="e-expires"' in nonsense.text
    assert 'value="kept"' in nonsense.text
    assert "did you mean &#39;test&#39;?" in nowhere.text


def test_a_key_is_switched_off_and_on_rotated_and_revoked(quick: Make) -> None:
    here = quick()
    here.place.consumer("acme")
    oli, key = here.visitor("oli"), here.place.key("acme")
    path = f"/consumers/acme/keys/{key.id}"

    def states() -> list[object]:
        return [item["state"] for item in api_keys.list_keys(here.place.engine, consumer="acme")]

    assert oli.post(f"{path}/disable").status_code == 303
    assert states() == ["disabled"]
    assert oli.post(f"{path}/enable").status_code == 303
    assert states() == ["usable"]
    rotated = oli.post(f"{path}/rotate", grace="7d")
    assert shown_key(rotated.text) != key.key
    assert f"The old one, {key.id}, goes on until" in rotated.text
    assert oli.post(f"{path}/rotate", grace="a while").status_code == 422
    assert oli.post(f"{path}/revoke").status_code == 303
    assert states() == ["revoked", "usable"]
    assert "Keys that have ended (1)" in oli.text("/consumers/acme")
    assert f'data-confirm="Revoke pk_test_…{shown_key(rotated.text)[-4:]}?' in oli.text(
        "/consumers/acme"
    )
    again = oli.post(f"{path}/enable")
    assert (again.status_code, "is revoked, which is final" in again.text) == (409, True)
    done = [(actor, action) for actor, action, _, subject in here.events() if subject == key.id]
    assert done == [
        ("oli", f"key:{what}") for what in ("revoked", "rotated", "enabled", "disabled")
    ]


def test_pipelines_of_all_environments_are_saved_in_one_go(quick: Make) -> None:
    here = quick()
    place = here.place
    place.consumer("acme", "orders", "status")
    oli = here.visitor("oli")
    page = oli.text("/consumers/acme/pipelines")
    assert re.search(r'value="test/v1/orders" aria-label="v1/orders in test" checked', page)
    assert re.search(r'value="prod/v1/orders" aria-label="v1/orders in prod">', page)
    before = place.snapshot().revision

    saved = oli.post(
        "/consumers/acme/pipelines",
        seen=["test/v1/orders", "test/v1/status"],
        on=["test/v1/orders", "prod/v1/orders", "prod/v1/status"],
        new="prod",
    )

    assert saved.status_code == 303
    assert "Saved: 2 added, 1 taken away, new pipelines set." in oli.text("/consumers/acme")
    assert associated(place, "acme") == {"prod": ["v1/orders", "v1/status"], "test": ["v1/orders"]}
    assert consumers.show_consumer(place.engine, "acme")["new_pipelines"] == ["prod"]
    assert place.snapshot().revision == before + 1  # one change: no process ever saw half of it
    assert here.events()[:2] == [
        ("oli", "consumer:dissociated", "test", "acme"),
        ("oli", "consumer:associated", "prod", "acme"),
    ]
    oli.post(
        "/consumers/acme/pipelines", seen=["prod/v1/orders"], on=["prod/v1/orders"], seen_new="prod"
    )
    assert consumers.show_consumer(place.engine, "acme")["new_pipelines"] == []
    count = len(here.events(100))
    oli.post("/consumers/acme/pipelines", seen=["prod/v1/orders"], on=["prod/v1/orders"])
    assert "Nothing was changed." in oli.text("/consumers/acme")
    assert len(here.events(100)) == count


def test_what_somebody_else_changed_meanwhile_stays(quick: Make) -> None:
    here = quick()
    here.place.consumer("acme", "orders")
    here.place.dissociate("acme", "orders")
    here.place.associate("acme", "status")

    here.visitor("oli").post(
        "/consumers/acme/pipelines",
        seen="test/v1/orders",
        on=["test/v1/orders", "test/v1/status", "prod/v1/orders"],
    )

    assert associated(here.place, "acme") == {"prod": ["v1/orders"], "test": ["v1/status"]}


def test_a_pipeline_that_nobody_knows_is_refused_and_nothing_is_saved(quick: Make) -> None:
    here = quick()
    here.place.consumer("acme")

    refused = here.visitor("oli").post(
        "/consumers/acme/pipelines", on=["prod/v1/orders", "test/v1/order"]
    )

    assert refused.status_code == 422
    assert "did you mean &#39;v1/orders&#39;?" in refused.text
    assert re.search(r'value="prod/v1/orders"[^>]* checked', refused.text)
    assert associated(here.place, "acme") == {}


def test_a_consumer_is_kept_out_and_its_tokens_end(quick: Make) -> None:
    here = quick()
    here.place.consumer("acme", "orders")
    oli = here.visitor("oli")

    assert oli.post("/consumers/acme/disable").status_code == 303
    assert "kept out" in oli.text("/consumers/acme")
    assert not here.place.snapshot().consumer_named("acme").enabled  # type: ignore[union-attr]  # it is there
    assert oli.post("/consumers/acme/enable").status_code == 303
    assert here.place.snapshot().consumer_named("acme").enabled  # type: ignore[union-attr]  # it is there
    assert oli.post("/consumers/acme/tokens/revoke", environment="prod").status_code == 303
    assert here.place.snapshot("prod").token_revoked("x", "acme", 1.0)
    assert not here.place.snapshot("test").token_revoked("x", "acme", 1.0)
    assert oli.post("/consumers/acme/tokens/revoke", environment="nowhere").status_code == 404
    said = [
        ("oli", "token:revoked", "prod", "acme"),
        ("oli", "consumer:enabled", None, "acme"),
        ("oli", "consumer:disabled", None, "acme"),
    ]
    assert here.events()[:3] == said


def test_a_viewer_is_shown_no_buttons_and_what_it_sends_changes_nothing(quick: Make) -> None:
    here = quick()
    here.place.consumer("acme", "orders")
    key = here.place.key("acme")
    vic = here.visitor("vic")
    before = here.events(100)
    tried = [
        ("/new-consumer", {"name": "evil"}),
        ("/consumers/acme/disable", {}),
        ("/consumers/acme/enable", {}),
        ("/consumers/acme/keys", {"environment": "test", "expires": ""}),
        (f"/consumers/acme/keys/{key.id}/revoke", {}),
        (f"/consumers/acme/keys/{key.id}/disable", {}),
        (f"/consumers/acme/keys/{key.id}/rotate", {"grace": "7d"}),
        ("/consumers/acme/tokens/revoke", {"environment": "test"}),
        ("/consumers/acme/pipelines", {"seen": "test/v1/orders"}),
    ]

    assert [vic.post(path, **form).status_code for path, form in tried] == [403] * len(tried)
    assert here.events(100) == before
    with pytest.raises(UnknownName):
        consumers.show_consumer(here.place.engine, "evil")
    for path in ("/consumers", "/consumers/acme", "/consumers/acme/pipelines"):
        text = vic.text(path)
        assert [
            action
            for action in re.findall(r'<form method="post" action="([^"]+)"', text)
            if "sign-out" not in action
        ] in (
            [],
            [f"/-/console{path}"],
        )
        assert "<button>" not in text
    assert vic.get("/new-consumer").status_code == 403


def test_what_is_typed_never_becomes_markup(quick: Make) -> None:
    here = quick()
    oli = here.visitor("oli")
    oli.post("/new-consumer", name="acme", description=EVIL)
    oli.post("/consumers/acme/keys", environment="test", expires="", note=EVIL)
    pages = [
        oli.text("/consumers"),
        oli.text("/consumers", find=EVIL),
        oli.text("/consumers/acme"),
        oli.post("/new-consumer", name=EVIL, description=EVIL).text,
        oli.post("/consumers/acme/keys", environment=EVIL, expires=EVIL, note=EVIL).text,
        oli.post("/consumers/acme/keys", environment=EVIL, expires="", note=EVIL).text,
        oli.post("/consumers/acme/pipelines", on=f"test/{EVIL}").text,
        oli.post("/consumers/acme/keys/none/rotate", grace=EVIL).text,
        oli.get(f"/consumers/{EVIL}").text,
    ]

    assert all("<script>window" not in text and "<img" not in text for text in pages)
    assert all("&lt;script&gt;window" in text for text in pages[:-2])
