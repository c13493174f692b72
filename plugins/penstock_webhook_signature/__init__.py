"""Webhook signatures.

A body that its sender signed with a secret of a consumer, as GitHub, Stripe and Slack do, or in a
plain way for others.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hmac import compare_digest, digest
from inspect import getdoc

from penstock import (
    AccessView,
    Authenticator,
    Caller,
    Credential,
    CredentialRejected,
    Once,
    PluginSetup,
    RequestHead,
    hookimpl,
)

TOLERANCE = 300.0  # seconds between the sender's clock and ours
SHORTEST = 16
# Secrets of a kind in an environment: a call is tried with those of all consumers that may make it.
MOST = 1000
HEX = re.compile(r"[0-9a-f]{64}")
SECONDS = re.compile(r"[0-9]{1,12}")


class Signature(Authenticator):
    """Takes a signature over the body, an HMAC with SHA-256.

    A credential is what `find` packs: the moment, a colon, and the signatures.
    """

    noun = "signature"
    refusal = "invalid-signature"
    challenge = "Signature"
    only_where_asked = True
    reads_body = True
    most = MOST
    credential_headers = ()  # a signature is no secret
    header: str
    timed = True

    def find(self, head: RequestHead, access: AccessView) -> str | None:
        """Return moment and signatures as sent."""
        sent = head.header(self.header)
        if sent is None:
            return None
        moment, signatures = self.parts(sent, head)
        signatures = [text for text in signatures if HEX.fullmatch(text)]
        if not signatures:
            raise CredentialRejected("no signature of that form")
        if self.timed and not SECONDS.fullmatch(moment):
            raise CredentialRejected("no moment, in seconds")
        if not any(True for _ in self._candidates(head, access)):
            raise CredentialRejected("no consumer that may call has a secret")
        return f"{moment}:{','.join(signatures)}"

    @abstractmethod
    def parts(self, sent: str, head: RequestHead) -> tuple[str, list[str]]:
        """Return the moment and the signatures, in hexadecimal, as this kind sends them."""

    @abstractmethod
    def signed(self, moment: str, body: bytes) -> bytes:
        """Return what is signed."""

    def _candidates(self, head: RequestHead, access: AccessView) -> Iterable[Credential]:
        known = access.credentials(self.name).values()
        return (item for item in known if access.associated(item.consumer_id, head.pipeline))

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:  # noqa: ARG002  the body says who it is
        """Check the moment, before the body is read."""
        moment = credential.partition(":")[0]
        if self.timed and abs(now - int(moment)) > TOLERANCE:
            raise CredentialRejected("too old, or from the future")
        return caller

    def verify_body(
        self,
        credential: str,
        body: bytes,
        head: RequestHead,
        access: AccessView,
        caller: Caller,
        now: float,
    ) -> Caller:
        """Return the consumer whose secret signed the body."""
        moment, _, text = credential.partition(":")
        signatures = [bytes.fromhex(item) for item in text.split(",")]
        signer = self._signer(
            signatures,
            self.signed(moment, body),
            (item for item in self._candidates(head, access) if not _expired(item, now)),
        )
        consumer = access.consumer(signer.consumer_id)
        if consumer is None or (
            caller.consumer_id is not None and caller.consumer_id != consumer.id
        ):
            raise CredentialRejected(
                f"{signer.id} is not of the consumer that the other credentials prove"
            )
        return replace(caller, consumer=consumer.name, consumer_id=consumer.id)

    def once(self, credential: str, body: bytes, head: RequestHead) -> Once | None:  # noqa: ARG002  the message says it all
        """Return the signed message, for as long as its moment is taken.

        Without one a repeat can't be told from the first.
        """
        return (
            Once(self.signed(credential.partition(":")[0], body), 2 * TOLERANCE)
            if self.timed
            else None
        )

    @staticmethod
    def _signer(
        signatures: list[bytes], message: bytes, candidates: Iterable[Credential]
    ) -> Credential:
        for candidate in candidates:
            expected = digest(candidate.secret, message, "sha256")
            if any(compare_digest(expected, signature) for signature in signatures):
                return candidate
        raise CredentialRejected("signed by nobody who may call")

    def enrol(self, name: str, secret: str) -> tuple[str, bytes]:
        """Return the secret as its bytes."""
        if len(secret) < SHORTEST:
            raise ValueError(
                f"a signing secret has at least {SHORTEST} characters; --generate makes a good one"
            )
        return name, secret.encode()

    def security_scheme(self) -> Mapping[str, object]:
        """Describe the header, and what is signed and where its moment stands."""
        how = "An HMAC with SHA-256 in hexadecimal" + (
            "; the moment is in seconds since 1970." if self.timed else "."
        )
        return {
            "type": "apiKey",
            "in": "header",
            "name": self.header,
            "description": f"{getdoc(type(self)) or ''} {how}".strip(),
        }


def _prefixed(sent: str, scheme: str) -> list[str]:
    """Return a signature without the name of its scheme.

    Return None where the scheme is another one or is missing.
    """
    return [sent.removeprefix(scheme)] if sent.startswith(scheme) else []


def _expired(credential: Credential, now: float) -> bool:
    return credential.expires_at is not None and credential.expires_at <= now


class GitHub(Signature):
    """`X-Hub-Signature-256: sha256=…` over the body.

    It says no moment, so a repeat can't be told from the first.
    """

    name = "github_signature"
    header = "X-Hub-Signature-256"
    timed = False

    def parts(self, sent: str, head: RequestHead) -> tuple[str, list[str]]:  # noqa: ARG002  all is in one header
        """Return the one signature."""
        return "", _prefixed(sent, "sha256=")

    def signed(self, moment: str, body: bytes) -> bytes:  # noqa: ARG002  there is none
        """Return the body."""
        return body


class Stripe(Signature):
    """`Stripe-Signature: t=…,v1=…` over moment, dot and body.

    While a secret is rolled there are several `v1`.
    """

    name = "stripe_signature"
    header = "Stripe-Signature"

    def parts(self, sent: str, head: RequestHead) -> tuple[str, list[str]]:  # noqa: ARG002  all is in one header
        """Return the moment and all signatures of the scheme v1."""
        pairs = [part.strip(" \t").partition("=")[::2] for part in sent.split(",")]
        moments = [value for name, value in pairs if name == "t"]
        return moments[0] if len(moments) == 1 else "", [
            value for name, value in pairs if name == "v1"
        ][:10]

    def signed(self, moment: str, body: bytes) -> bytes:
        """Return moment, dot and body."""
        return moment.encode() + b"." + body


class Slack(Signature):
    """`X-Slack-Signature: v0=…`, with the moment in `X-Slack-Request-Timestamp`.

    It is over `v0:moment:body`.
    """

    name = "slack_signature"
    header = "X-Slack-Signature"

    def parts(self, sent: str, head: RequestHead) -> tuple[str, list[str]]:
        """Return the moment of the other header, and the one signature."""
        return head.header("X-Slack-Request-Timestamp") or "", _prefixed(sent, "v0=")

    def signed(self, moment: str, body: bytes) -> bytes:
        """Return version, moment and body."""
        return b"v0:" + moment.encode() + b":" + body


class Hmac(Signature):
    """`X-Signature: sha256=…` over moment, dot and body, the moment in `X-Signature-Timestamp`.

    For senders of one's own.
    """

    name = "hmac_signature"
    header = "X-Signature"

    def parts(self, sent: str, head: RequestHead) -> tuple[str, list[str]]:
        """Return the moment of the other header, and the one signature."""
        return head.header("X-Signature-Timestamp") or "", _prefixed(sent, "sha256=")

    def signed(self, moment: str, body: bytes) -> bytes:
        """Return moment, dot and body."""
        return moment.encode() + b"." + body


@hookimpl
def penstock_authenticators(
    setup: PluginSetup,  # noqa: ARG001  the hook's argument
) -> list[Authenticator]:
    """Offer an authenticator for each kind of signature."""
    return [GitHub(), Stripe(), Slack(), Hmac()]
