"""Listings: pages by cursor, a text to search for, and formats."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
import sqlalchemy as sa
from support.commands import run
from support.place import Place

from penstock.access import api_keys, consumers, limits, variables
from penstock.contracts.rates import Rate
from penstock.db.engine import writing
from penstock.db.tables import ApiKeyRow

LISTINGS = {
    ("consumer", "list"): "name",
    ("keys",): "id",
    ("key", "list"): "id",
    ("limit", "list"): "consumer",
    ("variable", "list"): "name",
    ("env", "list"): "name",
    ("audit",): "id",
}


@pytest.fixture
def filled(sqlite_place: Place) -> Place:
    """A place with five of everything."""
    place = sqlite_place
    for number in range(5):
        place.consumer(f"acme{number}")
        place.key(f"acme{number}")
        limits.set_limit(
            place.engine, "tester", f"acme{number}", "test", Rate.of("5/second", "consumer")
        )
        variables.set_variable(place.engine, "tester", "test", f"region{number}", "x")
    return place


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_the_pages_of_a_listing_have_every_row_once(filled: Place, words: tuple[str, ...]) -> None:
    def listed(*more: str) -> tuple[list[str], str]:
        done = run(filled, *words, *more, "--format", "json")
        assert done.code == 0, done
        rows = [str(row[LISTINGS[words]]) for row in json.loads(done.stdout)]
        return rows, done.stderr.removeprefix("next page: ").strip()

    everything, more = listed()
    assert (len(everything) >= 2, more) == (True, "")

    pages, cursor = listed("--limit", "2")
    while cursor:
        page, cursor = listed("--limit", "2", *cursor.split())
        pages += page

    assert pages == everything


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_a_listing_has_only_rows_with_the_text(filled: Place, words: tuple[str, ...]) -> None:
    done = run(filled, *words, "--search", "NOTHING-like_this%", "--format", "csv")

    assert (done.code, len(done.stdout.splitlines())) == (0, 1)  # the names of columns
    rows = json.loads(run(filled, *words, "--search", "E", "--format", "json").stdout)
    assert rows


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("limit", "list", "--cursor", "first"), 2),
        (("limit", "list", "--cursor", "9" * 30), 2),
        (("audit", "--cursor", "٣"), 2),
        (("runs", "list", "--cursor", "x"), 2),
        (("variable", "list", "--cursor", "x"), 2),
        (("consumer", "list", "--limit", "0"), 2),
        (("keys", "--format", "xml"), 2),
        (("keys", "--cursor", "key_of_no_one"), 0),
        (("keys", "--consumer", "nope"), 2),
        (("keys", "--unused", "soon"), 2),
    ],
)
def test_a_wrong_option_of_a_listing_is_named(
    filled: Place, words: tuple[str, ...], code: int
) -> None:
    done = run(filled, *words)

    assert done.code == code
    assert "Traceback" not in done.stderr + done.stdout


def test_a_listing_as_csv_executes_nothing_in_a_spreadsheet(sqlite_place: Place) -> None:
    consumers.create_consumer(sqlite_place.engine, "tester", "acme", '=cmd|" /C calc"!A1')

    done = run(sqlite_place, "consumer", "list", "--format", "csv")

    (row,) = csv.DictReader(StringIO(done.stdout))
    assert (row["name"], row["description"][:5]) == ("acme", "'=cmd")


def test_keys_are_found_by_use_and_expiry(place: Place) -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)

    def key(
        consumer: str, *, created: int, used: int | None = None, ends: int | None = None
    ) -> str:
        new = api_keys.create_key(place.engine, "tester", consumer, "test")
        values = {
            ApiKeyRow.created_at: now - created * day,
            ApiKeyRow.last_used_at: now - used * day if used is not None else None,
            ApiKeyRow.expires_at: now + ends * day if ends is not None else None,
        }
        with writing(place.engine) as connection:
            connection.execute(
                sa.update(ApiKeyRow.table).where(ApiKeyRow.id == new.id).values(values)
            )
        return new.id

    for name in ("acme", "off"):
        place.consumer(name)
    names = {
        key("acme", created=200, used=100): "idle",
        key("acme", created=200, used=3, ends=10): "ends soon",
        key("acme", created=200, used=3, ends=100): "ends later",
        key("acme", created=120, ends=400): "never",
        key("acme", created=2, ends=400): "new",
        key("off", created=2, used=1, ends=400): "of a disabled consumer",
        key("acme", created=300, used=100, ends=-1): "expired",
        key("acme", created=300): "revoked",
    }
    revoked = next(identifier for identifier, name in names.items() if name == "revoked")
    api_keys.revoke_key(place.engine, "tester", revoked)
    consumers.set_consumer_enabled(place.engine, "tester", "off", enabled=False)

    def matching(*words: str) -> set[str]:
        done = run(place, "keys", *words, "--format", "json")
        return {names[row["id"]] for row in json.loads(done.stdout)}

    assert matching() == set(names.values())
    assert matching("--unused", "90d") == {"idle", "never"}
    assert matching("--expiring", "14d") == {"ends soon"}
    assert matching("--never-used") == {"never", "new"}
    assert matching("--no-expiry") == {"idle"}
    assert matching("--disabled-consumers") == {"of a disabled consumer"}
    assert matching("--unused", "90d", "--never-used") == {"never"}
    assert matching("--search", "OFF") == {"of a disabled consumer"}
    assert matching("--env", "prod") == set()
    off = json.loads(run(place, "keys", "--search", "off", "--format", "json").stdout)
    assert [row["state"] for row in off] == ["consumer disabled"]
