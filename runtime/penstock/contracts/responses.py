"""Response policies: headers and CORS for all pipelines of an environment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.contracts.cors import Cors
from penstock.contracts.options import Problem
from penstock.header_fields import NAME, PROBLEM_HEADERS

VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
RUNTIME_HEADERS = PROBLEM_HEADERS | {
    "retry-after",
    "set-cookie",
    "vary",
    "www-authenticate",
    "x-request-id",
}


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """A header of every reply.

    Example: `ResponseHeader("X-Frame-Options", "DENY")`.

    Args:
        name: Name of the header.
        value: Its value, in ASCII.
        override: True replaces a header that the pipeline sets. Default False: the pipeline's
            header wins.

    Raises:
        ValueError: Name or value is no header, or the runtime sets that header.

    """

    name: str
    value: str
    override: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no header's name")
        if self.name.lower() in RUNTIME_HEADERS or self.name.lower().startswith("access-control-"):
            raise ValueError(f"{self.name} is set by the runtime, or by CORS")
        if not isinstance(self.value, str) or not VALUE.fullmatch(self.value):
            raise ValueError(f"the value of {self.name} is no header's value")
        if not isinstance(self.override, bool):
            raise ValueError(f"override={self.override!r} of {self.name} is neither True nor False")  # noqa: TRY004  one type for every wrong argument


@dataclass(frozen=True, slots=True)
class ResponsePolicy:
    """Headers and CORS for all pipelines of an environment.

    Args:
        headers: Headers of every reply.
        cors: CORS of pipelines that declare none. Default: none.
        cors_override: True applies `cors` also to pipelines with CORS of their own. Default False.

    """

    headers: tuple[ResponseHeader, ...] = ()
    cors: Cors | None = None
    cors_override: bool = False


def problems_of_response_policy(policy: object) -> Iterable[Problem]:
    """Yield what is wrong with the response policy of a plugin, each with its fix."""
    if not isinstance(policy, ResponsePolicy):
        yield f"it is a {type(policy).__name__}", "return a ResponsePolicy, or None"
        return
    if not isinstance(policy.headers, tuple) or not all(
        isinstance(rule, ResponseHeader) for rule in policy.headers
    ):
        yield (
            "its headers are no headers",
            'give headers=(ResponseHeader("X-Frame-Options", "DENY"),)',
        )
    elif len({rule.name.lower() for rule in policy.headers}) < len(policy.headers):
        yield "it names a header twice", "name it once"
    if not isinstance(policy.cors_override, bool):
        yield (
            f"cors_override={policy.cors_override!r} is neither True nor False",
            "write cors_override=True, or leave it out",
        )
    if policy.cors is not None and not isinstance(policy.cors, Cors):
        yield f"cors={policy.cors!r} is no CORS", 'give cors=Cors(["https://shop.example"])'
    elif policy.cors is not None:
        yield from policy.cors.problems()
