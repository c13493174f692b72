"""Consumers: created, listed, given keys and access, disabled; entered text never becomes markup,
and a viewer changes nothing."""

from __future__ import annotations

import re
import time as clock
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

import pytest
from support.console import EVIL, ConsoleApp, next_page, words_of
from support.place import Place

from penstock.access import api_keys, consumers
from penstock.access.api_keys import KeyQuery
from penstock.access.lookup import consumer_row
from penstock.console import consumers as pages
from penstock.contracts.keys import parse_api_key
from penstock.db import consumer_counts
from penstock.db.consumer_counts import CountKey
from penstock.db.engine import reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName

Make = Callable[..., ConsoleApp]


def shown_key(text: str) -> str:
    match = re.search(r"pk_[a-z]+_[0-9A-Za-z]{28,}", text)
    assert match is not None
    return match[0]


def row(text: str, name: str) -> list[str]:
    """Return the cells of the row that begins with a link to a consumer."""
    match = re.search(rf'<a href="[^"]*/{re.escape(name)}(?:\?[^"]*)?">.*?</tr>', text, re.DOTALL)
    assert match is not None
    return [
        " ".join(re.sub(r"<[^>]+>", " ", cell).split())
        for cell in re.findall(r"<td[^>]*>(.*?)</td>", match[0], re.DOTALL)
    ]


def associated(place: Place, name: str) -> dict[str, list[str]]:
    return dict(consumers.show_consumer(place.engine, name).associations)


def test_without_consumers_the_page_names_the_next_step(console_app: Make) -> None:
    console = console_app()

    assert "No consumers yet. Create one" in console.client("vic").text("/consumers")
    assert 'href="/-/console/new-consumer"' in console.client("oli").text("/consumers")
    assert 'href="/-/console/new-consumer"' not in console.client("vic").text("/consumers")


def test_an_operator_creates_a_consumer_and_faults_are_beside_their_field(
    console_app: Make,
) -> None:
    console = console_app()
    oli = console.client("oli")

    response = oli.post("/new-consumer", name=" acme ", description="The shop")
    assert "acme created. Next: create a key and grant access." in oli.text("/consumers/acme")
    again = oli.post("/new-consumer", name="acme", description="Another")
    odd = oli.post("/new-consumer", name="a b", description="typed before")

    assert (response.status_code, response.headers["Location"]) == (
        303,
        "/-/console/consumers/acme",
    )
    assert (again.status_code, odd.status_code) == (422, 422)
    assert 'id="e-name" class="error" role="alert">Consumer “acme” exists already.' in again.text
    assert 'value="typed before"' in odd.text
    assert oli.post("/new-consumer", name="nul", description="a\0b").status_code == 400
    assert [oli.get(path).status_code for path in ("/consumers/a%00", "/consumers?find=%00")] == [
        400,
        400,
    ]
    assert console.events()[0] == ("oli", "consumer:created", None, "acme")


def test_the_list_counts_pipelines_and_active_keys_per_environment(
    console_app: Make,
) -> None:
    console = console_app()
    place = console.place
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
    api_keys.create_key(place.engine, "tester", "acme", "test", expires=timedelta(days=3))
    vic = console.client("vic")
    text, of_prod = vic.text("/consumers"), vic.text("/consumers", env="prod")

    assert '>Consumers <small class="quiet">2</small></h1>' in text
    assert row(text, "acme")[:3] == ["active", "never", "0"]
    assert row(text, "acme")[-2:] == ["4 1 expires soon", "prod 1 test 1"]
    assert row(text, "bolt")[:3] == ["disabled", "never", "0"]
    assert row(text, "bolt")[-2:] == ["0", "none"]
    assert row(of_prod, "acme")[-2:] == ["3", "prod 1"]
    assert listed(vic.text("/consumers", state="disabled")) == ["bolt"]
    assert '<small class="quiet">1</small></h1>' in vic.text("/consumers", state="active")


def listed(text: str) -> list[str]:
    """Return the consumers of the table in their order."""
    return re.findall(r'<th scope="row"><a href="/-/console/consumers/([^"?]+)', text)


def count(place: Place, name: str, outcome: str, calls: int, hours: int = 1) -> None:
    """Count calls of a consumer in test, some hours ago."""
    with reading(place.engine) as connection:
        number = consumer_row(RowReader(connection), name).id
    since = int(clock.time() - hours * 3600) // 3600 * 3600
    key = CountKey(since, number, "", "v1/orders", outcome)
    consumer_counts.add(place.engine, 1, {key: calls})


def test_the_list_shows_calls_and_is_sorted_in_the_heads_of_its_columns(
    console_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = console_app()
    place = console.place
    for name in ("a-none", "b-most", "c-some", "d-same", "e-old"):
        place.consumer(name)
    count(place, "b-most", "succeeded", 90, hours=30)
    count(place, "b-most", "rejected", 10, hours=30)
    for name in ("c-some", "d-same"):
        count(place, name, "rejected", 7)
    count(place, "e-old", "succeeded", 500, hours=24 * 9)
    monkeypatch.setattr(pages, "PER_PAGE", 2)
    vic = console.client("vic")

    def walk(sort: str) -> list[str]:
        names, path = [], f"/consumers?sort={sort}"
        while path:
            text = vic.text(path)
            names += listed(text)
            path = next_page(text) or ""
        return names

    text = vic.text("/consumers", sort="-calls")
    assert row(text, "b-most")[2:4] == ["100 calls of b-most in 7 days 100", "10 %"]
    assert walk("name") == sorted(walk("name"))
    assert walk("-name") == walk("name")[::-1]
    assert walk("-calls") == ["b-most", "c-some", "d-same", "a-none", "e-old"]
    assert walk("calls") == ["a-none", "e-old", "c-some", "d-same", "b-most"]
    assert walk("-rejected") == ["c-some", "d-same", "b-most", "a-none", "e-old"]
    assert walk("-last")[:3] == ["c-some", "d-same", "b-most"]
    assert walk("nonsense") == walk("name")
    assert re.search(r'aria-sort="descending"><a href="[^"]*sort=calls', text)
    assert 'aria-sort="none"><a href="/-/console/consumers?sort=-name">Consumer' in text
    assert vic.get("/consumers", after="x:y", sort="-calls").status_code == 200


def test_the_list_is_paged_by_name_and_filtered(console_app: Make) -> None:
    console = console_app()
    for number in range(53):
        console.place.consumer(f"c{number:02}")
    console.place.consumer("Acme_1")
    vic = console.client("vic")

    first = vic.text("/consumers")
    onward = next_page(first)
    assert onward is not None
    console.place.consumer("B-came-between")  # paging is by key: new rows move nothing
    second = vic.text(onward)
    filtered = vic.text("/consumers", find="acME_")

    assert ("c48" in first, "c49" in first, "Acme_1" in first) == (True, False, True)
    assert listed(second) == ["c49", "c50", "c51", "c52"]
    assert 'rel="next"' not in second
    assert listed(filtered) == ["Acme_1"]
    assert "No consumers match “c%”." in vic.text("/consumers", find="c%")


def test_a_key_is_shown_once_and_by_its_last_characters_later(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme", "orders")
    oli = console.client("oli")

    ends = (datetime.now(UTC) + timedelta(days=30)).date()
    form = oli.text("/consumers/acme/keys/new", env="test")
    response = oli.post(
        "/consumers/acme/keys/new", environment="test", ends=str(ends), note="for the pilot"
    )
    shown = oli.http.get(response.headers["Location"])
    key = shown_key(shown.text)
    page = oli.text("/consumers/acme", tab="keys")
    stored = api_keys.list_keys(console.place.engine, KeyQuery(consumer="acme"))[0]

    assert response.status_code == 303
    assert shown.headers["Cache-Control"] == "no-store"
    assert 'data-copy="#secret"' in shown.text
    parsed = parse_api_key(key)
    assert parsed is not None
    stored_key = console.place.snapshot().key(parsed.digest)
    assert stored_key is not None
    assert stored_key.usable
    assert stored.expires_at == datetime.combine(ends, time(23, 59, 59), UTC)
    usual = (datetime.now(UTC) + timedelta(days=90)).date()
    assert f'type="date" value="{usual}"' in form
    assert '<option selected value="test">' in form
    assert key not in page
    assert f"pk_test_…{key[-4:]}" in page
    assert "for the pilot" in page
    assert console.events()[0] == ("oli", "key:created", "test", "acme")
    nonsense = oli.post(
        "/consumers/acme/keys/new", environment="test", ends="soon", note="typed before"
    )
    past, none, never = (
        oli.post("/consumers/acme/keys/new", environment="test", **dates)
        for dates in (
            {"ends": "2001-01-01"},
            {"ends": ""},
            {"ends": "", "expiry": "never", "note": "x" * 201},
        )
    )
    nowhere = oli.post("/consumers/acme/keys/new", environment="tset", ends=str(ends))
    assert [page.status_code for page in (nonsense, past, none, never, nowhere)] == [422] * 5
    assert 'id="e-ends"' in nonsense.text
    assert "2001-01-01 is past; choose today or a later date." in past.text
    assert "Choose a date, or choose never." in none.text
    assert "write at most 200 characters" in never.text
    assert 'value="typed before"' in nonsense.text
    assert "did you mean “test”?" in nowhere.text


def test_a_reload_of_the_page_of_a_new_key_creates_none_and_shows_nothing(
    console_app: Make,
) -> None:
    console = console_app()
    console.place.consumer("acme")
    oli = console.client("oli")

    created = oli.post("/consumers/acme/keys/new", environment="test", expiry="never")
    address = created.headers["Location"]
    first, again = oli.http.get(address), oli.http.get(address)

    (key,) = api_keys.list_keys(console.place.engine)
    assert created.status_code == 303
    assert "pk_test_" not in address
    assert key.expires_at is None
    assert ("curl " in first.text, key.shown_as[-4:] in first.text) == (True, True)
    assert "The key itself was shown once" in again.text
    assert "curl " not in again.text


def test_the_page_of_a_new_key_has_a_call_to_try(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme", "orders")
    oli = console.client("oli")

    shown = oli.follow(oli.post("/consumers/acme/keys/new", environment="test", expiry="never"))

    key = shown_key(shown)
    assert f'curl http://localhost/v1/orders/ -H "X-API-Key: {key}" -H "Authorization' in shown
    assert shown.count(key) == 2
    assert "Done" in shown


def test_a_key_is_disabled_enabled_rotated_and_revoked(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme")
    oli, key = console.client("oli"), console.place.key("acme")
    path = f"/consumers/acme/keys/{key.id}"

    def states() -> list[object]:
        keys = api_keys.list_keys(console.place.engine, KeyQuery(consumer="acme"))
        return [row.state for row in keys]

    assert oli.post(f"{path}/disable").status_code == 303
    assert states() == ["disabled"]
    assert oli.post(f"{path}/enable").status_code == 303
    assert states() == ["usable"]
    assert oli.post(f"{path}/revoke").status_code == 303
    assert states() == ["revoked"]
    assert "Expired and revoked keys (1)" in oli.text("/consumers/acme", tab="keys")
    again = oli.post(f"{path}/enable")
    assert (again.status_code, "is revoked, which is final" in again.text) == (409, True)
    done = [(actor, action) for actor, action, _, subject in console.events() if subject == key.id]
    assert done == [("oli", f"key:{what}") for what in ("revoked", "enabled", "disabled")]


def test_rotating_a_key_is_a_page_with_a_date_and_makes_one_key(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme")
    oli, key = console.client("oli"), console.place.key("acme", "prod")
    path = f"/consumers/acme/keys/{key.id}/rotate"
    usual = (datetime.now(UTC) + timedelta(days=7)).date()
    ends = (datetime.now(UTC) + timedelta(days=3)).date()

    page = oli.text(path)
    before = len(api_keys.list_keys(console.place.engine))
    faults = [
        oli.post(path, ends=text).status_code
        for text in ("a while", "", "2001-01-01", "9999-13-01")
    ]
    response = oli.post(path, ends=str(ends))
    address = response.headers["Location"]
    shown, reloaded = (words_of(oli.http.get(address).text) for _ in range(2))
    back, again = words_of(oli.text(path)), oli.post(path, ends=str(ends))

    old, new = api_keys.list_keys(console.place.engine)
    assert f'type="date" value="{usual}"' in page
    words = words_of(page)
    assert f"Rotate key pk_prod_…{key.key[-4:]}" in words
    assert "Consumer acme Environment prod" in words
    assert (before, faults) == (1, [422] * 4)
    assert shown_key(shown)[-4:] == new.shown_as[-4:]
    assert f"The old key {old.shown_as} ends {ends} 23:59:59 UTC" in shown
    assert shown_key(shown) not in reloaded
    assert f"replaced by {new.shown_as} and ends {ends}" in back
    assert (again.status_code, f"replaced by {new.id} already" in again.text) == (422, True)
    listed = words_of(oli.text("/consumers/acme", tab="keys"))
    assert f"replaced by …{new.shown_as[-4:]} , ends {ends}" in listed
    assert console.events()[0] == ("oli", "key:rotated", "prod", key.id)


def test_a_new_key_stays_readable_while_another_page_is_opened(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme")
    oli, other = console.client("oli"), console.place.key("acme")

    response = oli.post("/consumers/acme/keys/new", environment="test", expiry="never")
    assert "pk_test_" in oli.text(f"/consumers/acme/keys/{other.id}")
    shown = oli.http.get(response.headers["Location"]).text

    assert shown_key(shown)
    assert shown_key(shown) not in console.client("ann").text(
        response.headers["Location"].removeprefix("/-/console")
    )


def test_the_description_of_a_consumer_is_edited_and_no_update_is_lost(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme")
    oli, path = console.client("oli"), "/consumers/acme/description"
    seen = re.search(r'name="seen" value="([0-9a-f]{16})"', oli.text(path))
    assert seen is not None
    consumers.describe_consumer(console.place.engine, "ann", "acme", "The <b>shop</b>")

    late = oli.post(path, description="The till", seen=seen[1])
    kept = consumers.show_consumer(console.place.engine, "acme").description
    newer = re.search(r'name="seen" value="([0-9a-f]{16})"', late.text)
    assert newer is not None
    long = oli.post(path, description="x" * 501, seen=newer[1])
    saved = oli.follow(oli.post(path, description="The till", seen=newer[1]))

    assert (late.status_code, kept) == (409, "The <b>shop</b>")
    assert "Description The <b>shop</b>" in words_of(late.text)
    assert 'value="The till"' in late.text
    assert (long.status_code, "write at most 500 characters" in long.text) == (422, True)
    assert "The till" in saved
    assert console.events()[0] == ("oli", "consumer:described", None, "acme")


def test_access_in_all_environments_is_saved_in_one_change(console_app: Make) -> None:
    console = console_app()
    place = console.place
    place.consumer("acme", "orders", "status")
    oli = console.client("oli")
    page = oli.text("/consumers/acme", tab="access")
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
    assert "Access of acme saved: 2 added, 1 removed, new pipelines changed." in oli.text(
        "/consumers/acme"
    )
    assert associated(place, "acme") == {"prod": ["v1/orders", "v1/status"], "test": ["v1/orders"]}
    assert consumers.show_consumer(place.engine, "acme").new_pipelines == ["prod"]
    assert place.snapshot().revision == before + 1  # one change: no process reads half of it
    assert console.events()[:2] == [
        ("oli", "consumer:dissociated", "test", "acme"),
        ("oli", "consumer:associated", "prod", "acme"),
    ]
    oli.post(
        "/consumers/acme/pipelines", seen=["prod/v1/orders"], on=["prod/v1/orders"], seen_new="prod"
    )
    assert consumers.show_consumer(place.engine, "acme").new_pipelines == []
    count = len(console.events(100))
    oli.post("/consumers/acme/pipelines", seen=["prod/v1/orders"], on=["prod/v1/orders"])
    assert "Nothing changed." in oli.text("/consumers/acme")
    assert len(console.events(100)) == count


def test_a_concurrent_change_is_not_overwritten(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme", "orders")
    console.place.dissociate("acme", "orders")
    console.place.associate("acme", "status")

    console.client("oli").post(
        "/consumers/acme/pipelines",
        seen="test/v1/orders",
        on=["test/v1/orders", "test/v1/status", "prod/v1/orders"],
    )

    assert associated(console.place, "acme") == {"prod": ["v1/orders"], "test": ["v1/status"]}


def test_an_unknown_pipeline_is_rejected_and_nothing_is_saved(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme")

    rejected = console.client("oli").post(
        "/consumers/acme/pipelines", on=["prod/v1/orders", "test/v1/order"]
    )

    assert rejected.status_code == 422
    assert "did you mean “v1/orders”?" in rejected.text
    assert re.search(r'value="prod/v1/orders"[^>]* checked', rejected.text)
    assert associated(console.place, "acme") == {}


def test_a_consumer_is_disabled_and_its_tokens_are_revoked(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme", "orders")
    oli = console.client("oli")

    assert oli.post("/consumers/acme/disable").status_code == 303
    assert ">disabled<" in oli.text("/consumers/acme")
    assert not console.place.snapshot().consumer_named("acme").enabled  # type: ignore[union-attr]  # it is there
    assert oli.post("/consumers/acme/enable").status_code == 303
    assert console.place.snapshot().consumer_named("acme").enabled  # type: ignore[union-attr]  # it is there
    assert oli.post("/consumers/acme/tokens/revoke", environment="prod").status_code == 303
    assert console.place.snapshot("prod").token_revoked("x", "acme", 1.0)
    assert not console.place.snapshot("test").token_revoked("x", "acme", 1.0)
    assert oli.post("/consumers/acme/tokens/revoke", environment="nowhere").status_code == 404
    expected = [
        ("oli", "token:revoked", "prod", "acme"),
        ("oli", "consumer:enabled", None, "acme"),
        ("oli", "consumer:disabled", None, "acme"),
    ]
    assert console.events()[:3] == expected


def test_a_viewer_sees_no_buttons_and_changes_nothing(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme", "orders")
    key = console.place.key("acme")
    vic = console.client("vic")
    before = console.events(100)
    tried = [
        ("/new-consumer", {"name": "evil"}),
        ("/consumers/acme/disable", {}),
        ("/consumers/acme/enable", {}),
        ("/consumers/acme/keys/new", {"environment": "test", "expiry": "never"}),
        ("/consumers/acme/description", {"description": "evil"}),
        (f"/consumers/acme/keys/{key.id}/revoke", {}),
        (f"/consumers/acme/keys/{key.id}/disable", {}),
        (f"/consumers/acme/keys/{key.id}/rotate", {"ends": "2999-01-01"}),
        ("/consumers/acme/tokens/revoke", {"environment": "test"}),
        ("/consumers/acme/pipelines", {"seen": "test/v1/orders"}),
    ]

    assert [vic.post(path, **form).status_code for path, form in tried] == [403] * len(tried)
    assert console.events(100) == before
    with pytest.raises(UnknownName):
        consumers.show_consumer(console.place.engine, "evil")
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
    for tab in ("keys", "limits", "runs", "audit"):
        assert "<button" not in vic.text("/consumers/acme", tab=tab).partition("<main")[2]
    for path in (
        "/new-consumer",
        "/consumers/acme/keys/new",
        f"/consumers/acme/keys/{key.id}/rotate",
    ):
        assert vic.get(path).status_code == 403


def test_entered_text_never_becomes_markup(console_app: Make) -> None:
    console = console_app()
    oli = console.client("oli")
    oli.post("/new-consumer", name="acme", description=EVIL)
    oli.post("/consumers/acme/keys/new", environment="test", expiry="never", note=EVIL)
    pages = [
        oli.text("/consumers"),
        oli.text("/consumers", find=EVIL),
        oli.text("/consumers/acme"),
        oli.text("/consumers/acme", tab="keys"),
        oli.post("/new-consumer", name=EVIL, description=EVIL).text,
        oli.post("/consumers/acme/keys/new", environment=EVIL, ends=EVIL, note=EVIL).text,
        oli.post("/consumers/acme/keys/new", environment=EVIL, expiry=EVIL, note=EVIL).text,
        oli.post("/consumers/acme/pipelines", on=f"test/{EVIL}").text,
        oli.post("/consumers/acme/keys/none/rotate", ends=EVIL).text,
        oli.get(f"/consumers/{EVIL}").text,
    ]

    assert all("<script>window" not in text and "<img" not in text for text in pages)
    assert all("&lt;script&gt;window" in text for text in pages[:-2])


@pytest.mark.parametrize("action", ["disable", "enable", "rotate", "revoke"])
def test_the_page_of_a_consumer_changes_no_key_of_another(console_app: Make, action: str) -> None:
    console = console_app()
    consumers.create_consumer(console.place.engine, "tester", "acme")
    consumers.create_consumer(console.place.engine, "tester", "other")
    key = console.place.key("acme")

    response = console.client("oli").post(
        f"/consumers/other/keys/{key.id}/{action}", ends="2999-01-01"
    )

    assert response.status_code == 404
    assert [(listed.state, listed.id) for listed in api_keys.list_keys(console.place.engine)] == [
        ("usable", key.id)
    ]


def test_a_key_without_an_environment_is_a_fault_beside_its_field(console_app: Make) -> None:
    console = console_app()
    consumers.create_consumer(console.place.engine, "tester", "acme")

    response = console.client("oli").post("/consumers/acme/keys/new", ends="2999-01-01")

    assert (response.status_code, "No environment is named" in response.text) == (422, True)
