"""What a handler gets of a request's head: all but the credentials.

`call.caller` says what they proved.

A handler that holds a key or a password can leak it: into a record, a log, an error, a call
onwards. So no credential reaches it, inline or durable, whichever header an operator chose for it.
What is not among them: a signature, which is no secret (it proves one body, once), and cookies but
for the console's own, which pipelines may use for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_plus

CONSOLE_COOKIE = "penstock_console"
# The latter two: RFC 9440.
ALWAYS = frozenset({"authorization", "proxy-authorization", "client-cert", "client-cert-chain"})
BEARER = "bearer"
LEAST_CREDENTIAL = 8  # characters: what is shorter is found in any value
OWS = " \t"  # RFC 9110 section 5.6.3: no other white space surrounds a value


def split_authorization(value: str) -> tuple[str, str]:
    """Return the scheme of an `Authorization` header, in lower case, and the credential.

    See RFC 9110 section 11.6.2.
    """
    value = value.strip(OWS)
    scheme, _, credential = value.partition(" ")
    if "\t" in scheme:
        scheme, _, credential = value.partition("\t")
    return scheme.lower(), credential.strip(OWS)


@dataclass(frozen=True, slots=True)
class Withheld:
    """The headers and query parameters that hold credentials, in lower case."""

    headers: frozenset[str] = ALWAYS
    parameters: frozenset[str] = frozenset()

    @classmethod
    def of(cls, headers: Iterable[str], parameters: Iterable[str] = ()) -> Self:
        """Return all that is withheld: what always is, and these."""
        return cls(ALWAYS | {name.lower() for name in headers if name}, frozenset(parameters))

    def without(self, fields: Mapping[str, str], *, forward_token: bool = False) -> dict[str, str]:
        """Return headers, by names in lower case, without credentials.

        `forward_token` leaves a bearer token where it is.
        """
        kept = {name: value for name, value in fields.items() if name not in self.headers}
        if shown := self._presented(fields):  # once more, under a name of the caller's own
            kept = {name: value for name, value in kept.items() if not _holds(value, shown)}
        if "cookie" in kept and CONSOLE_COOKIE in kept["cookie"]:
            pairs = [
                pair
                for pair in kept.pop("cookie").split(";")
                if pair.partition("=")[0].strip() != CONSOLE_COOKIE
            ]
            if pairs:
                kept["cookie"] = ";".join(pairs).strip()
        if (
            forward_token
            and "authorization" in fields
            and split_authorization(fields["authorization"])[0] == BEARER
        ):
            kept["authorization"] = fields["authorization"]
        return kept

    def query(self, text: str, headers: Callable[[], Mapping[str, str]] = dict) -> str:
        """Return a query string without the parameters that hold credentials.

        They are known by their names, or by what the headers hold.
        """
        if not text:
            return text
        shown = self._presented(headers())

        def kept(pair: str) -> bool:
            name, _, value = pair.partition("=")
            return unquote_plus(name) not in self.parameters and not _holds(
                unquote_plus(value), shown
            )

        return "&".join(pair for pair in text.split("&") if kept(pair))

    def _presented(self, fields: Mapping[str, str]) -> list[str]:
        """Return the credentials among headers."""
        values = [
            value for name in self.headers & fields.keys() for value in _parts(name, fields[name])
        ]
        return [value for value in values if len(value) >= LEAST_CREDENTIAL]


def _parts(name: str, value: str) -> list[str]:
    return (
        [split_authorization(value)[1]]
        if name == "authorization"
        else [part.strip(OWS) for part in value.split(",")]
    )


def _holds(value: str, credentials: Iterable[str]) -> bool:
    """Say whether a value holds one of these credentials."""
    return any(credential in value for credential in credentials)
