"""The client certificate authenticator (mutual TLS).

A consumer's certificate is recognised by its fingerprint, or by one of its alternative names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256

from cryptography import x509

from penstock import (
    AccessView,
    Authenticator,
    Caller,
    Credential,
    CredentialRejected,
    PluginSetup,
    RequestHead,
    hookimpl,
)

FINGERPRINT = re.compile(r"(?:sha256:)?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.IGNORECASE)
SUBJECT = re.compile(r"(dns|uri):(\S{1,240})", re.IGNORECASE)


class Certificates(Authenticator):
    """Accepts a certificate that was verified by TLS here, or by a trusted proxy."""

    name = "mtls"
    noun = "client certificate"
    refusal = "invalid-certificate"
    challenge = "Mutual-TLS"
    only_where_asked = True
    asks_for_secret = False
    credential_headers = ()  # the runtime withholds the proxy's header

    def find(self, head: RequestHead, access: AccessView) -> str | None:  # noqa: ARG002  the same in every environment
        """Return the certificate in hexadecimal, None if there is none."""
        certificate = head.certificate
        return None if certificate is None else certificate.hex()

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return the consumer of the certificate. Raises CredentialRejected."""
        der = bytes.fromhex(credential)
        try:
            certificate = x509.load_der_x509_certificate(der)
            names = list(_names(certificate))
        except ValueError as error:
            raise CredentialRejected("no certificate") from error
        moment = datetime.fromtimestamp(now, UTC)
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            raise CredentialRejected("expired, or not yet valid")
        stored = access.credentials(self.name)
        fingerprint = f"sha256:{sha256(der).hexdigest()}"
        matching = _matching(stored, [fingerprint], now) or _matching(stored, names, now)
        owners = {credential.consumer_id for credential in matching}
        if len(owners) != 1:
            raise CredentialRejected("of several consumers" if owners else "of no consumer")
        consumer = access.consumer(owners.pop())
        if consumer is None or (
            caller.consumer_id is not None and caller.consumer_id != consumer.id
        ):
            raise CredentialRejected("not of the consumer that the other credentials prove")
        return caller.replace(consumer=consumer.name, consumer_id=consumer.id)

    def enrol(self, name: str, secret: str) -> tuple[str, bytes]:  # noqa: ARG002  a certificate has no secret here
        """Return the name under which a certificate is stored, without a secret.

        It is `sha256:` and a fingerprint, or `dns:` or `uri:` and a subject alternative name.
        Raises ValueError for any other name.
        """
        fingerprint = FINGERPRINT.fullmatch(name)
        if fingerprint:
            return f"sha256:{fingerprint[1].replace(':', '').lower()}", b""
        subject = SUBJECT.fullmatch(name)
        if subject is None or "*" in name or not name.isascii():
            raise ValueError(
                f"{name!r} names no certificate; give its SHA-256 fingerprint, or dns:NAME or"
                " uri:NAME of its subject alternative names"
            )
        return f"{subject[1].lower()}:{_comparable(subject[1], subject[2])}", b""

    def security_scheme(self) -> Mapping[str, object]:
        """Return the OpenAPI description of mutual TLS."""
        return {"type": "mutualTLS"}


def _matching(
    stored: Mapping[str, Credential], names: Iterable[str], now: float
) -> list[Credential]:
    """Return the credentials of these names that have not expired."""
    credentials = [stored[name] for name in names if name in stored]
    return [item for item in credentials if item.expires_at is None or now < item.expires_at]


def _names(certificate: x509.Certificate) -> Iterable[str]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except x509.ExtensionNotFound:
        return
    for name in alternatives.get_values_for_type(x509.DNSName):
        yield f"dns:{_comparable('dns', name)}"
    for name in alternatives.get_values_for_type(x509.UniformResourceIdentifier):
        yield f"uri:{name}"


def _comparable(kind: str, name: str) -> str:
    """Return a name in the form in which it is compared: DNS names in lower case."""
    # DNS ignores the case of ASCII letters only: U+212A, the Kelvin sign, is not a k.
    return name.lower() if kind.lower() == "dns" and name.isascii() else name


@hookimpl
def penstock_authenticators(
    setup: PluginSetup,  # noqa: ARG001  the hook's argument
) -> list[Authenticator]:
    """Offer the client certificate authenticator."""
    return [Certificates()]
