"""`penstock docs` lists, shows and searches the pages of this version."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from penstock.cli.main import penstock
from penstock.errors import UnknownName
from penstock.manual.pages import all_pages, find_page, search_pages, sections_of


def docs(*words: str) -> Result:
    return CliRunner().invoke(penstock, ["docs", *words], standalone_mode=False, obj=None)


def test_list_has_every_page_but_the_index() -> None:
    done = docs()

    assert done.exit_code == 0
    assert [name for name in all_pages() if name != "README" and name not in done.output] == []


def test_page_is_rendered_without_marks_of_markdown() -> None:
    done = docs("how-to/back-up-and-restore")

    assert "Back up and restore" in done.output
    assert "](" not in done.output
    assert "```" not in done.output


def test_page_is_found_by_the_last_part_of_its_name() -> None:
    assert find_page("problems") == find_page("reference/problems")
    assert find_page("reference/problems.md").title == "Problems"


def test_anchor_shows_one_section() -> None:
    done = docs("problems#rate-limited")

    assert "429" in done.output
    assert "pipeline-busy" not in done.output


def test_raw_page_is_its_markdown() -> None:
    assert docs("--raw", "access").output.strip() == find_page("access").text.strip()


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("problms", "no page is named 'problms'; did you mean 'problems'?"),
        ("problems#rate-limit", "did you mean 'rate-limited'?"),
        ("zzzz", "`penstock docs` lists them"),
    ],
)
def test_unknown_topic_is_one_line_with_exit_code_2(topic: str, text: str) -> None:
    done = docs(topic)

    assert isinstance(done.exception, UnknownName)
    assert done.exception.exit_code == 2
    assert text in str(done.exception)
    assert "\n" not in str(done.exception)


def test_search_lists_sections_with_all_words() -> None:
    done = docs("--search", "signing key rotate")

    assert "how-to/rotate-credentials" in done.output
    assert docs("--search", "xyzzy plugh").return_value == 1
    assert search_pages("  ") == []


def test_words_in_headings_come_first() -> None:
    assert search_pages("pgbouncer")[0].heading == "PgBouncer"


def test_code_in_a_block_is_no_heading() -> None:
    sections = sections_of("# Title\n\n```sh\n# not a heading\n```\n\n## Part\n\n## Part\n")

    assert [section.heading for section in sections] == ["Title", "Part", "Part"]
    assert [section.anchor for section in sections] == ["", "part", "part-1"]


def test_terminal_gets_a_pager_and_a_pipe_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    paged: list[bool] = []
    original = Console.pager

    def pager(console: Console, *words: object, **more: object) -> object:
        paged.append(True)
        return original(console, pager=Silent(), **more)  # type: ignore[arg-type]  # rich's own

    class Silent:
        def show(self, content: str) -> None:
            assert "Access rules" in content

    monkeypatch.setattr(Console, "pager", pager)
    docs("access")
    assert paged == []

    monkeypatch.setattr("penstock.cli.docs.is_terminal", lambda: True)
    docs("access")
    assert paged == [True]
