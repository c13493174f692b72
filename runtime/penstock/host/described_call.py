"""A call that a user describes, for `penstock explain` and the page Explain alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from penstock.access.presented_keys import key_of
from penstock.contracts.triggers import SCOPE
from penstock.db.engine import Engine
from penstock.errors import UsageError
from penstock.gate.attempts import UNKNOWN_KEY, Attempt, Token
from penstock.host.explanation import presented

UNKNOWN = "unknown"  # a key that is not stored
KEY_START = "pk_"


@dataclass(frozen=True, slots=True)
class DescribedCall:
    """A call as a user describes it; empty fields are those that it does not have.

    `key` is the ID or the last characters of a key, or `unknown`: never the key itself. `token` is
    none, valid, invalid or other; empty, it is valid with scopes and none without.
    """

    consumer: str = ""
    key: str = ""
    token: str = ""
    scopes: tuple[str, ...] = ()
    address: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is described, so that the gate itself is asked for."""
        return not any((self.consumer, self.key, self.token, self.scopes, self.address))

    @property
    def sent_token(self) -> Token:
        """The token of the call."""
        if self.token:
            return Token(self.token)
        return Token.VALID if self.scopes else Token.NONE

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with a field, and the field. No text contains a key."""
        if self.token and self.token not in set(Token):
            yield "token", f"“{self.token}” is no token; choose {', '.join(Token)}"
            return
        if self.key.startswith(KEY_START):
            yield "key", "a key itself is not taken; name it by its ID or its last four characters"
        elif self.key not in {"", UNKNOWN} and not self.consumer:
            yield "key", "a stored key needs its consumer; name the consumer too"
        if self.sent_token in {Token.VALID, Token.OTHER} and not self.consumer:
            yield "consumer", "a token needs the consumer that calls; name the consumer too"
        for scope in self.scopes:
            if not SCOPE.fullmatch(scope):
                yield "scope", f"“{scope}” is no scope; write a word without spaces and quotes"
        if self.scopes and self.sent_token is Token.NONE:
            yield "scope", "a call without a token has no scopes; leave them out"
        if self.address and not _is_address(self.address):
            yield "address", f"“{self.address}” is no IP address; write one such as 192.0.2.7"

    def attempt(self, engine: Engine, pipeline: str, *, internal: bool) -> Attempt:
        """Return the call to a pipeline, by its id, on a listener.

        Raises UsageError, and UnknownName for a key that its consumer does not have.
        """
        for field, problem in self.problems():
            raise UsageError(f"--{field}: {problem}")
        key = None
        if self.key == UNKNOWN:
            key = UNKNOWN_KEY
        elif self.key:
            key = presented(key_of(engine, self.consumer, self.key))
        return Attempt(
            pipeline,
            self.consumer or None,
            key,
            self.sent_token,
            frozenset(self.scopes),
            self.address,
            internal=internal,
        )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
