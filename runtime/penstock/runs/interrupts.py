"""Exceptions that end a run in this process, which no handler may catch."""

from __future__ import annotations


class Interrupted(BaseException):
    """A run can't continue in this process."""


class NonDeterministicPipeline(Interrupted):
    """The steps of a recovered run differ from those that are recorded."""


class ResultNotStorable(Interrupted):
    """The engine can't store the result of a run, now or later."""


class EngineUnavailable(Interrupted):
    """The engine can't continue a run now; the run will be recovered."""


class KeyMissing(EngineUnavailable):
    """A stored value of the run is encrypted with a key that this process does not have.

    Another worker may have it.
    """


class RunReleased(EngineUnavailable):
    """The run no longer belongs to this process.

    It was cancelled or timed out, another process has recovered it, or this process is stopping.
    """
