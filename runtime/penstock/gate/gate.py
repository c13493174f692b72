"""Accept one call or reject it; the problems and their order are those of the access rules.

Authenticators are plugin code. An exception or a value that their contract does not allow is a
fault of that plugin and ends the call. An authenticator can only add to what others have proven: it
can't replace the consumer that the credentials before it prove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from penstock.access.snapshot import Snapshot
from penstock.contracts.authenticators import Once, RequestHead
from penstock.contracts.call import ANONYMOUS, Caller
from penstock.contracts.registered import RegisteredAuthenticator, extends_caller, is_valid_once
from penstock.db.failures import DatabaseUnavailable
from penstock.errors import CredentialRejected, Refusal
from penstock.gate.guesses import Guess
from penstock.plugins.guard import PluginFault, describe_exception

NO_CALLER = (
    "no Caller, one with parts of other types, or another consumer than the one that is proven"
    " already"
)
Sent = tuple[RegisteredAuthenticator, str]
Rejected = tuple[RegisteredAuthenticator, CredentialRejected]
Claim = Callable[[str, Caller, Once], bool]


def unavailable() -> Refusal:
    """Return the problem for a pipeline that is not served. It does not tell the reason."""
    return Refusal(503, "pipeline-unavailable", "This pipeline is not available at the moment.")


class Gate:
    """What each call of one pipeline must present, compiled for one environment.

    `checks` are the authenticators, each with whether it is required. A credential that is sent
    without being required is checked too. `reads_body` is whether a proof needs the body,
    `counts_once` whether a proof may be valid for one call only.
    """

    __slots__ = (
        "_checks",
        "_guessable",
        "_pipeline",
        "_scopes",
        "_until",
        "counts_once",
        "reads_body",
    )

    def __init__(
        self,
        pipeline: str,
        checks: tuple[tuple[RegisteredAuthenticator, bool], ...],
        scopes: frozenset[str],
        until: float,
    ) -> None:
        self._pipeline = pipeline
        self._checks = checks
        self._scopes = scopes
        self._until = until
        self.reads_body = any(authenticator.reads_body for authenticator, _ in checks)
        self.counts_once = any(authenticator.counts_once for authenticator, _ in checks)
        self._guessable = any(authenticator.guessable for authenticator, _ in checks)

    @property
    def checks(self) -> tuple[tuple[RegisteredAuthenticator, bool], ...]:
        """The authenticators in their order, each with whether it is required."""
        return self._checks

    def admit(
        self,
        head: RequestHead,
        access: Snapshot,
        now: float,
        body: Callable[[], bytes] = bytes,
        guess: Callable[[], AbstractContextManager[Guess]] = lambda: nullcontext(Guess()),
        claim: Claim | None = None,
    ) -> Caller:
        """Return the caller. Raises Refusal if the call is rejected, PluginFault for plugin code.

        `now` is in seconds since the epoch. `body` reads the body, and is called only where a proof
        needs it. `guess` counts a guess at a credential before it is checked, and may raise
        Refusal. `claim` gets an authenticator's name, the caller and what the call is unique for;
        it returns whether the call is the first.
        """
        if now >= self._until:
            raise unavailable()
        sent, missing, rejected, in_header = self._sent(head, access)
        if missing:
            raise _missing(missing, access)
        if rejected is not None:
            raise _invalid(*rejected, access)
        if not in_header and head.authorization is not None:
            raise _unsupported(self._checks, access)
        if self._guessable and any(authenticator.guessable for authenticator, _ in sent):
            caller = self._prove_guessed(sent, access, now, guess)
        else:
            caller = self._prove(sent, access, now)
        if self.reads_body or self.counts_once:
            raw = self._signed(access, caller, body) if self.reads_body else b""
            if self.reads_body:
                caller = self._prove_signed(sent, head, access, caller, now, raw)
            if self.counts_once:
                self._count_once(sent, head, access, caller, raw, claim)
        self._authorize(caller, access)
        return caller

    def _sent(
        self, head: RequestHead, access: Snapshot
    ) -> tuple[list[Sent], list[RegisteredAuthenticator], Rejected | None, bool]:
        """Return the credentials that were sent, those that are missing, and the first invalid one.

        The last value is whether the header Authorization holds one of them.
        """
        sent: list[Sent] = []
        rejected: Rejected | None = None
        missing: list[RegisteredAuthenticator] = []
        in_header = False
        for authenticator, required in self._checks:
            try:
                credential = authenticator.find(head, access)
            except CredentialRejected as error:
                rejected = rejected or (authenticator, error)
                continue
            except Refusal:
                raise
            except BaseException as error:  # noqa: BLE001  plugin code may raise anything
                raise _fault(authenticator, "find", error) from None
            if type(credential) is str:
                sent.append((authenticator, credential))
                in_header = in_header or authenticator.uses_authorization_header
            elif credential is not None:
                raise _wrong(authenticator, "find", "neither text nor None")
            elif required:
                missing.append(authenticator)
        return sent, missing, rejected, in_header

    def _prove(self, sent: list[Sent], access: Snapshot, now: float) -> Caller:
        caller = ANONYMOUS
        for authenticator, credential in sent:
            try:
                proven = authenticator.verify(credential, access, caller, now)
            except CredentialRejected as error:
                raise _invalid(authenticator, error, access, caller) from error
            except Refusal:
                raise
            except BaseException as error:  # noqa: BLE001  plugin code may raise anything
                raise _fault(authenticator, "verify", error) from None
            if type(proven) is not Caller or (
                proven is not caller and not extends_caller(proven, caller)
            ):
                raise _wrong(authenticator, "verify", NO_CALLER)
            caller = proven
        return caller

    def _prove_guessed(
        self,
        sent: list[Sent],
        access: Snapshot,
        now: float,
        guess: Callable[[], AbstractContextManager[Guess]],
    ) -> Caller:
        """Prove credentials of which one can be guessed; the guess is counted before the check."""
        with guess() as attempt:
            try:
                caller = self._prove(sent, access, now)
            except Refusal as refusal:
                refusal.counted = True
                raise
            attempt.right = True
        return caller

    def _signed(self, access: Snapshot, caller: Caller, body: Callable[[], bytes]) -> bytes:
        """Return the body that a proof needs. That of a consumer without access is not read."""
        if caller.consumer_id is not None:
            self._authorize(caller, access)
        return body()

    def _prove_signed(
        self,
        sent: list[Sent],
        head: RequestHead,
        access: Snapshot,
        caller: Caller,
        now: float,
        raw: bytes,
    ) -> Caller:
        """Prove the credentials that need the body, after all others."""
        for authenticator, credential in sent:
            if authenticator.reads_body:
                try:
                    proven = authenticator.verify_body(credential, raw, head, access, caller, now)
                except CredentialRejected as error:
                    raise _invalid(authenticator, error, access, caller) from error
                except DatabaseUnavailable as error:
                    raise unavailable() from error
                except Refusal:
                    raise
                except BaseException as error:  # noqa: BLE001  plugin code may raise anything
                    raise _fault(authenticator, "verify_body", error) from None
                if type(proven) is not Caller or not extends_caller(proven, caller):
                    raise _wrong(authenticator, "verify_body", NO_CALLER)
                caller = proven
        return caller

    def _count_once(
        self,
        sent: list[Sent],
        head: RequestHead,
        access: Snapshot,
        caller: Caller,
        raw: bytes,
        claim: Claim | None,
    ) -> None:
        """Reject a copy of a call that is valid once."""
        for authenticator, credential in sent:
            try:
                once = authenticator.once(credential, raw, head)
            except CredentialRejected as error:
                raise _invalid(authenticator, error, access, caller) from error
            except Refusal:
                raise
            except BaseException as error:  # noqa: BLE001  plugin code may raise anything
                raise _fault(authenticator, "once", error) from None
            if once is None:
                continue
            if not is_valid_once(once):
                raise _wrong(
                    authenticator,
                    "once",
                    "neither Once, with bytes and a number of seconds, nor None",
                )
            try:
                first = claim is not None and claim(authenticator.name, caller, once)
            except DatabaseUnavailable as error:
                raise unavailable() from error
            if not first:
                before = CredentialRejected("it came before")
                raise _invalid(authenticator, before, access, caller)

    def _authorize(self, caller: Caller, access: Snapshot) -> None:
        """Raise Refusal, which names the caller, where the caller has no access."""
        try:
            self._require_access(caller, access)
        except Refusal as refusal:
            refusal.caller = caller
            raise

    def _require_access(self, caller: Caller, access: Snapshot) -> None:
        if caller.consumer_id is not None:
            consumer = access.consumer(caller.consumer_id)
            named = consumer is not None and consumer.enabled and consumer.name == caller.consumer
            if not named or not access.associated(caller.consumer_id, self._pipeline):
                raise Refusal(
                    403, "not-associated", "This consumer may not call this pipeline here."
                )
        elif any(required for _, required in self._checks):
            raise Refusal(403, "not-associated", "This consumer may not call this pipeline here.")
        if not self._scopes <= caller.scopes:
            scopes = " ".join(sorted(self._scopes))
            challenge = (
                f'Bearer realm="{access.environment.name}", error="insufficient_scope",'
                f' scope="{scopes}"'
            )
            raise Refusal(
                403,
                "insufficient-scope",
                f"The token must allow: {scopes}.",
                headers=[("WWW-Authenticate", challenge)],
                extra={"scope": scopes},
            )


def _unsupported(
    checks: Sequence[tuple[RegisteredAuthenticator, bool]], access: Snapshot
) -> Refusal:
    """Return the problem of a header Authorization that no authenticator checks.

    Without it the caller would believe that the credential was accepted.
    """
    authenticators = [item for item, _ in checks if item.uses_authorization_header] or [
        item for item, _ in checks
    ]
    headers = [
        ("WWW-Authenticate", f'{item.challenge} realm="{access.environment.name}"')
        for item in authenticators
    ]
    return Refusal(
        401,
        "unsupported-scheme",
        "The scheme of the Authorization header is not supported here.",
        headers=headers,
    )


def _missing(missing: list[RegisteredAuthenticator], access: Snapshot) -> Refusal:
    realm = f'realm="{access.environment.name}"'
    nouns = " and ".join(
        ("an " if item.noun[0] in "AEIOaeio" else "a ") + item.noun for item in missing
    )
    headers = [("WWW-Authenticate", f"{item.challenge} {realm}") for item in missing]
    return Refusal(401, "credentials-missing", f"This call needs {nouns}.", headers=headers)


def _invalid(
    authenticator: RegisteredAuthenticator,
    error: CredentialRejected,
    access: Snapshot,
    caller: Caller = ANONYMOUS,
) -> Refusal:
    """Return the rejection of a credential. `caller` is whom earlier credentials proved."""
    challenge = f'{authenticator.challenge} realm="{access.environment.name}"'
    if authenticator.challenge == "Bearer":
        challenge += ', error="invalid_token"'
    refusal = Refusal(
        401,
        authenticator.refusal,
        f"The {authenticator.noun} is not valid here.",
        headers=[("WWW-Authenticate", challenge)],
    )
    refusal.__cause__ = error
    known = error.caller if type(error.caller) is Caller else ANONYMOUS  # of plugin code
    refusal.caller = caller if caller is not ANONYMOUS else known
    return refusal


def _wrong(authenticator: RegisteredAuthenticator, method: str, what: str) -> PluginFault:
    return PluginFault(
        authenticator.plugin, f"{method} of authenticator {authenticator.name} returned {what}"
    )


def _fault(
    authenticator: RegisteredAuthenticator, method: str, error: BaseException
) -> PluginFault:
    """Return the fault of an authenticator that raised.

    The exception's text is left out, because it may hold the credential.
    """
    raised = describe_exception(error, text=False)
    fault = PluginFault(
        authenticator.plugin, f"{method} of authenticator {authenticator.name} raised {raised}"
    )
    error.__traceback__ = None  # it holds the credential in its frames
    return fault


class ClosedGate(Gate):
    """The gate of a pipeline that is not served."""

    def __init__(self) -> None:
        super().__init__("", (), frozenset(), 0.0)

    def admit(self, *_: object) -> Caller:
        """Accept no call."""
        raise unavailable()


CLOSED = ClosedGate()
