"""What an environment's replies have in common: headers and CORS, set once for all its pipelines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock.contracts.triggers import Cors

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
FRAMING = frozenset({"connection", "content-encoding", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
OURS = FRAMING | {"content-type", "date", "retry-after", "server", "set-cookie", "vary", "www-authenticate", "x-request-id"}


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """A header of every reply: in place of a pipeline's own where it says `override`, else only where the pipeline sets none.

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


@dataclass(frozen=True, slots=True)
class ResponsePolicy:
    """Headers and CORS for all pipelines of an environment; with `cors_override` also for those that have CORS of their own."""

    headers: tuple[ResponseHeader, ...] = ()
    cors: Cors | None = None
    cors_override: bool = False
