"""A caller is a value: it can't be changed, only copied, and its repr hides the token's claims."""

from __future__ import annotations

import pytest

from penstock import Caller


def test_a_caller_can_be_copied_with_other_fields_but_not_changed() -> None:
    caller = Caller("acme", 1, key_id="k1")

    proven = caller.replace(subject="ann", scopes=frozenset({"read"}))

    assert (proven.consumer, proven.subject, caller.subject) == ("acme", "ann", None)
    with pytest.raises(AttributeError):
        caller.consumer = "wonka"  # type: ignore[misc]  # what must fail


def test_the_claims_of_one_caller_are_not_those_of_another() -> None:
    first, second = Caller(), Caller()

    first.claims["email"] = "ann@example.com"  # type: ignore[index]  # plugin code can try

    assert second.claims == {}


def test_the_repr_of_a_caller_hides_the_claims() -> None:
    caller = Caller("acme", 1, claims={"email": "ann@example.com"})

    assert "acme" in repr(caller)
    assert "ann@example.com" not in repr(caller)
