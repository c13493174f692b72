"""Give the engine the clock that all hosts share.

The engine has no setting for its clock, and compares deadlines and ticks with that of its host. So
its modules get another `time` and another `datetime`. Its minor release is pinned.
"""

from __future__ import annotations

import time
from datetime import datetime, tzinfo
from typing import Any, Self

from dbos import _core, _enqueue_options, _scheduler, _sys_db

from penstock import clock


class SharedTime:
    """The module `time`, except that `time()` returns the shared time."""

    time = staticmethod(clock.now)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  any member of the module
        return getattr(time, name)


class SharedDatetime(datetime):
    """`datetime`, except that `now()` returns the shared time."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Return the shared time."""
        return cls.fromtimestamp(clock.now(), tz)


for _module in (_core, _enqueue_options, _sys_db):
    vars(_module)["time"] = SharedTime()
vars(_scheduler)["datetime"] = SharedDatetime
