"""Write `docs/reference/` of the checkout that this command runs in: `make docs-reference`."""

from __future__ import annotations

import sys
from pathlib import Path

from penstock.cli.reference import write

sys.stdout.write(f"written: {', '.join(write(Path.cwd())) or 'nothing, all pages are current'}\n")
