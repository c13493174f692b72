"""Let one call through, or say why not; the answers and their order are those of the access rules."""

from __future__ import annotations

from collections.abc import Callable

from penstock.access.snapshot import Snapshot
from penstock.contracts.access import Authenticator, Once, RequestHead
from penstock.contracts.call import ANONYMOUS, Caller
from penstock.db.engine import DatabaseAway
from penstock.errors import CredentialRejected, Refusal

Claim = Callable[[str, Caller, Once], bool]


def unavailable() -> Refusal:
    """Return the answer for whatever is not served; it never says why."""
    return Refusal(503, "pipeline-unavailable", "This pipeline is not available at the moment.")


class Gate:
    """What each call of one pipeline must present, compiled for one environment.

    `checks` pairs each loaded authenticator with whether it is required; what is not required but sent is checked all the same.
    `reads_body` says that a proof needs the body, `counts_once` that a proof may hold for one call alone.
    """

    __slots__ = ("_checks", "_guessable", "_pipeline", "_scopes", "_until", "counts_once", "reads_body")

    def __init__(self, pipeline: str, checks: tuple[tuple[Authenticator, bool], ...], scopes: frozenset[str], until: float) -> None:
        self._pipeline = pipeline
        self._checks = checks
        self._scopes = scopes
        self._until = until
        self.reads_body = any(authenticator.reads_body for authenticator, _ in checks)
        self.counts_once = any(type(authenticator).once is not Authenticator.once for authenticator, _ in checks)
        self._guessable = any(authenticator.guessable for authenticator, _ in checks)

    def admit(
        self,
        head: RequestHead,
        access: Snapshot,
        now: float,
        body: Callable[[], bytes] = bytes,
        before_guess: Callable[[], object] = object,
        claim: Claim | None = None,
    ) -> Caller:
        """Return who calls. `now` is in seconds since the epoch; `body` reads the body, which is asked for only where a proof needs it.

        `before_guess` is called before a credential is looked at that can be guessed, and may refuse it. `claim` claims what a call counts
        once for: it takes the authenticator's name, the caller and that, and returns whether the call is the first. Raises Refusal.
        """
        if now >= self._until:
            raise unavailable()
        sent: list[tuple[Authenticator, str]] = []
        rejected: tuple[Authenticator, CredentialRejected] | None = None
        missing: list[Authenticator] = []
        for authenticator, required in self._checks:
            try:
                credential = authenticator.find(head, access)
            except CredentialRejected as error:
                rejected = rejected or (authenticator, error)
                continue
            if credential is not None:
                sent.append((authenticator, credential))
            elif required:
                missing.append(authenticator)
        if missing:
            raise self._missing(missing, access)
        if rejected is not None:
            raise self._invalid(*rejected, access)
        if self._guessable and any(authenticator.guessable for authenticator, _ in sent):
            before_guess()
        caller = self._prove(sent, access, now)
        if self.reads_body or self.counts_once:
            caller = self._prove_signed(sent, head, access, caller, now, body, claim)
        self._authorize(caller, access)
        return caller

    def _prove(self, sent: list[tuple[Authenticator, str]], access: Snapshot, now: float) -> Caller:
        caller = ANONYMOUS
        for authenticator, credential in sent:
            try:
                caller = authenticator.verify(credential, access, caller, now)
            except CredentialRejected as error:
                raise self._invalid(authenticator, error, access) from error
        return caller

    def _prove_signed(
        self,
        sent: list[tuple[Authenticator, str]],
        head: RequestHead,
        access: Snapshot,
        caller: Caller,
        now: float,
        body: Callable[[], bytes],
        claim: Claim | None,
    ) -> Caller:
        """Prove what needs the body, once all else held; what is sent by a consumer that may not call is not read. Reject a copy."""
        if self.reads_body and caller.consumer_id is not None:
            self._authorize(caller, access)
        raw = body() if self.reads_body else b""
        for authenticator, credential in sent:
            if authenticator.reads_body:
                try:
                    caller = authenticator.verify_body(credential, raw, head, access, caller, now)
                except CredentialRejected as error:
                    raise self._invalid(authenticator, error, access) from error
        if self.counts_once:
            self._count_once(sent, head, access, caller, raw, claim)
        return caller

    def _count_once(
        self, sent: list[tuple[Authenticator, str]], head: RequestHead, access: Snapshot, caller: Caller, raw: bytes, claim: Claim | None
    ) -> None:
        """Reject a copy of a call that counts once."""
        for authenticator, credential in sent:
            try:
                once = authenticator.once(credential, raw, head)
                if once is None:
                    continue
                if claim is None or not isinstance(once, Once):  # an authenticator that can't say what it means opens nothing
                    raise unavailable()
                first = claim(authenticator.name, caller, once)
            except CredentialRejected as error:
                raise self._invalid(authenticator, error, access) from error
            except DatabaseAway as error:
                raise unavailable() from error
            if not first:
                raise self._invalid(authenticator, CredentialRejected("it came before"), access)

    def _authorize(self, caller: Caller, access: Snapshot) -> None:
        if caller.consumer_id is not None:
            consumer = access.consumer(caller.consumer_id)
            if consumer is None or not consumer.enabled or not access.associated(caller.consumer_id, self._pipeline):
                raise Refusal(403, "not-associated", "This consumer may not call this pipeline here.")
        elif any(required for _, required in self._checks):
            raise Refusal(403, "not-associated", "This consumer may not call this pipeline here.")
        if not self._scopes <= caller.scopes:
            wanted = " ".join(sorted(self._scopes))
            challenge = f'Bearer realm="{access.environment.name}", error="insufficient_scope", scope="{wanted}"'
            raise Refusal(
                403, "insufficient-scope", f"The token must allow: {wanted}.", headers=[("WWW-Authenticate", challenge)], extra={"scope": wanted}
            )

    @staticmethod
    def _missing(missing: list[Authenticator], access: Snapshot) -> Refusal:
        realm = f'realm="{access.environment.name}"'
        wanted = " and ".join(("an " if item.noun[0] in "AEIOaeio" else "a ") + item.noun for item in missing)
        headers = [("WWW-Authenticate", f"{item.challenge} {realm}") for item in missing]
        return Refusal(401, "credentials-missing", f"This call needs {wanted}.", headers=headers)

    @staticmethod
    def _invalid(authenticator: Authenticator, error: CredentialRejected, access: Snapshot) -> Refusal:
        challenge = f'{authenticator.challenge} realm="{access.environment.name}"'
        if authenticator.challenge == "Bearer":
            challenge += ', error="invalid_token"'
        refusal = Refusal(401, authenticator.refusal, f"The {authenticator.noun} is not valid here.", headers=[("WWW-Authenticate", challenge)])
        refusal.__cause__ = error
        return refusal


class ClosedGate(Gate):
    """The gate of a pipeline that is not served."""

    def __init__(self) -> None:
        super().__init__("", (), frozenset(), 0.0)

    def admit(self, *_: object) -> Caller:
        """Let nothing through."""
        raise unavailable()


CLOSED = ClosedGate()
