"""The search page: what a text names, only where the user may look, and keys in no address."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.console import HASH, ConsoleApp, words_of

from penstock.access import users
from penstock.access.users import Role
from penstock.db.tables import UserRow
from penstock.db.unit_of_work import access_change


@pytest.fixture
def console(console_app: Callable[..., ConsoleApp]) -> ConsoleApp:
    """A console with the consumer acme."""
    console = console_app()
    console.place.consumer("acme")
    return console


def test_a_text_leads_to_the_page_of_what_it_names(console: ConsoleApp) -> None:
    client = console.client("vic")

    response = client.post("/search", {"q": "acm"})
    assert (response.status_code, response.headers["Location"]) == (
        303,
        "/-/console/search?q=acm",
    )
    page = client.text("/search", q="acm")
    assert '<a href="/-/console/consumers/acme">acme</a>' in page
    assert "/-/console/pipelines/v1/orders" in client.text("/search", q="order")
    assert "Nothing found for “nothing-like-it”." in words_of(
        client.text("/search", q="nothing-like-it")
    )


def test_a_pasted_key_is_found_and_shown_nowhere(console: ConsoleApp) -> None:
    key, client = console.place.key("acme"), console.client("vic")

    response = client.post("/search", {"q": f"X-API-Key: {key.key}"})

    assert (response.status_code, "consumers/acme" in response.text) == (200, True)
    assert key.key not in response.text

    response = client.get("/search", q=key.key)
    assert "rotate the key" in words_of(response.text)
    assert key.key not in response.text
    assert "consumers/acme" not in response.text


def test_only_environments_of_the_user_are_searched(console: ConsoleApp) -> None:
    key = console.place.key("acme", "prod")
    engine = console.place.engine
    users.create_user(engine, "ann", "tess", Role.VIEWER, None, environments=["test"])
    with access_change(engine) as rows:
        rows.set(UserRow, {UserRow.name: "tess"}, {UserRow.password: HASH})

    assert "consumers/acme" in console.client("vic").post("/search", {"q": key.key}).text
    assert "consumers/acme" not in console.client("tess").post("/search", {"q": key.key}).text
