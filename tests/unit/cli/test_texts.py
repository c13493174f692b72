"""Texts that people type: their bounds, how errors quote them, and what commands say of them."""

from __future__ import annotations

import pytest
from support.commands import run
from support.place import Place

from penstock.access.texts import LONGEST
from penstock.db.tables import ConsumerRow, LimitRow
from penstock.db.unit_of_work import access_change
from penstock.errors import quoted

PASSWORD = "battery battery horse"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("acme", "'acme'"),
        ("ünï", "'ünï'"),
        ("it's", "'it\N{RIGHT SINGLE QUOTATION MARK}s'"),
        ("a\u202eb\n", "'aU+202EbU+000A'"),
        ("x" * 81, f"'{'x' * 80}…'"),
    ],
)
def test_errors_quote_a_value_in_one_visible_line(value: str, shown: str) -> None:
    assert quoted(value) == shown


def test_no_command_shows_the_repr_of_a_value(sqlite_place: Place) -> None:
    done = run(sqlite_place, "consumer", "create", "it's \u202e")

    assert done.code == 2
    assert done.stderr.startswith(
        "penstock: 'it\N{RIGHT SINGLE QUOTATION MARK}s U+202E' can't name a consumer; use letters"
    )


def test_texts_have_bounds_in_commands(sqlite_place: Place) -> None:
    sqlite_place.consumer("acme")
    (sqlite_place.folder / "plugins").mkdir()
    commands = {
        "description": ("consumer", "create", "globex", "--description"),
        "note": ("key", "create", "acme", "--env", "test", "--note"),
        "reason": ("policy", "set", "test", "any", "--yes", "--reason"),
    }
    for kind, words in commands.items():
        longest = LONGEST[kind]
        right = run(sqlite_place, *words, "x" * longest)
        wrong = run(sqlite_place, *words, "x" * (longest + 1))

        assert right.code == 0, right
        assert (wrong.code, wrong.stderr) == (
            2,
            (
                f"penstock: the {kind} has {longest + 1} characters; write at most {longest}"
                " characters\n"
            ),
        )


def test_a_long_text_of_before_is_shortened_in_tables_alone(sqlite_place: Place) -> None:
    sqlite_place.consumer("acme")
    with access_change(sqlite_place.engine) as rows:
        rows.set(ConsumerRow, {ConsumerRow.name: "acme"}, {ConsumerRow.description: "y" * 20_000})
    table, document = (
        run(sqlite_place, "consumer", "list", "--format", form).stdout for form in ("table", "json")
    )

    assert f"{'y' * 300}…" in table
    assert len(table) < 2000
    assert "y" * 20_000 in document


def test_a_password_is_one_line_of_standard_input(sqlite_place: Place) -> None:
    create = ("user", "create", "vic", "--role", "viewer")
    several = run(sqlite_place, *create, given=f"{PASSWORD}\nsecond line\n")
    single = run(sqlite_place, *create, given=f"{PASSWORD}\r\n")

    assert (several.code, several.stderr) == (
        2,
        "penstock: standard input has several lines; give the password as one line\n",
    )
    assert single.code == 0


def test_removing_limits_names_those_that_stay(sqlite_place: Place) -> None:
    sqlite_place.consumer("acme")
    for rate in ("5/minute", "6/minute", "70/hour"):
        done = run(sqlite_place, "limit", "set", "acme", rate, "--env", "test")
        if rate == "6/minute":
            assert "replaces the limit of before: 5/minute\n" in done.stdout
    with access_change(sqlite_place.engine) as rows:
        rows.set(LimitRow, {LimitRow.rate: "70/hour"}, {LimitRow.pipeline: "v1/orders"})
    done = run(sqlite_place, "limit", "remove", "acme", "--env", "test")

    assert done.stdout == (
        "1 limit of acme removed in test\n"
        "still limited: 70/hour at v1/orders; --pipeline names the pipeline of a limit\n"
    )


@pytest.mark.parametrize(
    "command", [("runs", "list"), ("rejected", "list"), ("usage",)], ids=" ".join
)
def test_an_unknown_pipeline_is_an_error_by_name_and_by_id(
    sqlite_place: Place, command: tuple[str, ...]
) -> None:
    (sqlite_place.folder / "plugins").mkdir()
    for name in ("nothing", "v9/nothing"):
        done = run(sqlite_place, *command, "--pipeline", name)

        assert done.code == 2
        assert done.stderr.startswith(f"penstock: no pipeline is named '{name}'")
