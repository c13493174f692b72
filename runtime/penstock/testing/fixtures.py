"""The pytest fixture that starts runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from penstock.testing.runtime import Runtime


class StartRuntime(Protocol):
    """The type of the fixture `penstock_runtime`."""

    def __call__(self, *plugins: object, policy: str = "jwt-api-key", **settings: Any) -> Runtime:  # noqa: ANN401  each has its type
        """Start a runtime. The arguments are those of `Runtime`, without the folder."""


@pytest.fixture
def penstock_runtime(tmp_path: Path) -> Iterator[StartRuntime]:
    """Start runtimes, for example `penstock_runtime(my_plugin, policy="api-key")`.

    They stop at the end of the test.
    """
    with ExitStack() as stack:
        yield lambda *plugins, **options: stack.enter_context(
            Runtime(tmp_path, *plugins, **options)
        )
