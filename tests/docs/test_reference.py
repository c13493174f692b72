"""The pages of docs/reference/ are those that the code writes, and they are complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import click
import pytest
from support.place import ROOT

import penstock as surface
from penstock import HttpTrigger, Pipeline, Schedule, hookspecs, metrics
from penstock.cli.main import penstock
from penstock.cli.reference import reference_pages
from penstock.cli.reference.commands import walk
from penstock.cli.reference.operations import STATUS_MEMBERS
from penstock.contracts.problem_types import CALL_PROBLEMS, RUN_PROBLEMS
from penstock.settings import SETTINGS
from penstock.testing import Runtime

FOLDER = ROOT / "docs" / "reference"
NAMES = sorted(path.name for path in FOLDER.iterdir())
SOURCE = "".join(
    path.read_text(encoding="utf-8")
    for folder in ("runtime/penstock", "plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.name.startswith("test_")
)


@cache
def pages() -> dict[str, str]:
    """Return what the code writes; not every process that collects tests needs it."""
    return reference_pages(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_reference_page_is_what_the_code_writes(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `make docs-reference`"


def test_reference_has_no_page_beyond_those_of_the_code() -> None:
    assert set(NAMES) == set(pages())


def test_every_command_and_option_is_in_the_reference() -> None:
    commands = dict(walk(penstock, "penstock"))

    assert len(commands) > 60
    for words, command in commands.items():
        section = pages()["commands.md"].partition(f"\n## `{words}`\n")[2].partition("\n## ")[0]
        assert section, words
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[0] in section, f"{words} {option.opts[0]}"


def test_every_setting_is_in_the_reference() -> None:
    assert [row.name for row in SETTINGS if f"| `{row.name}` |" not in pages()["settings.md"]] == []


def test_every_hook_is_in_the_reference() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("penstock_")]

    assert len(hooks) >= 10
    assert [name for name in hooks if f"\n## {name}\n" not in pages()["hooks.md"]] == []


def test_every_public_name_is_in_the_reference() -> None:
    written = pages()["declarations.md"] + pages()["plugin-api.md"]

    assert [name for name in surface.__all__ if f"\n## {name}\n" not in written] == []


@pytest.mark.parametrize("kind", [HttpTrigger, Pipeline, Schedule])
def test_every_option_of_a_declaration_is_in_the_reference(kind: type) -> None:
    section = (
        pages()["declarations.md"].partition(f"\n## {kind.__name__}\n")[2].partition("\n## ")[0]
    )
    names = [name for name in kind.__init__.__annotations__ if name != "return"]  # type: ignore[misc]  # it is there

    assert len(names) > 4
    assert [name for name in names if not re.search(rf"\b{name}\b", section)] == []


def test_every_metric_is_in_the_reference() -> None:
    assert [
        row.name for row in metrics.METRICS if f"`{row.name}`" not in pages()["metrics.md"]
    ] == []


def test_every_member_of_the_status_is_in_the_reference(
    penstock_runtime: Callable[..., Runtime],
) -> None:
    listed = [name for names, _ in STATUS_MEMBERS for name in names]

    assert listed == list(penstock_runtime().application.host.health.status())


def test_every_problem_type_of_the_code_is_in_the_reference() -> None:
    raised = set(re.findall(r'Refusal\(\s*(\d{3}),\s*"([a-z-]+)"', SOURCE))
    raised |= set(re.findall(r'(\d{3}), problem="([a-z-]+)"', SOURCE))
    raised |= set(re.findall(r'\b([45]\d\d), "([a-z]+(?:-[a-z]+)+)"', SOURCE))
    raised |= {("401", name) for name in re.findall(r'problem = "(invalid-[a-z-]+)"', SOURCE)}
    listed = {
        (str(status), item.name)
        for item in (*CALL_PROBLEMS, *RUN_PROBLEMS)
        for status in item.statuses
    }
    of_other_layers = {("408", "body-late")}  # a fault's name, which no client sees

    assert len(raised) > 20
    assert raised - of_other_layers <= listed


def test_every_problem_type_has_a_heading_of_its_own() -> None:
    names = {item.name for item in (*CALL_PROBLEMS, *RUN_PROBLEMS)}

    assert [name for name in names if pages()["problems.md"].count(f"\n### {name}\n") != 1] == []


def test_every_event_of_the_log_is_in_the_reference() -> None:
    events = set(re.findall(r'\.(?:info|warning|error|exception)\(\s*"([^"%]+)"', SOURCE))

    assert len(events) > 40
    assert [event for event in events if f"`{event}`" not in pages()["log-events.md"]] == []
