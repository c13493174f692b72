"""The page of keys: filters, pages, and only the environments that a user sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from support.console import HASH, ConsoleApp, next_page, words_of

from penstock.access import api_keys, consumers, users
from penstock.access.users import Role
from penstock.console import keys as pages
from penstock.db.tables import UserRow
from penstock.db.unit_of_work import access_change


@pytest.fixture
def console(console_app: Callable[..., ConsoleApp]) -> ConsoleApp:
    """A console with three keys of acme, one of them about to expire, and one of globex."""
    console = console_app()
    engine = console.place.engine
    for name in ("acme", "globex"):
        consumers.create_consumer(engine, "ann", name)
    for env, note in (("test", "first-note"), ("prod", "second-note")):
        api_keys.create_key(engine, "ann", "acme", env, note=note)
    api_keys.create_key(engine, "ann", "acme", "prod", note="third-note", expires=timedelta(days=5))
    api_keys.create_key(engine, "ann", "globex", "prod", note="fourth-note")
    return console


@pytest.mark.parametrize(
    ("query", "notes"),
    [
        ({}, {"first-note", "second-note", "third-note", "fourth-note"}),
        ({"env": "prod"}, {"second-note", "third-note", "fourth-note"}),
        ({"show": "expiring"}, {"third-note"}),
        ({"show": "no-expiry", "consumer": "acme"}, {"first-note", "second-note"}),
        ({"find": "SECOND-n"}, {"second-note"}),
        ({"show": "unused"}, set()),
        ({"show": "nonsense"}, {"first-note", "second-note", "third-note", "fourth-note"}),
    ],
)
def test_keys_are_filtered(console: ConsoleApp, query: dict[str, str], notes: set[str]) -> None:
    text = words_of(console.client("vic").text("/keys", **query))

    assert {
        note for note in ("first-note", "second-note", "third-note", "fourth-note") if note in text
    } == notes


def test_an_unknown_consumer_is_a_fault_of_its_field(console: ConsoleApp) -> None:
    response = console.client("vic").get("/keys", consumer="acne")

    assert (response.status_code, "did you mean “acme”?" in response.text) == (422, True)


def test_keys_have_pages(console: ConsoleApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PER_PAGE", 3)
    client = console.client("vic")

    following = next_page(client.text("/keys"))
    assert following is not None
    last = client.text(following)

    assert "fourth-note" in words_of(last)
    assert next_page(last) is None


def test_a_user_of_one_environment_sees_its_keys_alone(console: ConsoleApp) -> None:
    engine = console.place.engine
    users.create_user(engine, "ann", "tess", Role.VIEWER, None, environments=["test"])
    with access_change(engine) as rows:
        rows.set(UserRow, {UserRow.name: "tess"}, {UserRow.password: HASH})
    client = console.client("tess")

    text = words_of(client.text("/keys"))

    assert ("first-note" in text, "second-note" in text) == (True, False)
    assert client.get("/keys", env="prod").status_code == 404


def test_the_menu_counts_the_keys_of_its_environment_that_expire_soon(console: ConsoleApp) -> None:
    client = console.client("vic")

    of_prod, of_test = client.text("/keys", env="prod"), client.text("/keys", env="test")

    assert "1 keys expire within 14 days" in of_prod
    assert "keys expire within 14 days" not in of_test.partition("<main")[0]
    assert re.search(r'<a href="/-/console/consumers/acme/keys/key_[0-9a-f]+"><code>', of_prod)
