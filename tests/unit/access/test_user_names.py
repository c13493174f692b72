"""Names of users are compared exactly: nothing that only looks like a name, or becomes one when
it is normalised, is that name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.place import ACTOR, Place

from penstock.access import users
from penstock.access.users import Role
from penstock.console.oidc import _name
from penstock.errors import AlreadyExists, UsageError
from penstock_mtls import Certificates

PASSWORD = "correct horse battery"
LIKE_MARK = [
    "mar\u212a@example.org",  # KELVIN SIGN: lower() makes it a k
    "\u00a0mark@example.org",
    "mark@example.org\u00a0",
    "mark@example.org\u0085",
    "mark@example.org\n",
    " mark@example.org",
    "mark@example.org ",
    "\uff4dark@example.org",  # FULLWIDTH: NFKC makes it an m
    "mark@e\u200bxample.org",
    "mark@example.org\0",
    "m\u00e1rk@example.org",
    "mark@\u0130example.org",
    "mark@exa\u017fmple.org",
    "mark",
    "",
]


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    users.create_user(sqlite_place.engine, ACTOR, "mark@example.org", Role.ADMIN, PASSWORD)
    return sqlite_place


@pytest.mark.parametrize("name_of_provider", LIKE_MARK)
@pytest.mark.parametrize("claim", ["email", "preferred_username"])
def test_a_provider_signs_in_no_user_of_another_name(
    place: Place, name_of_provider: str, claim: str
) -> None:
    name = _name({claim: name_of_provider, "email_verified": True}, claim)

    assert (
        name is None or users.find_provider_user(place.engine, name, fold=claim == "email") is None
    )


def test_case_matters_but_for_the_ascii_letters_of_an_address(place: Place) -> None:
    assert (
        users.find_provider_user(place.engine, "Mark@Example.ORG", fold=True) == "mark@example.org"
    )
    assert users.find_provider_user(place.engine, "Mark@Example.ORG", fold=False) is None
    assert (
        users.find_provider_user(place.engine, "mark@example.org", fold=False) == "mark@example.org"
    )


@pytest.mark.parametrize(
    "typed", [text for text in LIKE_MARK if text.strip(" ") != "mark@example.org"]
)
def test_a_password_is_looked_at_for_no_other_name(place: Place, typed: str) -> None:
    assert users.check_password(place.engine, typed, PASSWORD) is None


@pytest.mark.parametrize("typed", ["mark@example.org", " Mark@Example.org\t", "MARK@EXAMPLE.ORG"])
def test_people_may_type_their_name_in_any_case(place: Place, typed: str) -> None:
    assert users.check_password(place.engine, typed, PASSWORD) == "mark@example.org"


@pytest.mark.parametrize(
    "name", [text for text in LIKE_MARK if text.strip(" ") not in {"mark@example.org", "mark"}]
)
def test_a_name_that_would_be_normalised_is_refused_at_creation(place: Place, name: str) -> None:
    with pytest.raises(UsageError, match="can't name a user"):
        users.create_user(place.engine, ACTOR, name, Role.VIEWER, None)


def test_a_user_whom_the_provider_alone_vouches_for_keeps_the_case_of_the_name(
    place: Place,
) -> None:
    assert users.create_user(place.engine, ACTOR, "Ann.Smith", Role.VIEWER, None) == "Ann.Smith"
    assert users.create_user(place.engine, ACTOR, "Bea", Role.VIEWER, PASSWORD) == "bea"

    assert users.find_provider_user(place.engine, "Ann.Smith", fold=False) == "Ann.Smith"
    assert users.find_provider_user(place.engine, "ann.smith", fold=False) is None


@pytest.mark.parametrize("name", ["mark@example.org", "Mark@example.org", " MARK@example.org"])
def test_no_two_users_differ_in_case_alone(place: Place, name: str) -> None:
    for password in (None, PASSWORD):
        with pytest.raises(AlreadyExists):
            users.create_user(place.engine, ACTOR, name, Role.VIEWER, password)


@pytest.mark.parametrize("name", ["dns:mar\u212a.example", "dns:\u0130.example", "uri:\uff41:b"])
def test_names_of_certificates_are_ascii(name: str) -> None:
    enrol: Callable[[str, str], object] = Certificates().enrol

    with pytest.raises(ValueError, match="names no certificate"):
        enrol(name, "")
