"""Generated passwords are accepted, for users of every name."""

from __future__ import annotations

import argon2
import pytest
from support.place import Place

from penstock.access import passwords
from penstock.db.engine import reading
from penstock.db.tables import UserRow
from penstock.db.unit_of_work import RowReader
from penstock.errors import UsageError


@pytest.mark.parametrize("name", ["a", "vic", "anna"])
def test_a_generated_password_is_accepted_for_its_user(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    offered = iter([f"x{name.upper()}x4tY8_kLmNoPqRs", "aaaaaaaaaaaaaaaa", "b7Zk2-QwErTy9uIp"])
    monkeypatch.setattr(passwords.secrets, "token_urlsafe", lambda _: next(offered))

    password = passwords.generate_password(name)

    assert passwords.hash_password(name, password).startswith("$argon2id$")


@pytest.mark.parametrize("password", ["Anna-has-a-long-one", "abababababababab", "too-short"])
def test_a_password_that_is_easy_to_guess_is_not(password: str) -> None:
    with pytest.raises(UsageError):
        passwords.hash_password("anna", password)


def test_a_stored_password_takes_as_much_work_to_guess_as_that_of_an_unknown_user(
    sqlite_place: Place,
) -> None:
    made = sqlite_place.run(
        "user", "create", "vic", "--role", "admin", given="correct horse staple\n"
    )

    with reading(sqlite_place.engine) as connection:
        row = RowReader(connection).find(UserRow, {UserRow.name: "vic"})
    assert made.returncode == 0, made.stderr
    assert row is not None
    assert row.password is not None
    unknown = argon2.extract_parameters(passwords.HASH_OF_UNKNOWN)
    assert argon2.extract_parameters(row.password) == unknown
