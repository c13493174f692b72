"""Generated passwords are accepted, for users of every name."""

from __future__ import annotations

import pytest

from penstock.access import passwords
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
