"""What a server installs is what was tested, and nothing that only developers need."""

from __future__ import annotations

import re
import tomllib

import pytest
from support.place import ROOT

PIN = re.compile(
    r"^([a-z0-9-]+)==(\S+)([^\\\n]*)\\?\n((?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.MULTILINE,
)


def pins(name: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the marker and hashes of each version that a file pins; a name has several versions
    where the systems differ."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = {
        (name, version): (marker.strip(), hashes)
        for name, version, marker, hashes in PIN.findall(text)
    }
    # Those with a space are in markers.
    assert len(found) == text.count("==") - text.count("== ") > 0
    return found


def test_a_server_gets_versions_and_hashes_that_were_tested() -> None:
    production, all_of_them = pins("requirements-prod.lock"), pins("requirements.lock")

    assert {pin: hashes for pin, (_, hashes) in production.items()} == {
        pin: all_of_them[pin][1] for pin in production
    }


@pytest.mark.parametrize(
    "tool",
    ["pytest", "mypy", "ruff", "hypothesis", "playwright", "fastapi", "import-linter", "pydantic"],
)
def test_a_server_gets_no_tools_for_development(tool: str) -> None:
    assert tool not in {name for name, _ in pins("requirements-prod.lock")}
    assert tool in {name for name, _ in pins("requirements.lock")}


def test_a_server_gets_all_that_penstock_needs_and_redis() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[a-z0-9-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]  # each begins with a name

    assert needed | {"redis"} <= {name for name, _ in pins("requirements-prod.lock")}
