"""What an environment's replies have in common.

Headers and CORS, set once for all its pipelines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.contracts.cors import Cors
from penstock.header_fields import NAME, PROBLEM

VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
OURS = PROBLEM | {"retry-after", "set-cookie", "vary", "www-authenticate", "x-request-id"}


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """A header of every reply.

    With `override` it replaces a pipeline's own; without, it is set where the pipeline sets none.

    Raises ValueError for what is no header, or one that the runtime itself sets.
    """

    name: str
    value: str
    override: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no header's name")
        if self.name.lower() in OURS or self.name.lower().startswith("access-control-"):
            raise ValueError(f"{self.name} is set by the runtime, or by what CORS says")
        if not isinstance(self.value, str) or not VALUE.fullmatch(self.value):
            raise ValueError(f"the value of {self.name} is no header's value")
        if not isinstance(self.override, bool):
            raise ValueError(f"override={self.override!r} of {self.name} is neither True nor False")  # noqa: TRY004  one error for what makes no sense


@dataclass(frozen=True, slots=True)
class ResponsePolicy:
    """Headers and CORS for all pipelines of an environment.

    With `cors_override` also for those that have CORS of their own.
    """

    headers: tuple[ResponseHeader, ...] = ()
    cors: Cors | None = None
    cors_override: bool = False


def problems_of(said: object) -> Iterable[tuple[str, str]]:
    """Yield what makes no sense about what a plugin said, each with its mend."""
    if not isinstance(said, ResponsePolicy):
        yield f"it is a {type(said).__name__}", "return a ResponsePolicy, or None"
        return
    if not isinstance(said.headers, tuple) or not all(
        isinstance(rule, ResponseHeader) for rule in said.headers
    ):
        yield (
            "its headers are no headers",
            'give headers=(ResponseHeader("X-Frame-Options", "DENY"),)',
        )
    elif len({rule.name.lower() for rule in said.headers}) < len(said.headers):
        yield "it names a header twice", "name it once"
    if not isinstance(said.cors_override, bool):
        yield (
            f"cors_override={said.cors_override!r} is neither True nor False",
            "write cors_override=True, or leave it out",
        )
    if said.cors is not None and not isinstance(said.cors, Cors):
        yield f"cors={said.cors!r} is no CORS", 'give cors=Cors(["https://shop.example"])'
    elif said.cors is not None:
        yield from said.cors.problems()
