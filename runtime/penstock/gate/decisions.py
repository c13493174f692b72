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
from penstock.gate.compliance import Evaluation
from penstock.gate.gate import Gate
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

    `reason` is for operators. `by_consumer` is whether the consumer's own networks reject it.
    """

    problem: str
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
        problem, detail, reason, by_consumer = self._problem(supposed, evaluation)
        return Decision(problem, detail, reason, evaluation, supposed, by_consumer)

    def _evaluation(self, supposed: Supposed, changes: frozenset[Change]) -> Evaluation:
        """Return the evaluation of the pipeline, from memory if it was made after these changes."""
        if changes not in self._cache:
            self._cache[changes] = self.evaluate(supposed.access, supposed.toggles)
        return self._cache[changes]

    def _problem(self, supposed: Supposed, evaluation: Evaluation) -> tuple[str, str, str, bool]:
        attempt, access, trigger = supposed.attempt, supposed.access, evaluation.pipeline.trigger
        rejected = ("address-not-allowed", "Calls from this address are not taken here.", "")
        if not evaluation.served:
            return "pipeline-unavailable", "The pipeline is not served.", evaluation.state, False
        checked = attempt.address and not supposed.any_network
        if checked and not Networks.of(trigger.allow, trigger.deny).admit(attempt.address):
            return *rejected, False
        now = time.time()
        try:
            checks = tuple(
                (_examined(item, supposed), required) for item, required in evaluation.gate.checks
            )
            until = float("inf") if evaluation.until is None else evaluation.until
            gate = Gate(attempt.pipeline, checks, trigger.scopes, until)
            head = RequestHead(self._environ(supposed, evaluation, now), attempt.pipeline)
            caller = gate.admit(head, access, now)
        except Refusal as refusal:
            cause = refusal.__cause__
            return refusal.code, refusal.detail, str(cause) if cause is not None else "", False
        except PluginFault as fault:
            return "internal", str(fault), "", False
        networks = access.networks.get(caller.consumer_id) if caller.consumer_id else None
        if networks is not None and attempt.address and not networks.admit(attempt.address):
            return *rejected, True
        return ACCEPTED, "", "", False

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
            environ["HTTP_AUTHORIZATION"] = f"Bearer {self._token(supposed, now)}"
        return environ

    def _token(self, supposed: Supposed, now: float) -> str:
        attempt, consumer = supposed.attempt, supposed.consumer
        if attempt.token is Token.INVALID or consumer is None or len(self.issuers) != 1:
            return BAD_TOKEN
        issued = self.issuers[0].issue(
            supposed.access,
            consumer.name if attempt.token is Token.VALID else f"not {consumer.name}",
            subject="examined",
            scopes=attempt.scopes,
            lifetime=None,
            claims={},
            now=now,
        )
        if not is_valid_token(issued):
            raise TokenNotIssued(f"the issuer of plugin {self.issuers[0].plugin} made no token")
        return issued.access_token


def key_headers(gate: Gate) -> tuple[str, ...]:
    """Return the headers in which a gate finds API keys."""
    return next((item.credential_headers for item, _ in gate.checks if item.name == API_KEY), ())


def _examined(item: RegisteredAuthenticator, supposed: Supposed) -> RegisteredAuthenticator:
    """Return what stands for an authenticator whose credentials can't be drawn."""
    if item.name in {API_KEY, TOKEN}:
        return item
    presented = item.name in supposed.attempt.others

    def verify(_: str, __: object, caller: Caller, ___: float) -> Caller:
        consumer = supposed.consumer
        if consumer is None:
            raise CredentialRejected("its consumer is not known")
        return caller.replace(consumer=consumer.name, consumer_id=consumer.id)

    return replace(
        item,
        reads_body=False,
        counts_once=False,
        guessable=False,
        find=lambda *_: "presented" if presented else None,
        verify=verify,
    )
