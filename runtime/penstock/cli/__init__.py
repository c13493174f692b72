"""The command line: `penstock …`.

Exit codes: 0 good, 1 the answer is no, 2 usage, 3 can't start.
"""

from penstock.cli.main import main

__all__ = ["main"]
