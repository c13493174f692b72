"""Access data that was changed by hand or damaged: what can't be read grants nothing, and what
it might restrict is closed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support.place import ACTOR, Place

from penstock import Rate, parse_api_key
from penstock.access import (
    apply_changes,
    callbacks,
    consumers,
    credentials,
    issuers,
    limits,
    policies,
    sensitive_fields,
    sessions,
    signing_keys,
    users,
    variables,
)
from penstock.access.pipelines import pipelines_seen
from penstock.access.snapshot import Snapshot
from penstock.access.users import Role
from penstock.errors import CannotStart, UsageError

HASH = (
    "$argon2id$v=19$m=65536,t=3,p=4$uHTSQXSWywBzep3VSFaCAg"
    "$Z3M4ks3w0hNXS1jQnopYEqp5OvfkJaqB8q0JBf5w5zw"
)


def by_hand(place: Place, statement: str, **values: Any) -> None:
    """Change rows as somebody with a shell of the database would, and have them read again."""
    with place.engine.begin() as connection:
        table = statement.split()[1]
        connection.execute(sa.text(statement), values)
        connection.execute(sa.text("UPDATE revision SET value = value + 1"))
        if table not in {"users", "new_pipelines"}:
            connection.execute(
                sa.text(f"UPDATE {table} SET revision = (SELECT value FROM revision)")
            )


def digest(key: str) -> bytes:
    parsed = parse_api_key(key)
    assert parsed is not None
    return parsed.digest


class Everything:
    """An environment with one of each."""

    def __init__(self, place: Place) -> None:
        self.place = place
        place.consumer("acme", "orders")
        self.key = place.key("acme").key
        self.id = place.snapshot().consumer_named("acme").id  # type: ignore[union-attr]  # it was just made
        place.designate("login")
        variables.set_variable(place.engine, ACTOR, "test", "erp_url", "https://erp")
        variables.set_secret(
            place.engine,
            ACTOR,
            "test",
            "erp_token",
            "secret",
            place.box,
            pipelines=["orders"],
            offered={"v1/orders": "shop"},
        )
        limits.set_limit(place.engine, ACTOR, "acme", "test", Rate("5/minute"))
        limits.set_networks(place.engine, ACTOR, "acme", "test", ["192.0.2.0/24"], allowed=True)
        callbacks.allow_callbacks(
            place.engine,
            ACTOR,
            "acme",
            "test",
            "https://erp.example/hooks",
            place.box,
            private=False,
        )
        sensitive_fields.add_fields(place.engine, ACTOR, "test", ["iban"])
        signing_keys.revoke_tokens(place.engine, ACTOR, "test", jti="gone")
        issuers.trust_issuer(
            place.engine,
            ACTOR,
            "test",
            issuers.parse_issuer("https://id.example", "penstock"),
            own="penstock",
        )
        credentials.add_credential(
            place.engine,
            ACTOR,
            "acme",
            "test",
            kind="basic",
            name="ann",
            secret="x",
            box=place.box,
            enrol=lambda name, _: (name, HASH.encode()),
        )
        policies.set_policy(
            place.engine,
            ACTOR,
            "test",
            "api-key",
            served={"v1/old": frozenset({"api_key"})},
            stopping=["v1/old"],
            grace=timedelta(days=7),
        )


GRANTS: dict[str, tuple[str, Callable[[Everything, Snapshot], object]]] = {
    "a key whose flag is a word": (
        "UPDATE api_keys SET enabled = 'no'",
        lambda it, view: view.key(digest(it.key)),
    ),
    "a key whose flag is another number": (
        "UPDATE api_keys SET enabled = 7",
        lambda it, view: view.key(digest(it.key)),
    ),
    "a key whose end is no moment": (
        "UPDATE api_keys SET expires_at = 'later'",
        lambda it, view: good_now(view.key(digest(it.key))),
    ),
    "a disabled consumer": (
        "UPDATE consumers SET enabled = 'no'",
        lambda it, view: view.consumer(it.id),
    ),
    "an association": (
        "UPDATE associations SET active = 'no'",
        lambda it, view: view.associated(it.id, "v1/orders"),
    ),
    "a pipeline": (
        "UPDATE pipelines SET enabled = 'yes'",
        lambda _, view: view.pipeline("v1/login").enabled,
    ),
    "a login flow": (
        "UPDATE pipelines SET login_flow = 'yes'",
        lambda _, view: view.pipeline("v1/login").login_flow,
    ),
    "a grace": ("UPDATE graces SET active = 'yes'", lambda _, view: view.graces),
    "a grace without an end": (
        "UPDATE graces SET until = 'never'",
        lambda _, view: any(item.until > time.time() for item in view.graces.values()),
    ),
    "a grace that requires nothing known": (
        "UPDATE graces SET requires = '{}'",
        lambda _, view: view.graces,
    ),
    "a grace that is no JSON": (
        "UPDATE graces SET requires = '[\"api'",
        lambda _, view: view.graces,
    ),
    "a credential": (
        "UPDATE credentials SET sealed = 'x'",
        lambda _, view: view.credentials("basic"),
    ),
    "a variable": ("UPDATE variables SET active = 'yes'", lambda _, view: view.variables),
    "a secret": (
        "UPDATE pipeline_secrets SET active = 'yes'",
        lambda _, view: view.secrets_for("v1/orders"),
    ),
    "a secret of a text of pipelines": (
        "UPDATE pipeline_secrets SET pipelines = '\"v1/orders\"'",
        lambda _, view: view.secrets_for("v1/orders"),
    ),
    "a secret of no list": (
        "UPDATE pipeline_secrets SET pipelines = '[\"or'",
        lambda _, view: view.secrets_for("v1/orders"),
    ),
    "a secret that can't be decrypted": (
        "UPDATE pipeline_secrets SET sealed = x'00'",
        lambda _, view: view.secrets_for("v1/orders"),
    ),
    "a signing key": (
        "UPDATE signing_keys SET private_encrypted = x'00'",
        lambda _, view: view.signing_keys(),
    ),
    "an issuer": ("UPDATE issuers SET active = 'yes'", lambda _, view: view.trusted_issuers()),
    "an issuer's keys": ("UPDATE issuers SET keys = '[1'", lambda _, view: view.trusted_issuers()),
    "an issuer's consumers": (
        "UPDATE issuers SET consumers = '[]'",
        lambda _, view: view.trusted_issuers(),
    ),
    "a callback": (
        "UPDATE callback_targets SET active = 'yes'",
        lambda it, view: view.callbacks.get(it.id),
    ),
    "keys in the query": (
        "UPDATE environments SET keys_in_query = 'no'",
        lambda _, view: view.environment.keys_in_query,
    ),
    "the lifetime of tokens": (
        "UPDATE environments SET token_lifetime = 'long'",
        lambda _, view: view.environment.token_lifetime,
    ),
}


def good_now(key: Any) -> bool:
    return (
        key is not None and (key.expires_at is None or key.expires_at > time.time()) and key.usable
    )


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("case", GRANTS)
def test_an_unreadable_row_grants_nothing_and_is_reported(
    sqlite_place: Place, case: str, live: bool
) -> None:
    it = Everything(sqlite_place)
    statement, granted = GRANTS[case]
    view = sqlite_place.snapshot()
    assert (
        granted(it, view)
        or "flow" in case
        or case == "keys in the query"
        or "pipelines" in statement
    )

    by_hand(sqlite_place, statement)
    if live:
        view.refresh(sqlite_place.engine)
    elif "encrypted" in statement or "sealed" in statement:
        # A process reports at its start that its key is another one.
        with pytest.raises(CannotStart):
            sqlite_place.snapshot()
        return
    else:
        view = sqlite_place.snapshot()

    assert not granted(it, view)
    if not statement.startswith(
        (
            "UPDATE pipelines",
            "UPDATE associations",
            "UPDATE graces SET until",
            "UPDATE api_keys SET expires",
        )
    ):
        assert view.unreadable_rows or "active" in statement
    assert view.age() < 60


RESTRICTS: dict[str, tuple[str, Callable[[Everything, Snapshot], object]]] = {
    "a rate": (
        "UPDATE limits SET rate = 'often'",
        lambda it, view: view.networks[it.id].admit("192.0.2.1"),
    ),
    "a limit's flag": (
        "UPDATE limits SET active = 'no'",
        lambda it, view: view.networks[it.id].admit("192.0.2.1"),
    ),
    "a network": (
        "UPDATE address_rules SET network = 'here'",
        lambda it, view: view.networks[it.id].admit("192.0.2.1"),
    ),
    "a network's flag": (
        "UPDATE address_rules SET active = 'no'",
        lambda it, view: view.networks[it.id].admit("192.0.2.1"),
    ),
    "whether a network may": (
        "UPDATE address_rules SET allowed = 'x'",
        lambda it, view: view.networks[it.id].admit("192.0.2.1"),
    ),
    "a revocation": (
        "UPDATE revocations SET jti = NULL",
        lambda _, view: not view.token_revoked("any", "acme", time.time()),
    ),
    "a sensitive field": (
        "UPDATE sensitive_fields SET active = 'no'",
        lambda _, view: "iban" not in view.sensitive,
    ),
    "a sensitive field's name": (
        "UPDATE sensitive_fields SET field = x'00'",
        lambda _, view: view.environment.record_bodies != "none",
    ),
    "what is recorded": (
        "UPDATE environments SET record_bodies = 'some'",
        lambda _, view: view.environment.record_bodies != "none",
    ),
    "how long runs are kept": (
        "UPDATE environments SET run_retention = 'short'",
        lambda _, view: view.environment.run_retention < 86_400 * 3650,
    ),
}


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("case", RESTRICTS)
def test_a_restriction_that_can_not_be_read_closes_what_it_may_concern(
    sqlite_place: Place, case: str, live: bool
) -> None:
    it = Everything(sqlite_place)
    statement, granted = RESTRICTS[case]
    view = sqlite_place.snapshot()

    by_hand(sqlite_place, statement)
    if live:
        view.refresh(sqlite_place.engine)
    else:
        view = sqlite_place.snapshot()

    assert not granted(it, view)
    assert view.unreadable_rows or "active = 'no'" in statement


def test_a_doubt_ends_when_the_row_is_good_again(sqlite_place: Place) -> None:
    it = Everything(sqlite_place)
    view = sqlite_place.snapshot()
    for good, bad in (
        ("UPDATE limits SET rate = '5/minute'", "often"),
        ("UPDATE revocations SET jti = 'gone'", "NULL"),
    ):
        by_hand(
            sqlite_place, good.rpartition("=")[0] + ("= NULL" if bad == "NULL" else f"= '{bad}'")
        )
        view.refresh(sqlite_place.engine)
        assert view.unreadable_rows
        by_hand(sqlite_place, good)
        view.refresh(sqlite_place.engine)

    assert view.unreadable_rows == ()
    assert view.networks[it.id].admit("192.0.2.1")
    assert not view.token_revoked("any", "acme", time.time())


MOVED: dict[str, tuple[str, Callable[[Everything, Snapshot], object]]] = {
    "a key's digest": (
        "UPDATE api_keys SET digest = :digest",
        lambda it, view: view.key(digest(it.key)),
    ),
    "a key's consumer": (
        "UPDATE api_keys SET consumer_id = 99",
        lambda it, view: (
            view.key(digest(it.key)) is not None and view.key(digest(it.key)).consumer_id == it.id
        ),  # type: ignore[union-attr]  # asked before
    ),
    "a signing key's kid": (
        "UPDATE signing_keys SET kid = 'new' WHERE environment_id = 1",
        lambda it, view: set(view.signing_keys()) - {"new"},
    ),
    "an association's pipeline": (
        "UPDATE associations SET pipeline = 'v1/stock'",
        lambda it, view: view.associated(it.id, "v1/orders"),
    ),
    "an association's consumer": (
        "UPDATE associations SET consumer_id = 2",
        lambda it, view: view.associated(it.id, "v1/orders"),
    ),
    "a credential's name": (
        "UPDATE credentials SET name = 'bob'",
        lambda _, view: view.credentials("basic").get("ann"),
    ),
    "a credential's kind": (
        "UPDATE credentials SET kind = 'mtls'",
        lambda _, view: view.credentials("basic"),
    ),
    "an issuer's name": (
        "UPDATE issuers SET issuer = 'https://b.example'",
        lambda _, view: view.trusted_issuers().get("https://id.example"),
    ),
    "a variable's name": (
        "UPDATE variables SET name = 'other'",
        lambda _, view: view.variables.get("erp_url"),
    ),
    "a secret's name": (
        "UPDATE pipeline_secrets SET name = 'other'",
        lambda _, view: view.secrets.get("erp_token"),
    ),
    "a pipeline's name": (
        "UPDATE pipelines SET name = 'v1/other'",
        lambda _, view: view.pipeline("v1/login").login_flow,
    ),
    "a grace's pipeline": (
        "UPDATE graces SET pipeline = 'v1/other'",
        lambda _, view: view.graces.get("v1/old"),
    ),
    "a callback's prefix": (
        "UPDATE callback_targets SET prefix = 'https://b.example'",
        lambda it, view: [target for target in view.callbacks[it.id] if "erp" in target.prefix],
    ),
}


@pytest.mark.parametrize("case", MOVED)
def test_the_previous_values_of_a_row_changed_by_hand_do_not_count(place: Place, case: str) -> None:
    place.consumer("second")
    it = Everything(place)
    statement, is_granted = MOVED[case]
    if "consumer_id = 99" in statement:
        statement = statement.replace("99", str(place.snapshot().consumer_named("second").id))  # type: ignore[union-attr]  # it was just made
    if case == "an association's consumer":
        statement = statement.replace("= 2", f"= {place.snapshot().consumer_named('second').id}")  # type: ignore[union-attr]  # the same
    view = place.snapshot()
    assert is_granted(it, view)

    by_hand(place, statement, **({"digest": b"\x07" * 32} if ":digest" in statement else {}))
    view.refresh(place.engine)

    assert not is_granted(it, view)
    assert view.unreadable_rows == ()


def test_a_user_whose_flag_is_a_word_can_not_sign_in(sqlite_place: Place) -> None:
    users.create_user(sqlite_place.engine, ACTOR, "ann", Role.ADMIN, "correct horse battery")
    by_hand(sqlite_place, "UPDATE users SET active = 'no'")

    assert users.check_password(sqlite_place.engine, "ann", "correct horse battery") is None
    with pytest.raises(UsageError, match="may not sign in"):
        sessions.begin_session(
            sqlite_place.engine,
            "ann",
            lifetime=timedelta(hours=1),
            address="",
            agent="",
            how="password",
        )


def test_a_pipeline_whose_mark_of_being_seen_is_damaged_is_no_new_one(sqlite_place: Place) -> None:
    sqlite_place.consumer("eager")
    pipelines_seen(sqlite_place.engine, "runtime", "test", {"v1/orders": "shop"})
    consumers.associate(sqlite_place.engine, ACTOR, "eager", [], "test", {}, new_pipelines=True)
    by_hand(sqlite_place, "UPDATE pipelines SET seen = 'x'")

    pipelines_seen(sqlite_place.engine, "runtime", "test", {"v1/orders": "shop"})

    assert consumers.show_consumer(sqlite_place.engine, "eager").associations == {}


def test_a_check_names_the_row_and_exits_with_1(sqlite_place: Place) -> None:
    Everything(sqlite_place)
    by_hand(sqlite_place, "UPDATE limits SET rate = 'often'")

    done = sqlite_place.run("check")

    assert done.returncode == 1
    assert "unreadable: limits 1: rate can't be read" in done.stdout


class TestBroken:
    """A change that can't be applied at all."""

    def test_it_leaves_no_view_that_can_be_used_and_is_read_anew_when_it_can(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        it = Everything(place)
        view = place.snapshot()
        place.consumer("fresh")
        take = apply_changes._apply_variables  # noqa: SLF001  half of a change is applied before it

        def fail(*_: object) -> None:
            raise SystemExit(0)

        monkeypatch.setattr(apply_changes, "_apply_variables", fail)
        with pytest.raises(SystemExit):
            view.refresh(place.engine)
        broken = view.age()
        with pytest.raises(SystemExit):
            view.refresh(place.engine)
        monkeypatch.setattr(apply_changes, "_apply_variables", take)
        view.refresh(place.engine)

        assert broken == float("inf")
        assert view.age() < 60
        assert view.consumer_named("fresh") is not None
        assert view.key(digest(it.key)) is not None

    def test_a_pipeline_row_without_a_name_closes_all_for_it_may_be_any_that_is_disabled(
        self, sqlite_place: Place
    ) -> None:
        Everything(sqlite_place)
        view = sqlite_place.snapshot()
        by_hand(sqlite_place, "UPDATE pipelines SET name = x'00'")

        with pytest.raises(ValueError, match="name can't be read"):
            view.refresh(sqlite_place.engine)

        assert view.age() == float("inf")
