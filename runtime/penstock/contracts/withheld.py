"""Remove credentials from the head of a request before a handler receives it.

A handler that has a key or a password can leak it: into a record, a log, an error, or a request of
its own. So handlers receive no credential, inline or durable, in whichever header operators
configured it. `call.caller` has the facts that the credentials proved.

Two things are not removed. A signature is no secret: it proves one body, once. Cookies belong to
pipelines, except the console's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_plus

CONSOLE_COOKIE = "penstock_console"
CREDENTIAL_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "client-cert", "client-cert-chain"}
)
BEARER = "bearer"
MIN_CREDENTIAL_LENGTH = 8  # characters; shorter texts occur in values by chance
OWS = " \t"  # optional white space around a value (RFC 9110 section 5.6.3)


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
    """Names of the headers and query parameters that contain credentials, in lower case."""

    headers: frozenset[str] = CREDENTIAL_HEADERS
    parameters: frozenset[str] = frozenset()

    @classmethod
    def of(cls, headers: Iterable[str], parameters: Iterable[str] = ()) -> Self:
        """Return the usual names together with these."""
        return cls(
            CREDENTIAL_HEADERS | {name.lower() for name in headers if name}, frozenset(parameters)
        )

    def without(self, fields: Mapping[str, str], *, forward_token: bool = False) -> dict[str, str]:
        """Return headers without credentials, by their names in lower case.

        `forward_token` keeps a bearer token.
        """
        safe = {name: value for name, value in fields.items() if name not in self.headers}
        if credentials := self._presented(fields):  # which may be repeated under another name
            safe = {name: value for name, value in safe.items() if not _holds(value, credentials)}
        if "cookie" in safe and CONSOLE_COOKIE in safe["cookie"]:
            pairs = [
                pair
                for pair in safe.pop("cookie").split(";")
                if pair.partition("=")[0].strip() != CONSOLE_COOKIE
            ]
            if pairs:
                safe["cookie"] = ";".join(pairs).strip()
        if (
            forward_token
            and "authorization" in fields
            and split_authorization(fields["authorization"])[0] == BEARER
        ):
            safe["authorization"] = fields["authorization"]
        return safe

    def query(self, text: str, headers: Callable[[], Mapping[str, str]] = dict) -> str:
        """Return a query string without the parameters that contain credentials.

        That is decided by name, and by comparison with the credentials in the headers.
        """
        if not text:
            return text
        credentials = self._presented(headers())

        def is_safe(pair: str) -> bool:
            name, _, value = pair.partition("=")
            return unquote_plus(name) not in self.parameters and not _holds(
                unquote_plus(value), credentials
            )

        return "&".join(pair for pair in text.split("&") if is_safe(pair))

    def _presented(self, fields: Mapping[str, str]) -> list[str]:
        """Return the credentials in these headers."""
        values = [
            value for name in self.headers & fields.keys() for value in _parts(name, fields[name])
        ]
        return [value for value in values if len(value) >= MIN_CREDENTIAL_LENGTH]


def _parts(name: str, value: str) -> list[str]:
    return (
        [split_authorization(value)[1]]
        if name == "authorization"
        else [part.strip(OWS) for part in value.split(",")]
    )


def _holds(value: str, credentials: Iterable[str]) -> bool:
    """Return whether a value contains one of these credentials."""
    return any(credential in value for credential in credentials)
