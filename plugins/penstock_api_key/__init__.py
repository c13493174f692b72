"""The API key authenticator: the caller is the consumer that owns the key."""

from __future__ import annotations

from collections.abc import Mapping

from penstock import (
    AccessView,
    Authenticator,
    Caller,
    CredentialRejected,
    PluginSetup,
    RequestHead,
    hookimpl,
    parse_api_key,
)

QUERY = ("api_key", "apikey")
# The white space around a value (RFC 9110 section 5.6.3); str.strip would remove more characters.
OWS = " \t"


class ApiKeys(Authenticator):
    """Accepts a key in one of the headers, and in the query string if the environment allows it."""

    name = "api_key"
    noun = "API key"
    refusal = "invalid-api-key"
    challenge = "ApiKey"

    def __init__(self, headers: tuple[str, ...]) -> None:
        self._headers = headers
        self.credential_headers = headers
        self.credential_parameters = QUERY

    def find(self, head: RequestHead, access: AccessView) -> str | None:
        """Return the key as sent, None if there is none.

        Raises CredentialRejected for different keys, and for one in a query string that the
        environment does not allow.
        """
        sent: set[str] = set()
        for header in self._headers:
            value = head.header(header)
            if value is not None:
                sent.update([part.strip(OWS) for part in value.split(",")])
        for parameter in QUERY:
            for value in head.query(parameter):
                if not access.environment.keys_in_query:
                    raise CredentialRejected(
                        "a key in the query string, which this environment does not allow"
                    )
                sent.add(value)
        if not sent:
            return None
        if len(sent) > 1:
            raise CredentialRejected("several keys with different values")
        return sent.pop()

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return the consumer of the key. Raises CredentialRejected."""
        parsed = parse_api_key(credential)
        if parsed is None or parsed.environment != access.environment.name:
            raise CredentialRejected("malformed, mistyped or of another environment")
        key = access.key(parsed.digest)
        if key is None:
            raise CredentialRejected("unknown")
        consumer = access.consumer(key.consumer_id)
        if consumer is None:
            raise CredentialRejected(f"{key.id} has no consumer")
        caller = Caller(consumer=consumer.name, consumer_id=consumer.id, key_id=key.id)
        if not key.usable:
            raise CredentialRejected(f"{key.id} is disabled or revoked", caller)
        if key.expires_at is not None and key.expires_at <= now:
            raise CredentialRejected(f"{key.id} has expired", caller)
        return caller

    def security_scheme(self) -> Mapping[str, object]:
        """Return the OpenAPI description of the first header."""
        return {"type": "apiKey", "in": "header", "name": self._headers[0]}


@hookimpl
def penstock_authenticators(setup: PluginSetup) -> list[Authenticator]:
    """Offer the API key authenticator."""
    return [ApiKeys(setup.api_key_headers)]
