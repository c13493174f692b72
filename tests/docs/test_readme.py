"""The README is short and true: its map names files that exist, and the rules know every plugin."""

from __future__ import annotations

import re
import tomllib

from support.documents import DOCS, README, text_of
from support.place import ROOT

TABLE_OF_POLICIES = re.compile(r"\| policy \| no toggle .*?\n\n", re.DOTALL)


def test_readme_has_150_lines_at_most() -> None:
    assert len(text_of(README).splitlines()) <= 150


def test_screenshot_of_the_console_is_small() -> None:
    assert (DOCS / "images" / "console.png").stat().st_size <= 200_000


def test_policies_are_those_of_the_rules_of_access() -> None:
    table = TABLE_OF_POLICIES.search(text_of(README))

    assert table is not None
    assert table[0] in text_of(DOCS / "explanation" / "access.md")


def test_map_names_what_is_there() -> None:
    paths: list[str] = []
    folder = ""
    for line in text_of(README).partition("## Map")[2].split("```")[1].splitlines():
        match = re.match(r"( *)(\S+)  +\S", line)
        if match is None:
            continue
        folder = folder if match[1] else ""
        paths.append(folder + match[2])
        folder = match[2] if match[2].endswith("/") and not match[1] else folder

    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_way_of_a_call_names_five_files() -> None:
    paragraph = text_of(README).partition("## Map")[2].partition("```")[0]
    files = re.findall(r"`([\w/]+\.py)`", paragraph)
    roots = (ROOT, ROOT / "runtime" / "penstock")

    assert len(files) == 5
    assert [name for name in files if not any((root / name).exists() for root in roots)] == []


def test_map_names_every_package() -> None:
    text = text_of(README).partition("## Map")[2]
    packages = [path.parent.name for path in (ROOT / "runtime" / "penstock").glob("*/__init__.py")]
    small = {"logs", "metrics"}

    assert [name for name in packages if f"  {name}/" not in text and name not in small] == []


def test_lint_rules_know_every_plugin_that_ships() -> None:
    shipped = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = {contract["id"]: contract for contract in configured["importlinter"]["contracts"]}

    assert set(configured["importlinter"]["root_packages"]) == {"penstock", *shipped}
    assert set(configured["mypy"]["packages"]) == {"penstock", *shipped}
    assert set(contracts["core-imports-no-plugin"]["forbidden_modules"]) == shipped
    assert set(contracts["plugins-use-the-surface"]["source_modules"]) == shipped
    assert set(contracts["plugins-are-independent"]["modules"]) == shipped
    assert all((ROOT / "plugins" / name / "README.md").is_file() for name in shipped)
    assert all(list((ROOT / "plugins" / name).glob("test_*.py")) for name in shipped)


def test_plugins_may_use_only_the_surface_of_the_core() -> None:
    packages = {
        f"penstock.{path.stem}"
        for path in (ROOT / "runtime" / "penstock").iterdir()
        if not path.name.startswith("_")
    }
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    (contract,) = [
        contract
        for contract in configured["contracts"]
        if contract["id"] == "plugins-use-the-surface"
    ]

    assert set(contract["forbidden_modules"]) == packages - {"penstock.testing", "penstock.py"}
