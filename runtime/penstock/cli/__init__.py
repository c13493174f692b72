"""The command line: `penstock …`.

Exit codes: 0 success, 1 failure or a negative answer, 2 usage error, 3 can't start.
"""

from penstock.cli.main import main

__all__ = ["main"]
