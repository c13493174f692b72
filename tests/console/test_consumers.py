"""Consumers: created, listed, given keys and access, disabled; entered text never becomes markup,
and a viewer changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from support.console import EVIL, ConsoleApp
from support.place import Place

from penstock.access import api_keys, consumers
from penstock.access.api_keys import KeyQuery
from penstock.contracts.keys import parse_api_key
from penstock.errors import UnknownName

Make = Callable[..., ConsoleApp]


def shown_key(text: str) -> str:
    match = re.search(r"pk_[a-z]+_[0-9A-Za-z]{28,}", text)
    assert match is not None
    return match[0]


def row(text: str, name: str) -> list[str]:
    """Return the cells of the row that begins with a link to a consumer."""
    match = re.search(rf'<a href="[^"]*/{re.escape(name)}">.*?</tr>', text, re.DOTALL)
    assert match is not None
    return [
        re.sub(r"<[^>]+>", "", cell).strip()
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
    text = console.client("vic").text("/consumers")

    assert text.index(">prod<") < text.index(">test<")
    assert row(text, "acme")[:5] == ["active", "1", "3", "1", "0"]
    assert row(text, "bolt")[:5] == ["disabled", "0", "0", "0", "0"]


def test_the_list_is_paged_by_name_and_filtered(console_app: Make) -> None:
    console = console_app()
    for number in range(53):
        console.place.consumer(f"c{number:02}")
    console.place.consumer("Acme_1")
    vic = console.client("vic")

    first = vic.text("/consumers")
    onward = re.search(r'<a href="([^"]+)" rel="next">', first)
    assert onward is not None
    console.place.consumer("B-came-between")  # paging is by key: new rows move nothing
    second = vic.text(onward[1].replace("&amp;", "&").removeprefix("/-/console"))
    filtered = vic.text("/consumers", find="acME_")

    assert ("c48" in first, "c49" in first, "Acme_1" in first) == (True, False, True)
    assert re.findall(r">(c\d\d)</a>", second) == ["c49", "c50", "c51", "c52"]
    assert 'rel="next"' not in second
    assert re.findall(r'href="/-/console/consumers/([^"]+)"', filtered) == ["Acme_1"]
    assert "No consumers match “c%”." in vic.text("/consumers", find="c%")


def test_a_key_is_shown_once_and_by_its_last_characters_later(console_app: Make) -> None:
    console = console_app()
    console.place.consumer("acme", "orders")
    oli = console.client("oli")

    response = oli.post(
        "/consumers/acme/keys", environment="test", expires="30d", note="for the pilot"
    )
    shown = oli.http.get(response.headers["Location"])
    key = shown_key(shown.text)
    page = oli.text("/consumers/acme")
    stored = api_keys.list_keys(console.place.engine, KeyQuery(consumer="acme"))[0]

    assert response.status_code == 303
    assert shown.headers["Cache-Control"] == "no-store"
    assert 'data-copy="#secret"' in shown.text
    parsed = parse_api_key(key)
    assert parsed is not None
    stored_key = console.place.snapshot().key(parsed.digest)
    assert stored_key is not None
    assert stored_key.usable
    assert stored.expires_at - stored.created_at == timedelta(days=30)
    assert key not in page
    assert f"pk_test_…{key[-4:]}" in page
    assert "for the pilot" in page
    assert console.events()[0] == ("oli", "key:created", "test", "acme")
    nonsense = oli.post(
        "/consumers/acme/keys", environment="test", expires="soon", note="typed before"
    )
    nowhere = oli.post("/consumers/acme/keys", environment="tset", expires="", note="")
    assert (nonsense.status_code, nowhere.status_code) == (422, 422)
    assert 'id="e-expires"' in nonsense.text
    assert 'value="typed before"' in nonsense.text
    assert "did you mean “test”?" in nowhere.text


def test_a_reload_of_the_page_of_a_new_key_creates_none_and_shows_nothing(
    console_app: Make,
) -> None:
    console = console_app()
    console.place.consumer("acme")
    oli = console.client("oli")

    created = oli.post("/consumers/acme/keys", environment="test", expires="", note="")
    address = created.headers["Location"]
    first, again = oli.http.get(address), oli.http.get(address)

    (key,) = api_keys.list_keys(console.place.engine)
    assert created.status_code == 303
    assert "pk_test_" not in address
    assert ("curl -H" in first.text, key.shown_as[-4:] in first.text) == (True, True)
    assert "was shown already" in again.text
    assert "curl -H" not in again.text


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
    rotated = oli.follow(oli.post(f"{path}/rotate", grace="7d"))
    assert shown_key(rotated) != key.key
    assert f"The old key {key.id} works until" in rotated
    assert oli.post(f"{path}/rotate", grace="a while").status_code == 422
    assert oli.post(f"{path}/revoke").status_code == 303
    assert states() == ["revoked", "usable"]
    assert "Expired and revoked keys (1)" in oli.text("/consumers/acme")
    (successor,) = (
        key
        for key in api_keys.list_keys(console.place.engine, KeyQuery(consumer="acme"))
        if key.state == "usable"
    )
    assert f"Revoke key pk_test_…{shown_key(rotated)[-4:]} of acme?" in oli.text(
        f"/consumers/acme/keys/{successor.id}/revoke"
    )
    again = oli.post(f"{path}/enable")
    assert (again.status_code, "is revoked, which is final" in again.text) == (409, True)
    done = [(actor, action) for actor, action, _, subject in console.events() if subject == key.id]
    assert done == [
        ("oli", f"key:{what}") for what in ("revoked", "rotated", "enabled", "disabled")
    ]


def test_access_in_all_environments_is_saved_in_one_change(console_app: Make) -> None:
    console = console_app()
    place = console.place
    place.consumer("acme", "orders", "status")
    oli = console.client("oli")
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
        ("/consumers/acme/keys", {"environment": "test", "expires": ""}),
        (f"/consumers/acme/keys/{key.id}/revoke", {}),
        (f"/consumers/acme/keys/{key.id}/disable", {}),
        (f"/consumers/acme/keys/{key.id}/rotate", {"grace": "7d"}),
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
    assert vic.get("/new-consumer").status_code == 403


def test_entered_text_never_becomes_markup(console_app: Make) -> None:
    console = console_app()
    oli = console.client("oli")
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


@pytest.mark.parametrize("action", ["disable", "enable", "rotate", "revoke"])
def test_the_page_of_a_consumer_changes_no_key_of_another(console_app: Make, action: str) -> None:
    console = console_app()
    consumers.create_consumer(console.place.engine, "tester", "acme")
    consumers.create_consumer(console.place.engine, "tester", "other")
    key = console.place.key("acme")

    response = console.client("oli").post(f"/consumers/other/keys/{key.id}/{action}", grace="1h")

    assert response.status_code == 404
    assert [(listed.state, listed.id) for listed in api_keys.list_keys(console.place.engine)] == [
        ("usable", key.id)
    ]


def test_a_key_without_an_environment_is_a_fault_beside_its_field(console_app: Make) -> None:
    console = console_app()
    consumers.create_consumer(console.place.engine, "tester", "acme")

    response = console.client("oli").post("/consumers/acme/keys", expires="90d")

    assert (response.status_code, "No environment is named" in response.text) == (422, True)
