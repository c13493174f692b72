"""Explain what became of a call, and find the smallest change that would let it pass.

The gate names the first obstacle of a call. The change that removes it is supposed, and the gate is
asked again, until the call passes or no change is known. At last each change is left out once: what
the call passes without is dropped. So all that remain are needed, by the gate's own word.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from penstock.contracts.networks import Networks
from penstock.contracts.problem_types import CALL_PROBLEMS
from penstock.contracts.variables import SecretNeed
from penstock.gate.attempts import Attempt, Token
from penstock.gate.changes import Actor, Change, ChangeKind, Supposed
from penstock.gate.compliance import State
from penstock.gate.decisions import API_KEY, TOKEN, Decision, Examination, key_headers
from penstock.gate.needs import needs_of

MAX_CHANGES = 24
COMMAND = re.compile(r"`(penstock [^`]+)`")
FIXES = {item.name: item.fix for item in CALL_PROBLEMS}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the gate decides about a call now, and the smallest change that lets it pass.

    `complete` is whether the call passes after all changes; else they are what is known of it.
    """

    attempt: Attempt
    decision: Decision
    changes: tuple[Change, ...] = ()
    complete: bool = True

    @property
    def by_caller_alone(self) -> bool:
        """Whether only the caller can let the call pass."""
        return bool(self.changes) and all(item.actor is Actor.CALLER for item in self.changes)

    def verdict(self) -> str:
        """Return what the gate decides, in a sentence."""
        where = f"{self.attempt.pipeline} in {self.decision.supposed.access.environment.name}"
        if self.attempt.internal:
            where += ", on the internal listener,"
        if self.decision.accepted:
            return f"{where} accepts this call"
        answer = f"{self.decision.http_status} {self.decision.problem}"
        return f"{where} rejects this call: {answer}. {self.decision.detail}"

    def document(self) -> dict[str, object]:
        """Return the explanation as plain values. It holds no credential."""
        attempt, key = self.attempt, self.attempt.key
        return {
            "pipeline": attempt.pipeline,
            "environment": self.decision.supposed.access.environment.name,
            "consumer": attempt.consumer,
            "key": key.shown_as if key is not None else None,
            "token": attempt.token.value,
            "scopes": sorted(attempt.scopes),
            "address": attempt.address or None,
            "accepted": self.decision.accepted,
            "listener": "internal" if attempt.internal else "external",
            "problem": None if self.decision.accepted else self.decision.problem,
            "http_status": self.decision.http_status or None,
            "reason": self.decision.reason or None,
            "complete": self.complete,
            "changes": [
                {
                    "kind": change.kind.value,
                    "who": change.actor.value,
                    "text": change.text,
                    "command": change.command or None,
                }
                for change in self.changes
            ],
        }


def explain(examination: Examination) -> Explanation:
    """Return what becomes of a call now, and the smallest change that lets it pass."""
    first = decision = examination.decide()
    changes: list[Change] = []
    while not decision.accepted and len(changes) < MAX_CHANGES:
        more = [change for change in _next(examination, changes, decision) if change not in changes]
        changes += more
        if not more or any(change.kind is ChangeKind.OTHER for change in more):
            break
        decision = examination.decide(changes)
    if decision.accepted:
        for change in tuple(changes):
            others = [other for other in changes if other is not change]
            if examination.decide(others).accepted:
                changes = others
    return Explanation(examination.attempt, first, tuple(changes), decision.accepted)


def _next(examination: Examination, changes: list[Change], decision: Decision) -> Iterator[Change]:
    """Yield the changes that remove the first obstacle of a call."""
    if decision.problem == "not-found":
        yield _expose(decision)
    elif decision.problem == "pipeline-unavailable":
        yield from _serve(examination, changes, decision)
    elif decision.problem == "address-not-allowed":
        yield from _allow(decision)
    elif decision.problem == "credentials-missing":
        yield from _send(decision)
    elif decision.problem == "invalid-api-key":
        yield from _send_key(decision)
    elif decision.problem in {"invalid-token", "insufficient-scope"}:
        yield _send_token(decision)
    elif decision.problem == "not-associated":
        yield from _grant(decision)
    else:
        yield other_change(decision.problem)


def other_change(problem: str) -> Change:
    """Return what a caller can do about a problem that no access data decides."""
    fix = FIXES.get(problem, "Look at the log of the process under the call's id.")
    return Change(ChangeKind.OTHER, Actor.CALLER, fix)


def _expose(decision: Decision) -> Change:
    """Return what makes a path exist that the listener does not have."""
    pipeline, internal = decision.evaluation.pipeline, decision.supposed.attempt.internal
    if not pipeline.trigger.external and not pipeline.trigger.internal:
        text = f"Give {pipeline.id} an HttpTrigger: without one, no call starts the pipeline."
    elif internal:
        text = f"Set internal=True on the HttpTrigger of {pipeline.id}, or call it from outside."
    else:
        text = (
            f"Set external=True on the HttpTrigger of {pipeline.id}, or call it on the internal"
            " listener."
        )
    return Change(ChangeKind.OTHER, Actor.DEVELOPER, text)


def _serve(examination: Examination, changes: list[Change], decision: Decision) -> Iterator[Change]:
    evaluation, access = decision.evaluation, decision.supposed.access
    pipeline, environment = evaluation.pipeline, access.environment.name
    if evaluation.state is State.DISABLED:
        command = f"penstock pipeline enable {pipeline.id} --env {environment}"
        text = f"Enable {pipeline.id} in {environment}."
        yield Change(ChangeKind.ENABLE_PIPELINE, Actor.OPERATOR, text, command)
        return
    found = [*_needed(decision), *_designated(examination, changes, decision)]
    if not found:
        found = list(_declared(examination, changes, decision))
    yield from found or [
        Change(
            ChangeKind.OTHER,
            Actor.OPERATOR if COMMAND.search(violation.fix) else Actor.DEVELOPER,
            f"{violation.reason}. Fix: {violation.fix}",
            " ".join(COMMAND.findall(violation.fix)[:1]),
        )
        for violation in evaluation.violations
    ]


def _needed(decision: Decision) -> Iterator[Change]:
    access, pipeline = decision.supposed.access, decision.evaluation.pipeline
    environment = access.environment.name
    for need, violation in needs_of(pipeline, access):
        if violation is None:
            continue
        if isinstance(need, SecretNeed):
            stored = access.secrets.get(need.name)
            command = f"penstock secret set {need.name} --env {environment}"
            if stored is not None and stored.pipelines is not None:
                command += "".join(
                    f" --pipeline {name}" for name in sorted({*stored.pipelines, pipeline.id})
                )
            text = f"Set the secret {need.name} in {environment}."
            yield Change(ChangeKind.SET_SECRET, Actor.OPERATOR, text, command, need.name)
        else:
            command = f"penstock variable set {need} VALUE --env {environment}"
            text = f"Set the variable {need} in {environment}."
            yield Change(ChangeKind.SET_VARIABLE, Actor.OPERATOR, text, command, need)


def _fewer(
    examination: Examination, changes: list[Change], change: Change, decision: Decision
) -> bool:
    """Return whether a change leaves a pipeline with fewer violations."""
    after = examination.decide([*changes, change]).evaluation
    return len(after.violations) < len(decision.evaluation.violations)


def _designated(
    examination: Examination, changes: list[Change], decision: Decision
) -> Iterator[Change]:
    pipeline, access = decision.evaluation.pipeline, decision.supposed.access
    if not pipeline.trigger.login or access.pipeline(pipeline.id).login_flow:
        return
    environment = access.environment.name
    change = Change(
        ChangeKind.DESIGNATE,
        Actor.OPERATOR,
        f"Designate {pipeline.id} as a login flow in {environment}.",
        f"penstock login-flow designate {pipeline.id} --env {environment}",
    )
    if _fewer(examination, changes, change, decision):
        yield change


def _declared(
    examination: Examination, changes: list[Change], decision: Decision
) -> Iterator[Change]:
    evaluation = decision.evaluation
    toggles = evaluation.requires - evaluation.pipeline.trigger.toggles
    names = sorted(toggles & {API_KEY, TOKEN, "basic", "mtls"})
    if not names:
        return
    options = " and ".join(f"{name}=True" for name in names)
    change = Change(
        ChangeKind.DECLARE,
        Actor.DEVELOPER,
        f"Set {options} on the HttpTrigger of {evaluation.pipeline.id}.",
        name=" ".join(names),
    )
    if _fewer(examination, changes, change, decision):
        yield change


def _allow(decision: Decision) -> Iterator[Change]:
    supposed, address = decision.supposed, decision.supposed.attempt.address
    environment, trigger = supposed.access.environment.name, decision.evaluation.pipeline.trigger
    if not decision.by_consumer:
        which = "deny" if Networks.of(trigger.deny, ()).admit(address) and trigger.deny else "allow"
        text = (
            f"Change {which}= on the HttpTrigger of {supposed.attempt.pipeline}, or call from an"
            f" allowed network: {address} is not one."
        )
        yield Change(ChangeKind.DECLARE_NETWORK, Actor.DEVELOPER, text)
        return
    consumer = supposed.consumer
    if consumer is None:
        return
    networks, command = supposed.access.networks[consumer.id], "penstock address"
    denying = [item for item in networks.deny if not Networks((), (item,)).admit(address)]
    for network in denying:
        yield Change(
            ChangeKind.REMOVE_NETWORK,
            Actor.OPERATOR,
            f"Remove {network} from the denied networks of {consumer.name} in {environment}.",
            f"{command} remove {shlex.quote(consumer.name)} {network} --env {environment}",
            str(network),
        )
    if not Networks(networks.allow, ()).admit(address) and _is_address(address):
        yield Change(
            ChangeKind.ALLOW_ADDRESS,
            Actor.OPERATOR,
            f"Allow calls of {consumer.name} from {address} in {environment}.",
            f"{command} allow {shlex.quote(consumer.name)} {address} --env {environment}",
            address,
        )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _send(decision: Decision) -> Iterator[Change]:
    """Yield the credentials that a call lacks."""
    attempt, requires = decision.supposed.attempt, decision.evaluation.requires
    if API_KEY in requires and attempt.key is None:
        yield from _send_key(decision)
    if TOKEN in requires and attempt.token is Token.NONE:
        yield _send_token(decision)
    for name in sorted(requires - {API_KEY, TOKEN} - attempt.others):
        text = f"Send the credential {name} with the call."
        yield Change(ChangeKind.SEND_OTHER, Actor.CALLER, text, name=name)


def _send_key(decision: Decision) -> Iterator[Change]:
    supposed = decision.supposed
    key, consumer = supposed.attempt.key, supposed.consumer
    environment = supposed.access.environment.name
    header = next(iter(key_headers(decision.evaluation.gate)), "X-API-Key")
    if key is not None and key.state == "disabled" and key.environment == environment:
        yield Change(
            ChangeKind.ENABLE_KEY,
            Actor.OPERATOR,
            f"Enable the key {key.shown_as} of {key.consumer}.",
            f"penstock key enable {key.id}",
            key.id,
        )
        return
    if consumer is None:
        text = f"Send a key of {environment}, of a consumer with access, in the header {header}."
        yield Change(ChangeKind.SEND_KEY, Actor.CALLER, text)
        return
    if supposed.spare is not None:
        text = f"Send {supposed.spare.shown_as} of {consumer.name} in the header {header}."
        yield Change(ChangeKind.SEND_KEY, Actor.CALLER, text)
        return
    yield Change(
        ChangeKind.CREATE_KEY,
        Actor.OPERATOR,
        f"Create a key of {consumer.name} in {environment}.",
        f"penstock key create {shlex.quote(consumer.name)} --env {environment}",
        consumer.name,
    )
    yield Change(ChangeKind.SEND_KEY, Actor.CALLER, f"Send the new key in the header {header}.")


def _send_token(decision: Decision) -> Change:
    if TOKEN not in decision.evaluation.requires:
        text = "Send no token: the pipeline requires none, and this one is not valid."
        return Change(ChangeKind.DROP_TOKEN, Actor.CALLER, text)
    scopes = " ".join(sorted(decision.evaluation.pipeline.trigger.scopes))
    of = f" with the scopes {scopes}" if scopes else ""
    text = f"Get a new token of the key's consumer{of}, and send it as Authorization: Bearer."
    return Change(ChangeKind.SEND_TOKEN, Actor.CALLER, text, name=scopes)


def _grant(decision: Decision) -> Iterator[Change]:
    supposed: Supposed = decision.supposed
    consumer, pipeline = supposed.consumer, supposed.attempt.pipeline
    environment = supposed.access.environment.name
    if consumer is None:
        return
    name = shlex.quote(consumer.name)
    if not consumer.enabled:
        text = f"Enable the consumer {consumer.name}."
        yield Change(
            ChangeKind.ENABLE_CONSUMER, Actor.OPERATOR, text, f"penstock consumer enable {name}"
        )
    if not supposed.access.associated(consumer.id, pipeline):
        yield Change(
            ChangeKind.GRANT,
            Actor.OPERATOR,
            f"Grant {consumer.name} access to {pipeline} in {environment}.",
            f"penstock consumer associate {name} {pipeline} --env {environment}",
        )
