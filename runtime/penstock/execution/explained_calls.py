"""Explain a rejected call: what its record says of then, and what the gate decides now."""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.access.encryption import SecretBox
from penstock.access.presented_keys import FoundKey, key_by_id
from penstock.access.snapshot import Snapshot
from penstock.db.engine import Engine
from penstock.errors import UnknownName
from penstock.execution.rejected_queries import RejectedView
from penstock.gate.attempts import UNKNOWN_KEY, Attempt, PresentedKey, Token
from penstock.gate.changes import Change
from penstock.gate.compliance import Evaluation
from penstock.gate.decisions import API_KEY, TOKEN, Examination
from penstock.gate.explanations import Explanation, explain, other_change
from penstock.host.catalog import Catalog
from penstock.host.evaluation import CatalogEvaluator
from penstock.host.explanation import examination_of, listeners_of, loaded_pipeline, presented

# Problems that access data and credentials decide, so that the gate can be asked again.
DECIDED_BY_GATE = frozenset(
    {
        "pipeline-unavailable",
        "address-not-allowed",
        "credentials-missing",
        "invalid-api-key",
        "invalid-token",
        "insufficient-scope",
        "not-associated",
    }
)
BEFORE_CREDENTIALS = frozenset({"pipeline-unavailable", "address-not-allowed"})
BEFORE_PROOF = BEFORE_CREDENTIALS | {"credentials-missing"}


@dataclass(frozen=True, slots=True)
class ExplainedCall:
    """A rejected call, and what would let it pass now.

    `now` is what the gate decides about the same call now; None where access data don't decide, or
    where the pipeline or the consumer no longer exists. `changes` would let the call pass.
    """

    call: RejectedView
    now: Explanation | None
    changes: tuple[Change, ...]

    @property
    def passes_now(self) -> bool:
        """Whether the gate accepts the same call by now."""
        return self.now is not None and self.now.decision.accepted

    def sentence(self) -> str:
        """Return what happened, in one sentence."""
        call = self.call
        who = call.consumer or "a caller that is not known"
        key = f" with key {call.key}" if call.key else ""
        return (
            f"{call.http_status or ''} {call.reason}: {call.pipeline} in {call.environment}"
            f" rejected a call of {who}{key}. {call.detail or ''}"
        ).strip()

    def document(self) -> dict[str, object]:
        """Return the call and its explanation as plain values."""
        changes = [
            {"who": item.actor.value, "text": item.text, "command": item.command or None}
            for item in self.changes
        ]
        now = self.now.document() if self.now is not None else None
        return {"call": self.call.document(), "now": now, "changes": changes}


def explain_call(
    catalog: Catalog,
    evaluator: CatalogEvaluator,
    engine: Engine,
    box: SecretBox,
    call: RejectedView,
) -> ExplainedCall:
    """Return a rejected call with what would let it pass."""
    other = (other_change(call.reason),)
    if call.reason not in DECIDED_BY_GATE:
        return ExplainedCall(call, None, other)
    found = key_by_id(engine, call.key_id) if call.key_id is not None else None
    names = {call.consumer, found[0].consumer if found is not None else None}
    access = Snapshot(call.environment, box, consumers=[name for name in names if name])
    access.read(engine)

    def examination(*, internal: bool) -> Examination:
        bare = Attempt(call.pipeline, internal=internal)
        evaluation = examination_of(catalog, evaluator, access, engine, bare).decide().evaluation
        attempt = replace(_attempt(call, found, evaluation), internal=internal)
        return examination_of(catalog, evaluator, access, engine, attempt)

    try:
        listeners = listeners_of(loaded_pipeline(catalog, call.pipeline))
        examinations = [examination(internal=internal) for internal in listeners]
    except UnknownName:
        return ExplainedCall(call, None, other)
    # The record does not name the listener: it is the one that still answers so, if one does.
    same = (item for item in examinations if item.decide().problem == call.reason)
    explanation = explain(next(same, examinations[0]))
    return ExplainedCall(call, explanation, explanation.changes)


def _attempt(call: RejectedView, found: FoundKey | None, evaluation: Evaluation) -> Attempt:
    """Return the call as its record describes it. Credentials that passed then are valid now."""
    requires, reason = evaluation.requires, call.reason
    # A missing credential is found before an invalid one: later rejections had all of them.
    sent_all = call.consumer is not None or reason not in BEFORE_PROOF
    token, scopes = Token.NONE, frozenset((call.scopes or "").split())
    if reason == "invalid-token":
        token = Token.INVALID
    elif scopes or reason == "insufficient-scope" or (sent_all and TOKEN in requires):
        token = Token.VALID
    others = requires - {API_KEY, TOKEN} if sent_all else frozenset()
    key: PresentedKey | None = None
    if call.key_id is not None:
        key = presented(found) if found is not None else UNKNOWN_KEY
    elif reason in {"invalid-api-key", "invalid-token"}:
        key = UNKNOWN_KEY
    address = call.address if reason in BEFORE_CREDENTIALS or call.consumer else ""
    return Attempt(call.pipeline, call.consumer, key, token, scopes, address, frozenset(others))
