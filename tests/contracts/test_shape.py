"""The code base keeps its shape: small modules and functions, no cycles, one way to run a handler.

The lists of exceptions only shrink.
"""

from __future__ import annotations

import shape

TOO_LONG_MODULES: set[str] = set()
TOO_LONG_FUNCTIONS: set[str] = set()
TOO_LONG_CLASSES: set[str] = set()
# A schedule's body is tried on its handler at load, and the test kit builds calls for unit tests.
STAND_INS = {"endpoints/route_problems.py", "testing/calls.py"}


def too_long(pieces: list[shape.Piece], limit: int) -> set[str]:
    return {piece.name for piece in pieces if piece.lines > limit}


def test_no_module_is_longer_than_400_lines() -> None:
    assert too_long(shape.modules(), shape.MAX_MODULE) == TOO_LONG_MODULES


def test_no_function_is_longer_than_50_lines() -> None:
    assert too_long(shape.functions(), shape.MAX_FUNCTION) == TOO_LONG_FUNCTIONS


def test_no_class_is_longer_than_250_lines() -> None:
    assert too_long(shape.classes(), shape.MAX_CLASS) == TOO_LONG_CLASSES


def test_no_line_is_wider_than_120_columns() -> None:
    assert shape.long_lines() == []


def test_no_modules_import_each_other() -> None:
    assert shape.cycles() == []


def test_the_top_of_the_core_has_these_files_alone() -> None:
    assert {path.stem for path in shape.CORE.glob("*.py")} == shape.TOP_FILES


def test_handlers_are_run_in_one_place() -> None:
    assert [place.partition(":")[0] for place in shape.calls_of("response_of")] == [
        "execution/executor.py"
    ]


def test_calls_are_built_in_one_place() -> None:
    built = {place.partition(":")[0] for place in shape.calls_of("Call")}

    assert built - STAND_INS == {"execution/calls.py"}


def test_few_modules_know_the_whole_host() -> None:
    assert len(set(shape.importers_of("Host", "penstock.host.host"))) <= 12
    assert len(shape.public_names(shape.CORE / "host" / "host.py", "Host")) <= 12
