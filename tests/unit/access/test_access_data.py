"""Access data on SQLite and PostgreSQL alike: one change is one transaction, one revision, one
event."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from support.place import ACTOR, Place

from penstock import Caller, CredentialRejected, audit, parse_api_key
from penstock.access import api_keys, consumers, environments, signing_keys
from penstock.access.api_keys import KeyQuery
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.pipelines import pipelines_seen
from penstock.access.policies import set_policy
from penstock.access.snapshot import Snapshot
from penstock.db import migrate
from penstock.db.engine import open_engine, reading
from penstock.db.history import read_history
from penstock.db.schema import metadata
from penstock.errors import AlreadyExists, CannotStart, PenstockError, UnknownName
from penstock_jwt.tokens import Tokens


def revision(place: Place) -> int:
    with reading(place.engine) as connection:
        return read_history(connection, -1)[0].revision


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_migrations_make_exactly_the_tables_of_the_code(
    kind: str, new_database: Callable[..., str]
) -> None:
    engine = open_engine(new_database(kind))
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert migrate.current(engine) == migrate.head()
    engine.dispose()


def test_an_upgrade_twice_changes_nothing(place: Place) -> None:
    assert migrate.upgrade(place.engine) == (migrate.head(), migrate.head())
    assert [row.name for row in environments.list_environments(place.engine)] == ["prod", "test"]


def test_a_new_environment_has_the_strictest_policy(place: Place) -> None:
    assert {row.policy for row in environments.list_environments(place.engine)} == {"jwt-api-key"}


def test_each_change_is_one_revision_and_one_event_with_its_actor(place: Place) -> None:
    before, events = revision(place), len(audit.events(place.engine, limit=100))

    consumers.create_consumer(place.engine, "olga", "acme")
    new_key = api_keys.create_key(place.engine, "olga", "acme", "test")

    trail = audit.events(place.engine, limit=100)
    assert revision(place) == before + 2
    assert len(trail) == events + 2
    assert (trail[0].actor, trail[0].action, trail[0].environment) == (
        "olga",
        "key:created",
        "test",
    )
    assert new_key.key not in str(trail)


def test_a_change_that_fails_leaves_nothing_behind(place: Place) -> None:
    place.consumer("acme")
    before, events = revision(place), len(audit.events(place.engine, limit=100))

    with pytest.raises(AlreadyExists):
        consumers.create_consumer(place.engine, ACTOR, "acme")
    with pytest.raises(UnknownName, match="did you mean 'orders'"):
        consumers.associate(
            place.engine,
            ACTOR,
            "acme",
            ["good", "ordres"],
            "test",
            {"v1/good": "shop", "v1/orders": "shop"},
        )

    assert (revision(place), len(audit.events(place.engine, limit=100))) == (before, events)
    assert consumers.show_consumer(place.engine, "acme").associations == {}


def test_a_key_is_kept_as_its_digest_only_and_never_in_a_repr(place: Place) -> None:
    place.consumer("acme")
    new_key = place.key("acme")

    with place.engine.connect() as connection:
        stored = str(connection.execute(sa.text("SELECT * FROM api_keys")).all())
    assert new_key.key not in stored
    assert new_key.key[8:-4] not in stored
    assert new_key.key not in repr(new_key)
    assert parse_api_key(new_key.key) is not None
    assert parse_api_key(new_key.key[:-1] + ("0" if new_key.key[-1] != "0" else "1")) is None


def test_signing_keys_are_sealed_at_rest_and_open_with_the_right_secret_only(place: Place) -> None:
    with place.engine.connect() as connection:
        stored = (
            connection.execute(sa.text("SELECT private_encrypted FROM signing_keys"))
            .scalars()
            .all()
        )
    assert not any(b"PRIVATE" in bytes(item) for item in stored)
    assert all(b"PRIVATE KEY" in key.private for key in place.snapshot().signing_keys().values())
    assert "PRIVATE" not in repr(place.snapshot().signing_keys())
    with pytest.raises(CannotStart, match="another PENSTOCK_SECRET_KEY"):
        Snapshot("test", SecretBox((make_secret_key(),))).refresh(place.engine)
    Snapshot("test", SecretBox((make_secret_key(), place.secret))).refresh(place.engine)


def test_the_snapshot_reads_what_changed_and_ends_where_a_fresh_one_begins(place: Place) -> None:
    follower = place.snapshot()
    assert follower.refresh(place.engine) is False
    place.consumer("acme", "orders", "stock")
    new_key = place.key("acme")
    parsed = parse_api_key(new_key.key)
    assert parsed is not None
    assert follower.key(parsed.digest) is None

    assert follower.refresh(place.engine) is True
    stored_key = follower.key(parsed.digest)
    assert stored_key is not None
    assert follower.associated(stored_key.consumer_id, "v1/orders")
    consumers.dissociate(place.engine, ACTOR, "acme", ["v1/orders"], "test")
    api_keys.revoke_key(place.engine, ACTOR, new_key.id)
    follower.refresh(place.engine)

    fresh = place.snapshot()
    for view in (follower, fresh):
        assert view.key(parsed.digest) is None
        assert not view.associated(stored_key.consumer_id, "v1/orders")
        assert view.associated(stored_key.consumer_id, "v1/stock")
    assert follower.revision == fresh.revision


def test_what_happens_in_one_environment_is_not_seen_in_another(place: Place) -> None:
    place.consumer("acme", "orders", env="prod")
    parsed = parse_api_key(place.key("acme", "prod").key)
    assert parsed is not None

    assert place.snapshot("test").key(parsed.digest) is None
    assert place.snapshot("prod").key(parsed.digest) is not None


def test_writers_at_the_same_time_take_turns_and_lose_nothing(place: Place) -> None:
    place.consumer("acme")
    before = revision(place)

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: place.key("acme").id, range(24)))

    assert len(ids) == len(api_keys.list_keys(place.engine)) == 24
    assert revision(place) == before + 24


def test_a_rotated_key_gets_a_successor_and_ends_by_itself(place: Place) -> None:
    place.consumer("acme")
    old = place.key("acme")

    new_key, ends = api_keys.rotate_key(place.engine, ACTOR, old.id, timedelta(days=7))

    rows = {str(row.id): row for row in api_keys.list_keys(place.engine, KeyQuery(consumer="acme"))}
    assert rows[new_key.id].state == rows[old.id].state == "usable"
    assert rows[new_key.id].expires_at is None
    assert rows[old.id].expires_at == ends
    assert timedelta(days=6, hours=23) < ends - datetime.now(UTC) <= timedelta(days=7)
    assert rows[old.id].successor == rows[new_key.id].shown_as
    assert rows[old.id].successor_id == new_key.id
    with pytest.raises(PenstockError, match=f"replaced by {new_key.id} already"):
        api_keys.rotate_key(place.engine, ACTOR, old.id, timedelta(days=30))
    assert len(api_keys.list_keys(place.engine)) == 2


def test_a_rotated_key_never_gets_a_longer_life(place: Place) -> None:
    place.consumer("acme")
    old = api_keys.create_key(place.engine, ACTOR, "acme", "test", expires=timedelta(days=2))

    new_key, ends = api_keys.rotate_key(
        place.engine, ACTOR, old.id, datetime.now(UTC) + timedelta(days=30)
    )

    assert ends == old.expires_at
    assert new_key.expires_at is not None
    assert abs(new_key.expires_at - datetime.now(UTC) - timedelta(days=2)) < timedelta(minutes=1)


def test_a_key_whose_successor_was_revoked_is_rotated_again(place: Place) -> None:
    place.consumer("acme")
    old = place.key("acme")
    lost, _ = api_keys.rotate_key(place.engine, ACTOR, old.id, timedelta(days=7))
    api_keys.revoke_key(place.engine, ACTOR, lost.id)

    found, _ = api_keys.rotate_key(place.engine, ACTOR, old.id, timedelta(days=7))

    rows = {row.id: row for row in api_keys.list_keys(place.engine)}
    assert rows[old.id].successor_id == found.id


def test_a_revoked_key_can_be_neither_enabled_nor_rotated(place: Place) -> None:
    place.consumer("acme")
    new_key = place.key("acme")
    api_keys.revoke_key(place.engine, ACTOR, new_key.id)

    with pytest.raises(PenstockError, match="which is final"):
        api_keys.set_key_enabled(place.engine, ACTOR, new_key.id, enabled=True)
    with pytest.raises(PenstockError, match="has ended"):
        api_keys.rotate_key(place.engine, ACTOR, new_key.id, timedelta(days=1))


def test_a_disabled_key_gets_no_successor_that_is_usable(place: Place) -> None:
    place.consumer("acme")
    new_key = place.key("acme")
    api_keys.set_key_enabled(place.engine, ACTOR, new_key.id, enabled=False)

    with pytest.raises(PenstockError, match="is disabled"):
        api_keys.rotate_key(place.engine, ACTOR, new_key.id, timedelta(days=1))

    assert [row.id for row in api_keys.list_keys(place.engine)] == [new_key.id]


def test_new_pipelines_are_associated_with_the_consumers_that_ask_for_them(place: Place) -> None:
    place.consumer("eager")
    place.consumer("calm")
    consumers.associate(place.engine, ACTOR, "eager", [], "test", {}, new_pipelines=True)

    pipelines_seen(place.engine, "runtime", "test", {"v1/orders": "shop"})
    consumers.associate(place.engine, ACTOR, "eager", [], "test", {}, new_pipelines=False)
    pipelines_seen(place.engine, "runtime", "test", {"v1/orders": "shop", "v1/stock": "shop"})
    before = revision(place)
    pipelines_seen(place.engine, "runtime", "test", {"v1/orders": "shop"})

    assert consumers.show_consumer(place.engine, "eager").associations == {"test": ["v1/orders"]}
    assert consumers.show_consumer(place.engine, "calm").associations == {}
    assert revision(place) == before


SERVED = {"v1/old": frozenset({"api_key"})}


class TestGrace:
    """Grace never loosens."""

    def set(
        self, place: Place, policy: str, days: float | None, stopping: tuple[str, ...] = ("v1/old",)
    ) -> None:
        grace = timedelta(days=days) if days else None
        set_policy(
            place.engine, ACTOR, "test", policy, served=SERVED, stopping=stopping, grace=grace
        )

    def until(self, place: Place) -> float | None:
        grace = place.snapshot().graces.get("v1/old")
        return grace.until if grace else None

    def test_a_stopping_pipeline_keeps_what_it_required(self, place: Place) -> None:
        self.set(place, "jwt-api-key", 7)

        assert place.snapshot().graces["v1/old"].requires == {"api_key"}

    def test_a_second_grace_shortens_and_never_extends(self, place: Place) -> None:
        self.set(place, "jwt-api-key", 7)
        first = self.until(place)
        self.set(place, "jwt-api-key", 30)
        assert self.until(place) == first
        self.set(place, "jwt-api-key", 1)
        shorter = self.until(place)
        assert first is not None
        assert shorter is not None
        assert shorter < first

    def test_a_change_without_grace_ends_it(self, place: Place) -> None:
        self.set(place, "jwt-api-key", 7)
        self.set(place, "jwt-api-key", None)

        assert self.until(place) is None

    def test_a_pipeline_that_was_removed_must_comply_when_it_comes_back(self, place: Place) -> None:
        self.set(place, "jwt-api-key", 7)
        pipelines_seen(place.engine, "runtime", "test", {"v1/old": "shop"})
        assert self.until(place) is not None

        pipelines_seen(place.engine, "runtime", "test", {"v1/other": "shop"})

        assert self.until(place) is None


def test_only_the_environment_s_own_tokens_are_revoked(place: Place) -> None:
    place.consumer("acme")
    signing_keys.revoke_tokens(place.engine, ACTOR, "test", consumer="acme")
    signing_keys.revoke_tokens(place.engine, ACTOR, "test", jti="abc")
    now = datetime.now(UTC).timestamp()

    assert place.snapshot("test").token_revoked("x", "acme", now - 5)
    assert place.snapshot("test").token_revoked("abc", "other", now)
    assert not place.snapshot("test").token_revoked("x", "acme", now + 5)
    assert not place.snapshot("prod").token_revoked("abc", "acme", now - 5)


def test_a_dropped_signing_key_is_wiped_and_replaced(place: Place) -> None:
    (before,) = place.snapshot().signing_keys()
    signing_keys.drop_signing_key(place.engine, ACTOR, "test", before, place.box)

    (after,) = place.snapshot().signing_keys()
    assert after != before
    with place.engine.connect() as connection:
        sealed = connection.execute(
            sa.text("SELECT private_encrypted FROM signing_keys WHERE kid = :kid"), {"kid": before}
        ).scalar_one()
    assert bytes(sealed) == b""


def test_a_token_that_was_refused_for_its_key_is_taken_once_the_key_is_known(place: Place) -> None:
    place.consumer("acme")
    behind = place.snapshot()
    signing_keys.rotate_signing_key(place.engine, ACTOR, "test", place.box)
    token, tokens, caller = place.token("acme"), Tokens("penstock"), Caller("acme", 1, "key_1")
    for _ in range(2):
        with pytest.raises(CredentialRejected, match="unknown kid"):
            tokens.verify(token, behind, caller, time.time())

    behind.refresh(place.engine)

    assert tokens.verify(token, behind, caller, time.time()).subject == "ann"


def test_a_token_that_is_bad_for_good_is_not_verified_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.consumer("acme")
    access, tokens, caller = place.snapshot(), Tokens("penstock"), Caller("acme", 1, "key_1")
    forged = place.token("acme")[:-6] + "AAAAAA"
    with pytest.raises(CredentialRejected, match="not verifiable"):
        tokens.verify(forged, access, caller, time.time())
    monkeypatch.setattr("jwt.decode", lambda *_, **__: pytest.fail("it was looked at once more"))

    with pytest.raises(CredentialRejected, match="not verifiable"):
        tokens.verify(forged, access, caller, time.time())
