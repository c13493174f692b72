"""The interfaces of other extensions: token issuers, public documents and commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.contracts.access import AccessView

if TYPE_CHECKING:
    from penstock.contracts.call import Token


class TokenIssuer(ABC):
    """Issues the tokens of login flows."""

    @abstractmethod
    def issue(
        self,
        access: AccessView,
        consumer: str,
        *,
        subject: str,
        scopes: frozenset[str],
        lifetime: float | None,
        claims: Mapping[str, object],
        now: float,
    ) -> Token:
        """Return a signed token for a consumer.

        Args:
            access: Access data of the environment, with its signing keys.
            consumer: Name of the consumer that calls the login flow.
            subject: The user who signed in; the claim `sub`.
            scopes: The claim `scope`.
            lifetime: Seconds, or None for the environment's limit.
            claims: Further claims.
            now: Seconds since the epoch.

        Raises:
            TokenNotIssued: The token can't be issued; the text says why.

        """


@dataclass(frozen=True, slots=True)
class Document:
    """A public document below `/.well-known/`, such as a key set, served without credentials.

    Args:
        path: Its path, such as `/.well-known/jwks.json`.
        content_type: Its media type.
        render: Returns its bytes for the access data of now.
        max_age: Seconds that clients may cache it. Default 60.

    """

    path: str
    content_type: str
    render: Callable[[AccessView], bytes]
    max_age: int = 60


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand of `penstock` that a plugin adds.

    Args:
        name: Its name.
        help: Its line in `penstock --help`.
        run: Is called with all further arguments, `--help` included, and returns the exit code.

    """

    name: str
    help: str
    run: Callable[[Iterable[str]], int]
