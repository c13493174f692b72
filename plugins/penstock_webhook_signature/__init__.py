"""Webhook signatures: the sender signs the body with a secret of a consumer.

The formats are those of GitHub, Stripe and Slack, and a simple one for other senders.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
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

TOLERANCE_S = 300.0  # between the sender's clock and this host's
MIN_SECRET_LENGTH = 16
# Secrets of a kind in an environment: a call is tried with those of all consumers with access.
MAX_SECRETS = 1000
HEX = re.compile(r"[0-9a-f]{64}")
SECONDS = re.compile(r"[0-9]{1,12}")


class Signature(Authenticator):
    """Accepts a signature over the body, an HMAC with SHA-256.

    Its credential is the moment, a colon, and the signatures, separated by commas.
    """

    noun = "signature"
    refusal = "invalid-signature"
    challenge = "Signature"
    only_where_asked = True
    reads_body = True
    most = MAX_SECRETS
    credential_headers = ()  # a signature is no secret
    header: str
    timed = True

    def find(self, head: RequestHead, access: AccessView) -> str | None:
        """Return the moment and the signatures, None if there are none.

        Raises CredentialRejected.
        """
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
        stored = access.credentials(self.name).values()
        return (item for item in stored if access.associated(item.consumer_id, head.pipeline))

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:  # noqa: ARG002  the body proves the consumer
        """Check the moment before the body is read. Raises CredentialRejected."""
        moment = credential.partition(":")[0]
        if self.timed and abs(now - int(moment)) > TOLERANCE_S:
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
        """Return the consumer whose secret signed the body. Raises CredentialRejected."""
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
        return caller.replace(consumer=consumer.name, consumer_id=consumer.id)

    def once(self, credential: str, body: bytes, head: RequestHead) -> Once | None:  # noqa: ARG002  the message is enough
        """Return the signed message as unique for as long as its moment is accepted.

        Without a moment a copy can't be distinguished from the first message.
        """
        return (
            Once(self.signed(credential.partition(":")[0], body), 2 * TOLERANCE_S)
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
        raise CredentialRejected("signed by no consumer that may call")

    def enrol(self, name: str, secret: str) -> tuple[str, bytes]:
        """Return the name and the secret as bytes. Raises ValueError."""
        if len(secret) < MIN_SECRET_LENGTH:
            raise ValueError(
                f"a signing secret has at least {MIN_SECRET_LENGTH} characters; --generate makes a"
                " good one"
            )
        return name, secret.encode()

    def security_scheme(self) -> Mapping[str, object]:
        """Return the OpenAPI description: the header, the signed text, and the moment."""
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
    """Return a signature without its scheme; nothing for another scheme."""
    return [sent.removeprefix(scheme)] if sent.startswith(scheme) else []


def _expired(credential: Credential, now: float) -> bool:
    return credential.expires_at is not None and credential.expires_at <= now


class GitHub(Signature):
    """`X-Hub-Signature-256: sha256=…` over the body.

    It has no moment, so a copy can't be distinguished from the first message.
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

    While a secret is being replaced, there are several `v1`.
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

    The signature is over `v0:moment:body`.
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

    For senders that you write yourself.
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
