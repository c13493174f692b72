"""Values from plugin code become values that encoders and databases accept."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy.exc import DataError, OperationalError

from penstock.contracts.sanitize import as_json, as_msgpack, clean_text, to_plain
from penstock.db.failures import DatabaseUnavailable, is_value_too_large, translated
from penstock.runs.step_records import describe_error


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_clean_text_has_whole_characters_and_no_nul_and_no_keys() -> None:
    assert (
        clean_text("a\ud800b\0c pk_test_ABCDEFGHIJKLMNOPQRSTUV é")
        == "a\N{REPLACEMENT CHARACTER}bc *** é"
    )


@pytest.mark.parametrize(
    ("value", "converted"),
    [
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        (
            {"\udfff": [1, ("\ud800",)]},
            {"\N{REPLACEMENT CHARACTER}": [1, ["\N{REPLACEMENT CHARACTER}"]]},
        ),
        (2**80, str(2**80)),
        (-(2**64), str(-(2**64))),
        (2**64 - 1, 2**64 - 1),
        (
            {(1, 2): date(2026, 1, 2), None: Decimal("1.10")},
            {"(1, 2)": "2026-01-02", "None": "1.10"},
        ),
        (Mute(), "<Mute>"),
        ([b"\xff", None, True, 1.5], [b"\xff", None, True, 1.5]),
    ],
)
def test_any_value_can_be_stored(value: Any, converted: Any) -> None:
    assert to_plain(value) == converted
    msgspec.json.decode(as_json(value))
    msgspec.msgpack.decode(as_msgpack(value), strict=False)


def test_an_endless_value_is_cut_off() -> None:
    endless: list[Any] = []
    endless.append(endless)

    assert as_json(endless).count(b"[") == 64
    assert "…" in to_plain(10**10_000)


def test_an_exception_whose_text_raises_is_described_by_its_type() -> None:
    assert describe_error(Mute()) == "Mute: <Mute>"
    assert (
        describe_error(ValueError("bad \ud800 pk_test_ABCDEFGHIJKLMNOPQRSTUV"))
        == "ValueError: bad \N{REPLACEMENT CHARACTER} ***"
    )


def test_a_value_that_a_database_rejects_differs_from_a_database_that_is_away() -> None:
    large = psycopg.errors.ProgramLimitExceeded("invalid memory alloc request size")

    assert is_value_too_large(OperationalError("INSERT", {}, large))
    assert is_value_too_large(DataError("INSERT", {}, ValueError("string or blob too big")))
    assert not is_value_too_large(
        OperationalError("INSERT", {}, psycopg.OperationalError("server closed the connection"))
    )
    with pytest.raises(OperationalError), translated("the database"):
        raise OperationalError("INSERT", {}, large)
    with pytest.raises(DatabaseUnavailable), translated("the database"):
        raise OperationalError(
            "INSERT", {}, psycopg.OperationalError("server closed the connection")
        )
