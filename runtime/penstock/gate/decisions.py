"""Decide about a call under examination by the rules that decide about calls.

The evaluation, the gate, its authenticators and the networks are those of a call. Only kinds of
credentials that can't be drawn, such as passwords and certificates, count as presented or not.
Rates are not counted: a decision says what access data and credentials allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.access.snapshot import Snapshot
from penstock.contracts.authenticators import RequestHead
from penstock.contracts.call import Caller
from penstock.contracts.keys import digest_of, make_api_key
from penstock.contracts.networks import Networks
from penstock.contracts.registered import (
    RegisteredAuthenticator,
    RegisteredIssuer,
    is_valid_token,
)
from penstock.errors import CredentialRejected, Refusal, TokenNotIssued
from penstock.gate.attempts import Attempt, PresentedKey, SupposedAccess, Token
from penstock.gate.changes import OF_PIPELINE, Change, Supposed
from penstock.gate.compliance import Evaluation, is_exposed
from penstock.gate.gate import Gate, unavailable
from penstock.gate.refusals import address_rejected, internal_error, not_found
from penstock.plugins.guard import PluginFault

API_KEY, TOKEN = "api_key", "jwt"
ACCEPTED = "accepted"
BAD_TOKEN = "e30.e30.AAAA"  # noqa: S105  no token: its signature is none
TWO_DAYS_S = 172_800


# Evaluates the examined pipeline, with more options of its trigger set to True.
Evaluate = Callable[[Snapshot, frozenset[str]], Evaluation]


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of an examined call: `accepted`, or the problem type of its rejection.

    `http_status` is that of the rejection, 0 where the call is accepted. `reason` is for operators.
    `by_consumer` is whether the consumer's own networks reject the call.
    """

    problem: str
    http_status: int
    detail: str
    reason: str
    evaluation: Evaluation
    supposed: Supposed
    by_consumer: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the call passes the gate."""
        return self.problem == ACCEPTED


@dataclass(frozen=True, slots=True)
class Examination:
    """A call, and what decides about it.

    `spare` is a usable key of its consumer, `evaluate` evaluates its pipeline.
    """

    attempt: Attempt
    access: Snapshot
    evaluate: Evaluate
    issuers: Sequence[RegisteredIssuer]
    spare: PresentedKey | None = None
    _cache: dict[frozenset[Change], Evaluation] = field(default_factory=dict, repr=False)

    def decide(self, changes: Iterable[Change] = ()) -> Decision:
        """Return what becomes of the call after changes."""
        access = SupposedAccess(self.access)
        name = self.attempt.consumer
        consumer = access.consumer_named(name) if name is not None else None
        supposed = Supposed(access, self.attempt, consumer, self.spare)
        of_pipeline = set[Change]()
        for change in changes:
            supposed.apply(change)
            if change.kind in OF_PIPELINE:
                of_pipeline.add(change)
        evaluation = self._evaluation(supposed, frozenset(of_pipeline))
        by_consumer = False
        try:
            consumer_id = self._caller(supposed, evaluation).consumer_id
            if consumer_id is not None and not _admits(supposed, access.networks.get(consumer_id)):
                by_consumer = True
                raise address_rejected()
        except Refusal as refusal:
            unserved = evaluation.state.value if refusal.code == "pipeline-unavailable" else ""
            reason = str(refusal.__cause__ or unserved)
            answer = refusal.code, refusal.status, refusal.detail, reason
            return Decision(*answer, evaluation, supposed, by_consumer)
        return Decision(ACCEPTED, 0, "", "", evaluation, supposed)

    def _evaluation(self, supposed: Supposed, changes: frozenset[Change]) -> Evaluation:
        """Return the evaluation of the pipeline, from memory if it was made after these changes."""
        if changes not in self._cache:
            self._cache[changes] = self.evaluate(supposed.access, supposed.toggles)
        return self._cache[changes]

    def _caller(self, supposed: Supposed, evaluation: Evaluation) -> Caller:
        """Return the caller that the gate admits, in the order of HTTP. Raises Refusal."""
        attempt, trigger = supposed.attempt, evaluation.pipeline.trigger
        if not is_exposed(evaluation.pipeline, internal=attempt.internal):
            raise not_found()
        if not evaluation.served:
            raise unavailable()
        networks = Networks.of(trigger.allow, trigger.deny)
        if not supposed.any_network and not _admits(supposed, networks):
            raise address_rejected()
        now = time.time()
        drawn = self._issuer(evaluation) is not None
        checks = tuple(
            (_examined(item, supposed, drawn=drawn), required)
            for item, required in evaluation.gate.checks
        )
        until = float("inf") if evaluation.until is None else evaluation.until
        gate = Gate(attempt.pipeline, checks, trigger.scopes, until)
        head = RequestHead(self._environ(supposed, evaluation, now), attempt.pipeline)
        try:
            return gate.admit(head, supposed.access, now)
        except PluginFault as fault:
            raise internal_error() from fault

    def _issuer(self, evaluation: Evaluation) -> RegisteredIssuer | None:
        """Return the issuer of tokens for a gate: that of the plugin which verifies them.

        Each of several issuers signs tokens of its own kind.
        """
        verifier = next(
            (item.plugin for item, _ in evaluation.gate.checks if item.name == TOKEN), ""
        )
        own = [issuer for issuer in self.issuers if issuer.plugin == verifier]
        return next(iter(own or self.issuers), None)

    def _environ(
        self, supposed: Supposed, evaluation: Evaluation, now: float
    ) -> Mapping[str, object]:
        """Return the head of the call, with a key and a token that were just drawn."""
        attempt, access, environ = supposed.attempt, supposed.access, dict[str, object]()
        if attempt.key is not None:
            drawn = make_api_key(attempt.key.environment or access.environment.name)
            digest = digest_of(drawn)
            if attempt.key.digest:
                access.present(digest, attempt.key, usable=supposed.enable_key)
            elif supposed.new_key and supposed.sends_new_key and supposed.consumer is not None:
                access.present_new(digest, supposed.consumer)
            for header in key_headers(evaluation.gate)[:1]:
                environ["HTTP_" + header.upper().replace("-", "_")] = drawn
        if attempt.token is not Token.NONE:
            token = self._token(supposed, self._issuer(evaluation), now)
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return environ

    @staticmethod
    def _token(supposed: Supposed, issuer: RegisteredIssuer | None, now: float) -> str:
        attempt, consumer = supposed.attempt, supposed.consumer
        if attempt.token is Token.INVALID or consumer is None or issuer is None:
            return BAD_TOKEN
        issued = issuer.issue(
            supposed.access,
            consumer.name if attempt.token is Token.VALID else f"not {consumer.name}",
            subject="examined",
            scopes=attempt.scopes,
            lifetime=None,
            claims={},
            now=now,
        )
        if not is_valid_token(issued):
            raise TokenNotIssued(f"the issuer of plugin {issuer.plugin} made no token")
        return issued.access_token


def key_headers(gate: Gate) -> tuple[str, ...]:
    """Return the headers in which a gate finds API keys."""
    return next((item.credential_headers for item, _ in gate.checks if item.name == API_KEY), ())


def _admits(supposed: Supposed, networks: Networks | None) -> bool:
    """Return whether networks allow the address of a call. One without an address may call."""
    address = supposed.attempt.address
    return networks is None or not address or networks.admit(address)


def _examined(
    item: RegisteredAuthenticator, supposed: Supposed, *, drawn: bool
) -> RegisteredAuthenticator:
    """Return what stands for an authenticator whose credentials can't be drawn.

    `drawn` is whether an issuer can make tokens.
    """
    if item.name == API_KEY or (item.name == TOKEN and drawn):
        return item
    attempt = supposed.attempt
    token = attempt.token if item.name == TOKEN else None
    presented = item.name in attempt.others if token is None else token is not Token.NONE

    def verify(_: str, __: object, caller: Caller, ___: float) -> Caller:
        consumer = supposed.consumer
        if consumer is None or token in {Token.INVALID, Token.OTHER}:
            raise CredentialRejected("its consumer is not known")
        scopes = attempt.scopes if token is not None else caller.scopes
        return caller.replace(consumer=consumer.name, consumer_id=consumer.id, scopes=scopes)

    return replace(
        item,
        reads_body=False,
        counts_once=False,
        guessable=False,
        find=lambda *_: "presented" if presented else None,
        verify=verify,
    )
