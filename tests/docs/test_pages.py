"""Every command, option, setting, metric, log event, link and anchor of the documents exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.documents import (
    DOCS,
    PAGES,
    README,
    WRITTEN_BY_HAND,
    anchors,
    commands,
    fault_of,
    links,
    name_of,
    snippets,
    text_of,
)
from support.place import ROOT

from penstock import metrics
from penstock.cli.reference.log_events import events
from penstock.settings import SECRET, SETTINGS
from penstock.testing import CallerClient, Runtime

SETTING_NAMES = {row.name for row in SETTINGS} | {f"{name}_FILE" for name in SECRET}
METRICS = {row.name for row in metrics.METRICS}
PLUGINS = {path.name for path in (ROOT / "plugins").glob("penstock_*")}
DATABASE_ROLES = {"penstock_a", "penstock_b"}
SOURCE = "".join(
    path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "runtime" / "penstock").rglob("*.py"))
)
ALL = [README, *PAGES]
OF_PLUGINS = {"penstock has no command hello"}  # the example of how-to/extend-penstock


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_every_command_and_option_exists(page: Path) -> None:
    faults = {fault for words in commands(page) if (fault := fault_of(words)) is not None}

    assert faults - OF_PLUGINS == set()


def test_pages_name_most_commands() -> None:
    assert len([words for page in WRITTEN_BY_HAND for words in commands(page)]) > 100


def test_unknown_command_or_option_is_reported() -> None:
    assert fault_of(["key", "rotate", "ID", "--grace", "7d"]) is None
    assert fault_of(["key", "mislay"]) == "penstock key has no command mislay"
    assert fault_of(["key", "rotate", "ID", "--soon"]) == "penstock key rotate has no option --soon"
    assert fault_of(["check", "--env"]) is None


@pytest.mark.parametrize("page", [*ALL, *(DOCS / "examples").iterdir()], ids=name_of)
def test_every_setting_exists(page: Path) -> None:
    text = text_of(page).replace("PENSTOCK_*", "")

    assert set(re.findall(r"PENSTOCK_[A-Z_]+", text)) - SETTING_NAMES == set()


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_every_metric_exists(page: Path) -> None:
    names = {
        match
        for snippet in snippets(page)
        for match in re.findall(r"(?<![./\w])penstock_[a-z_]+[a-z](?![\w.]*/)", snippet)
    }
    hooks_and_fixtures = {name for name in names if f"def {name}(" in SOURCE}
    variables = {"penstock_response_headers", "penstock_cors"}

    assert names - METRICS - PLUGINS - DATABASE_ROLES - hooks_and_fixtures - variables == set()


def test_pages_for_operators_name_metrics_and_events() -> None:
    text = "".join(text_of(page) for page in WRITTEN_BY_HAND)

    assert len({name for name in METRICS if name in text}) > 10
    assert len(quoted_events(text)) > 12


@pytest.mark.parametrize("page", WRITTEN_BY_HAND, ids=name_of)
def test_every_event_of_the_log_exists(page: Path) -> None:
    assert {
        event
        for event in quoted_events(text_of(page))
        if event not in SOURCE and not any(pattern.match(event) for pattern in event_patterns())
    } == set()


@cache
def event_patterns() -> list[re.Pattern[str]]:
    """Return what matches the events that the code logs; reading them takes seconds."""
    return [re.compile(re.escape(event.text).replace("…", ".*")) for event in events()]


def quoted_events(text: str) -> set[str]:
    """Return what a page quotes of the log: it writes `log: …` or `the log has …` before."""
    text = " ".join(text.split())
    lists = re.findall(r"\blog(?: has|s|:)? (`[^`]+`(?:, (?:or )?`[^`]+`)*)", text)
    return {event for part in lists for event in re.findall(r"`([^`]+)`", part)}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_every_link_leads_to_a_file_and_its_anchor(page: Path) -> None:
    for target in links(page):
        parts = urlsplit(target)
        if parts.scheme:
            assert parts.scheme in {"https", "http"}, target
            continue
        file = (page.parent / parts.path).resolve() if parts.path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if parts.fragment:
            assert parts.fragment in anchors(file), target


def test_every_page_is_in_the_index_and_in_llms_txt() -> None:
    index = {(DOCS / target.partition("#")[0]).resolve() for target in links(DOCS / "README.md")}
    listed = re.findall(r"\]\(([^)]+\.md)\)", text_of(DOCS / "llms.txt"))

    assert [name_of(page) for page in PAGES if page not in {*index, DOCS / "README.md"}] == []
    assert sorted(listed) == sorted(
        page.relative_to(DOCS).as_posix() for page in PAGES if page != DOCS / "README.md"
    )


@pytest.mark.parametrize("page", WRITTEN_BY_HAND, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """Paths are those of the repository, or of the core without `runtime/penstock/`."""
    roots = (ROOT, ROOT / "runtime" / "penstock")
    written_by_the_reader = {"plugins/greeting.py"}
    paths = {
        snippet
        for snippet in snippets(page)
        if re.fullmatch(r"(?:[a-z_-]+/)*(?:[a-z_]+\.py)?", snippet)
    }

    assert [
        path
        for path in sorted(paths - written_by_the_reader)
        if not any((root / path).exists() for root in roots)
    ] == []


def test_every_name_of_the_test_kit_exists() -> None:
    page = DOCS / "how-to" / "test-a-plugin.md"
    names = {
        (owner, name)
        for snippet in snippets(page)
        for owner, name in re.findall(r"\b(runtime|client)\.(\w+)\(", snippet)
    }
    kinds = {"runtime": Runtime, "client": CallerClient}

    assert len(names) > 8
    assert [name for owner, name in sorted(names) if not hasattr(kinds[owner], name)] == []
