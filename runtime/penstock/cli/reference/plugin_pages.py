"""Join the READMEs of the plugins that ship into one page."""

from __future__ import annotations

import re
from pathlib import Path

INTRO = """# Plugins that ship

Each of these plugins uses the hooks of [Hooks](hooks.md) and nothing else. Your plugins can do the
same. The demo of `make run` is not part of the wheel.
"""


def page(folder: Path) -> str:
    """Return the page; `folder` is the folder of plugins in a checkout."""
    parts = [INTRO]
    for path in sorted(folder.glob("*/README.md")):
        text = path.read_text(encoding="utf-8").strip()
        parts.append(re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE))
    return "\n\n".join(parts)
