"""The planted mutations can be planted: each text is there exactly once, and its tests are
there. `make mutations` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutations import MUTATIONS, ROOT, Edit, Mutation, plant


def test_each_mutation_can_be_planted() -> None:
    assert [problem for mutation in MUTATIONS for problem in mutation.problems(ROOT)] == []


def test_each_leaves_python() -> None:
    for edit in (edit for mutation in MUTATIONS for edit in mutation.edits):
        compile(
            (ROOT / edit.file).read_text(encoding="utf-8").replace(edit.old, edit.new),
            edit.file,
            "exec",
        )


def test_each_has_a_name_of_its_own_and_there_are_many() -> None:
    names = [mutation.name for mutation in MUTATIONS]

    assert (len(names), len(names) >= 45) == (len(set(names)), True)
    assert all(edit.old != edit.new for mutation in MUTATIONS for edit in mutation.edits)


def test_a_stale_mutation_fails_loudly_and_names_what_is_most_like_it(tmp_path: Path) -> None:
    (tmp_path / "gate.py").write_text(
        "if now >= self.until:\n    raise unavailable()\n", encoding="utf-8"
    )
    stale = Mutation(
        "a gate",
        (Edit("gate.py", "if now >= self._until:", "if False:"), Edit("gone.py", "x", "y")),
        "gate.py test_gone.py",
    )

    with pytest.raises(SystemExit) as raised:
        plant(stale, tmp_path)

    assert str(raised.value).splitlines() == [
        (
            "a gate: gate.py has 'if now >= self._until:' 0 times; most like it is: if now >="
            " self.until:"
        ),
        "a gate: gone.py is not there any more",
        "a gate: test_gone.py is not there any more",
    ]
