"""Write the pages of `docs/reference/` from the code.

`make docs-reference` runs this package in a checkout. A test fails where a page differs from what
this package returns, so a reference page is never edited by hand.
"""

from __future__ import annotations

from pathlib import Path

from penstock.cli.reference import commands, log_events, operations, plugin_api, plugin_pages

NOTE = "<!-- Written by `make docs-reference`; do not edit. -->"


def reference_pages(root: Path) -> dict[str, str]:
    """Return the Markdown of each page by its file name; `root` is the folder of the checkout."""
    pages = {
        "commands.md": commands.page(),
        "settings.md": operations.settings(),
        "hooks.md": plugin_api.hooks(),
        "declarations.md": plugin_api.declarations(),
        "plugin-api.md": plugin_api.surface(),
        "problems.md": operations.problems(),
        "metrics.md": operations.metrics(),
        "log-events.md": log_events.page(),
        "plugins.md": plugin_pages.page(root / "plugins"),
    }
    return {name: f"{NOTE}\n\n{text.strip()}\n" for name, text in pages.items()}


def write(root: Path) -> list[str]:
    """Write the pages that differ, and return their names."""
    folder = root / "docs" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in reference_pages(root).items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            written.append(name)
    return written
