"""Let one call through, or say why not; the answers and their order are those of the access rules.

Authenticators are plugin code: whatever one returns or raises that its contract does not know is a
fault of that plugin, and ends the call. What was proven stays: an authenticator adds to it, and
can't put another consumer in place of the one that the credentials before it prove.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from penstock.access.snapshot import Snapshot
from penstock.contracts.authenticators import Once, RequestHead
from penstock.contracts.call import ANONYMOUS, Caller
from penstock.contracts.registered import RegisteredAuthenticator, extends_caller, is_valid_once
from penstock.db.failures import DatabaseUnavailable
from penstock.errors import CredentialRejected, Refusal
from penstock.gate.guesses import Look
from penstock.plugins.guard import PluginFault, described

NO_CALLER = (
    "no Caller, one with parts of other types, or another consumer than the one that is proven"
    " already"
)
Sent = tuple[RegisteredAuthenticator, str]
Rejected = tuple[RegisteredAuthenticator, CredentialRejected]
Claim = Callable[[str, Caller, Once], bool]


def unavailable() -> Refusal:
    """Return the answer for whatever is not served; it never says why."""
    return Refusal(503, "pipeline-unavailable", "This pipeline is not available at the moment.")


class Gate:
    """What each call of one pipeline must present, compiled for one environment.

    `checks` pairs each loaded authenticator with whether it is required; what is not required but
    sent is checked all the same. `reads_body` says that a proof needs the body, `counts_once` that
    a proof may hold for one call alone.
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

    def admit(
        self,
        head: RequestHead,
        access: Snapshot,
        now: float,
        body: Callable[[], bytes] = bytes,
        guess: Callable[[], AbstractContextManager[Look]] = lambda: nullcontext(Look()),
        claim: Claim | None = None,
    ) -> Caller:
        """Return who calls.

        `now` is in seconds since the epoch; `body` reads the body, which is asked for only where a
        proof needs it.

        `guess` counts a look at a credential that can be guessed, before it is taken, and may
        refuse it. `claim` claims what a call counts once for: it takes the authenticator's name,
        the caller and that, and returns whether the call is the first. Raises Refusal, and
        PluginFault for an authenticator that does what it must not.
        """
        if now >= self._until:
            raise unavailable()
        sent, missing, rejected, spoken = self._sent(head, access)
        if missing:
            raise self._missing(missing, access)
        if rejected is not None:
            raise self._invalid(*rejected, access)
        if not spoken and head.authorization is not None:
            raise self._unsupported(access)
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
        """Return the credentials that were sent, and what is wrong with them.

        That is: those that are missing, the first that can't be one, and whether `Authorization`
        holds one.
        """
        sent: list[Sent] = []
        rejected: Rejected | None = None
        missing: list[RegisteredAuthenticator] = []
        spoken = False
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
                spoken = spoken or authenticator.uses_authorization_header
            elif credential is not None:
                raise _wrong(authenticator, "find", "neither text nor None")
            elif required:
                missing.append(authenticator)
        return sent, missing, rejected, spoken

    def _prove(self, sent: list[Sent], access: Snapshot, now: float) -> Caller:
        caller = ANONYMOUS
        for authenticator, credential in sent:
            try:
                proven = authenticator.verify(credential, access, caller, now)
            except CredentialRejected as error:
                raise self._invalid(authenticator, error, access) from error
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
        guess: Callable[[], AbstractContextManager[Look]],
    ) -> Caller:
        """Prove credentials of which one can be guessed.

        The look at it is counted beforehand, whatever comes of it.
        """
        with guess() as look:
            try:
                caller = self._prove(sent, access, now)
            except Refusal as refusal:
                refusal.counted = True
                raise
            look.right = True
        return caller

    def _signed(self, access: Snapshot, caller: Caller, body: Callable[[], bytes]) -> bytes:
        """Return the body that a proof needs.

        What is sent by a consumer that may not call is not read.
        """
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
        """Prove what needs the body, once all else held."""
        for authenticator, credential in sent:
            if authenticator.reads_body:
                try:
                    proven = authenticator.verify_body(credential, raw, head, access, caller, now)
                except CredentialRejected as error:
                    raise self._invalid(authenticator, error, access) from error
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
        """Reject a copy of a call that counts once."""
        for authenticator, credential in sent:
            try:
                once = authenticator.once(credential, raw, head)
            except CredentialRejected as error:
                raise self._invalid(authenticator, error, access) from error
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
                raise self._invalid(authenticator, CredentialRejected("it came before"), access)

    def _authorize(self, caller: Caller, access: Snapshot) -> None:
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
            wanted = " ".join(sorted(self._scopes))
            challenge = (
                f'Bearer realm="{access.environment.name}", error="insufficient_scope",'
                f' scope="{wanted}"'
            )
            raise Refusal(
                403,
                "insufficient-scope",
                f"The token must allow: {wanted}.",
                headers=[("WWW-Authenticate", challenge)],
                extra={"scope": wanted},
            )

    def _unsupported(self, access: Snapshot) -> Refusal:
        """Return the answer to a header Authorization that nothing here can check.

        Its caller must not believe that it was.
        """
        speaking = [item for item, _ in self._checks if item.uses_authorization_header] or [
            item for item, _ in self._checks
        ]
        headers = [
            ("WWW-Authenticate", f'{item.challenge} realm="{access.environment.name}"')
            for item in speaking
        ]
        return Refusal(
            401,
            "unsupported-scheme",
            "The scheme of the Authorization header is not supported here.",
            headers=headers,
        )

    @staticmethod
    def _missing(missing: list[RegisteredAuthenticator], access: Snapshot) -> Refusal:
        realm = f'realm="{access.environment.name}"'
        wanted = " and ".join(
            ("an " if item.noun[0] in "AEIOaeio" else "a ") + item.noun for item in missing
        )
        headers = [("WWW-Authenticate", f"{item.challenge} {realm}") for item in missing]
        return Refusal(401, "credentials-missing", f"This call needs {wanted}.", headers=headers)

    @staticmethod
    def _invalid(
        authenticator: RegisteredAuthenticator, error: CredentialRejected, access: Snapshot
    ) -> Refusal:
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
        return refusal


def _wrong(authenticator: RegisteredAuthenticator, method: str, what: str) -> PluginFault:
    return PluginFault(
        authenticator.plugin, f"{method} of authenticator {authenticator.name} returned {what}"
    )


def _fault(
    authenticator: RegisteredAuthenticator, method: str, error: BaseException
) -> PluginFault:
    """Return the fault of an authenticator that raised.

    The exception's text is left out, for it may hold the credential.
    """
    fault = PluginFault(
        authenticator.plugin,
        f"{method} of authenticator {authenticator.name} raised {described(error, text=False)}",
    )
    error.__traceback__ = None  # it holds the credential in its frames
    return fault


class ClosedGate(Gate):
    """The gate of a pipeline that is not served."""

    def __init__(self) -> None:
        super().__init__("", (), frozenset(), 0.0)

    def admit(self, *_: object) -> Caller:
        """Let nothing through."""
        raise unavailable()


CLOSED = ClosedGate()
