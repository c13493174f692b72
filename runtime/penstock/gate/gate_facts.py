"""The gate of a pipeline in full: each requirement and limit, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.access.snapshot import Snapshot
from penstock.contracts.cors import Cors
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.registered import RegisteredAuthenticator
from penstock.contracts.responses import ResponsePolicy
from penstock.gate.compliance import Evaluation, State
from penstock.gate.needs import needs_of

TRIGGER, PIPELINE = "HttpTrigger", "Pipeline"
NOT_OVER_HTTP = "Not called over HTTP; runs on its schedule"


@dataclass(frozen=True, slots=True)
class GateFact:
    """A requirement or a limit of a gate, and its source.

    `group` collects facts of one kind, such as `credentials`.
    """

    group: str
    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class GateSources:
    """Where the requirements of a gate come from.

    `demands` is what the policy alone requires. `file` declares the pipeline. `responses` are the
    headers of all replies, and `internal` is the listener.
    """

    demands: frozenset[str]
    authenticators: Sequence[RegisteredAuthenticator]
    file: str
    responses: ResponsePolicy
    internal: bool

    @property
    def place(self) -> str:
        """The file as the end of a source, empty where it is not known."""
        return f", {self.file}" if self.file else ""

    def policy(self, access: Snapshot) -> str:
        """Return the policy of the listener as a source."""
        facts = access.environment
        if self.internal:
            return f"internal policy {facts.internal_policy}"
        return f"policy {facts.policy}, version {facts.policy_version}"


def gate_facts(
    evaluation: Evaluation, access: Snapshot, sources: GateSources
) -> tuple[GateFact, ...]:
    """Return the gate of a pipeline on a listener of an environment."""
    return (
        *_state(evaluation, access, sources),
        *_credentials(evaluation, access, sources),
        *_limits(evaluation.pipeline, sources.place),
        *_responses(evaluation.pipeline, sources),
        *_schedules(evaluation.pipeline, sources.place),
        *_needs(evaluation.pipeline, access),
    )


def _state(evaluation: Evaluation, access: Snapshot, sources: GateSources) -> Iterator[GateFact]:
    trigger = evaluation.pipeline.trigger
    if not trigger.external and not trigger.internal:
        yield GateFact("state", "Calls", NOT_OVER_HTTP, "no HttpTrigger")
    state = "no HTTP endpoint" if evaluation.state is State.INTERNAL else evaluation.state.value
    yield GateFact("state", "State", state, sources.policy(access))
    for violation in evaluation.violations:
        yield GateFact("state", "Blocked by", violation.reason, f"Fix: {violation.fix}")


def _credentials(
    evaluation: Evaluation, access: Snapshot, sources: GateSources
) -> Iterator[GateFact]:
    trigger, place = evaluation.pipeline.trigger, sources.place
    if not trigger.external and not trigger.internal:
        return
    nouns = {item.name: item.noun for item in sources.authenticators}
    for name in sorted(evaluation.requires):
        found = []
        if name in sources.demands and evaluation.state is not State.NON_CONFORMANT:
            found.append(sources.policy(access))
        if name in trigger.toggles:
            option = name if hasattr(trigger, name) else "signature"
            found.append(f"{option}= on its {TRIGGER}{place}")
        source = " and ".join(found) or "another credential needs it"
        if evaluation.state is State.NON_CONFORMANT:
            source += " (grace of the policy before)"
        yield GateFact("credentials", nouns.get(name, name), "required", source)
    if not evaluation.requires and evaluation.served:
        yield GateFact("credentials", "Credentials", "none: open to anyone", sources.policy(access))
    if trigger.scopes:
        scopes = " ".join(sorted(trigger.scopes))
        yield GateFact("credentials", "Scopes", scopes, f"scopes= on its {TRIGGER}{place}")
    if trigger.forward_token:
        source = f"forward_token= on its {TRIGGER}{place}"
        yield GateFact("credentials", "Forwarded token", "the handler gets it", source)
    if access.pipeline(evaluation.pipeline.id).login_flow:
        yield GateFact("credentials", "Login flow", "designated", "an operator")


def _limits(pipeline: Pipeline, place: str) -> Iterator[GateFact]:
    trigger = pipeline.trigger
    if not trigger.external and not trigger.internal:
        return
    on = f" on its {TRIGGER}{place}"
    for route in pipeline.routes:
        yield GateFact("routes", "Route", str(route), f"a handler of the pipeline{place}")
    for rate in trigger.rate:
        yield GateFact("rates", "Rate", str(rate), f"rate={on}")
    for name, networks in (("Allowed networks", trigger.allow), ("Denied networks", trigger.deny)):
        option = "allow" if networks is trigger.allow else "deny"
        if networks:
            yield GateFact("networks", name, ", ".join(networks), f"{option}={on}")
    size = f"{trigger.max_body:,} bytes"
    yield GateFact("limits", "Largest body", size, f"max_body={on}")
    yield GateFact("limits", "Time limit", f"{trigger.timeout:g} s", f"timeout={on}")
    if trigger.in_flight:
        yield GateFact("limits", "In flight", f"{trigger.in_flight} a process", f"in_flight={on}")
    if trigger.idempotent:
        yield GateFact("limits", "Idempotency-Key", "accepted, 24 hours", f"idempotent={on}")


def _responses(pipeline: Pipeline, sources: GateSources) -> Iterator[GateFact]:
    trigger, common = pipeline.trigger, sources.responses
    if not trigger.external and not trigger.internal:
        return
    if common.cors is not None and (common.cors_override or trigger.cors is None):
        yield GateFact("responses", "CORS", _cors(common.cors), "response policy of a plugin")
    elif trigger.cors is not None:
        source = f"cors= on its {TRIGGER}{sources.place}"
        yield GateFact("responses", "CORS", _cors(trigger.cors), source)
    for rule in common.headers:
        source = "response policy of a plugin"
        if rule.override:
            source += ", also in place of the handler's own"
        yield GateFact("responses", "Response headers", f"{rule.name}: {rule.value}", source)


def _cors(cors: Cors) -> str:
    """Return which origins may call, and how, in a line."""
    parts = [", ".join(sorted(cors.origins)) if "*" not in cors.origins else "any origin"]
    if cors.methods:
        parts.append(" ".join(sorted(cors.methods)))
    parts.append("with credentials" if cors.credentials else "without credentials")
    parts.append(f"preflight cached {cors.max_age} s")
    return "; ".join(parts)


def _schedules(pipeline: Pipeline, place: str) -> Iterator[GateFact]:
    for schedule in pipeline.schedules:
        value = f"{schedule.cron} ({schedule.timezone})"
        yield GateFact("schedule", "Schedule", value, f"Schedule{place}")
    if pipeline.schedules or any(route.durable for route in pipeline.routes):
        durable, source = pipeline.durable, f"durable= of the {PIPELINE}{place}"
        yield GateFact("durable", "Concurrency", str(durable.concurrency), source)
        yield GateFact("durable", "Backlog", str(durable.backlog), source)
        yield GateFact("durable", "Run timeout", f"{durable.timeout:g} s", source)
        yield GateFact("durable", "Recoveries", str(durable.recoveries), source)


def _needs(pipeline: Pipeline, access: Snapshot) -> Iterator[GateFact]:
    for need, violation in needs_of(pipeline, access):
        value = "set" if violation is None else "missing"
        source = "needs= of the pipeline" if violation is None else f"Fix: {violation.fix}"
        yield GateFact("needs", str(need), value, source)
