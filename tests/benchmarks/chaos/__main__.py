"""Play scenarios, print what came of them, and exit 1 where a promise was broken."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator

from benchmarks.chaos import database, kills, plugins, restores, revocations, stops
from benchmarks.chaos.network import isolate
from benchmarks.chaos.trial import POSTGRESQL, SCENARIOS, SQLITE, Trial, play, show

MODULES = (database, plugins, restores, stops, kills, revocations)  # each registers its scenarios
APART = ("kills", "revocations")  # they take minutes: played where they are named


def _place(name: str) -> tuple[float, str]:
    """Return where a scenario comes in the table: h2 before h10, and those without a number
    last."""
    number = re.search(r"\d+", name)
    return float(number[0]) if number else float("inf"), name


def main() -> None:
    """Play what is named, or all faults."""
    parser = argparse.ArgumentParser(
        prog="make chaos", description="Faults that a host must survive."
    )
    parser.add_argument("names", nargs="*", help=f"all faults by default: {', '.join(SCENARIOS)}")
    parser.add_argument("--on", choices=(POSTGRESQL, SQLITE), help="on this database alone")
    parser.add_argument(
        "--short", action="store_true", help="the form for CI: shorter faults, fewer calls"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(SCENARIOS):
        parser.error(
            f"no scenario is named {', '.join(sorted(unknown))}; there are: {', '.join(SCENARIOS)}"
        )
    isolate(sys.argv[1:])
    names = chosen.names or sorted((name for name in SCENARIOS if name not in APART), key=_place)

    def trials() -> Iterator[Trial]:
        for name in names:
            item = SCENARIOS[name]
            for kind in item.databases:
                if chosen.on in {None, kind}:
                    yield play(item, kind, short=chosen.short)

    sys.exit(0 if show(trials()) else 1)


if __name__ == "__main__":
    main()
