"""Changes that may let a rejected call pass, and what each of them would alter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from penstock.access.variables import StoredSecret
from penstock.contracts.access import Consumer
from penstock.contracts.networks import Networks, network_of
from penstock.contracts.variables import Secret
from penstock.gate.attempts import (
    ANY_CONSUMER,
    UNKNOWN_KEY,
    Attempt,
    PresentedKey,
    SupposedAccess,
    Token,
)


class Actor(StrEnum):
    """Who can make a change."""

    OPERATOR = "operator"
    DEVELOPER = "developer"
    CALLER = "caller"


class ChangeKind(StrEnum):
    """What a change alters."""

    ENABLE_PIPELINE = "enable-pipeline"
    DESIGNATE = "designate-login-flow"
    SET_VARIABLE = "set-variable"
    SET_SECRET = "set-secret"  # noqa: S105  a kind of change
    DECLARE = "declare"
    DECLARE_NETWORK = "declare-network"
    ENABLE_CONSUMER = "enable-consumer"
    GRANT = "grant-access"
    ENABLE_KEY = "enable-key"
    CREATE_KEY = "create-key"
    ALLOW_ADDRESS = "allow-address"
    REMOVE_NETWORK = "remove-network"
    SEND_KEY = "send-key"
    SEND_TOKEN = "send-token"  # noqa: S105  a kind of change
    SEND_OTHER = "send-credential"
    DROP_TOKEN = "drop-token"  # noqa: S105  a kind of change
    OTHER = "other"  # its effect can't be examined


@dataclass(frozen=True, slots=True)
class Change:
    """A change, who can make it, and the command that makes it where an operator can.

    `name` is the object: a variable, a network, a kind of credential, or options of a trigger.
    """

    kind: ChangeKind
    actor: Actor
    text: str
    command: str = ""
    name: str = ""


@dataclass(slots=True)
class Supposed:
    """A call and the access data after some changes, before they are made.

    `consumer` is the caller. `toggles` are options of the trigger that a developer adds. `spare` is
    a usable key of the consumer.
    """

    access: SupposedAccess
    attempt: Attempt
    consumer: Consumer | None
    spare: PresentedKey | None
    enable_key: bool = False
    new_key: bool = False
    sends_new_key: bool = False
    any_network: bool = False
    toggles: frozenset[str] = frozenset()

    def apply(self, change: Change) -> None:
        """Suppose one more change."""
        if change.kind in _OF_CALLER:
            self._apply_to_call(change)
        elif change.kind in _OF_CONSUMER:
            self._apply_to_consumer(change)
        else:
            self._apply_to_pipeline(change)

    def _apply_to_call(self, change: Change) -> None:
        attempt = self.attempt
        if change.kind is ChangeKind.SEND_TOKEN:
            scopes = attempt.scopes | frozenset(change.name.split())
            self.attempt = replace(attempt, token=Token.VALID, scopes=scopes)
        elif change.kind is ChangeKind.DROP_TOKEN:
            self.attempt = replace(attempt, token=Token.NONE)
        elif change.kind is ChangeKind.SEND_OTHER:
            self.attempt = replace(attempt, others=attempt.others | {change.name})
        elif self.consumer is None or self.consumer is ANY_CONSUMER:
            self.consumer, self.new_key, self.sends_new_key = ANY_CONSUMER, True, True
            self.access.suppose_consumer(ANY_CONSUMER)
            self.access.grant(ANY_CONSUMER, attempt.pipeline)
            self.attempt = replace(attempt, key=UNKNOWN_KEY)
        else:
            self.attempt = replace(attempt, key=self.spare or UNKNOWN_KEY)
            self.sends_new_key = self.spare is None

    def _apply_to_consumer(self, change: Change) -> None:
        consumer, access = self.consumer, self.access
        if change.kind is ChangeKind.CREATE_KEY:
            self.new_key = True
        elif change.kind is ChangeKind.ENABLE_KEY:
            self.enable_key = True
        elif consumer is None:
            return
        elif change.kind is ChangeKind.ENABLE_CONSUMER:
            self.consumer = replace(consumer, enabled=True)
            access.suppose_consumer(self.consumer)
        elif change.kind is ChangeKind.GRANT:
            access.grant(consumer, self.attempt.pipeline)
        else:
            networks = access.networks.get(consumer.id, Networks())
            network = network_of(change.name)
            if change.kind is ChangeKind.ALLOW_ADDRESS:
                networks = replace(networks, allow=(*networks.allow, network))
            else:
                deny = tuple(other for other in networks.deny if other != network)
                networks = replace(networks, deny=deny)
            access.suppose_networks(consumer, networks)

    def _apply_to_pipeline(self, change: Change) -> None:
        access, pipeline = self.access, self.attempt.pipeline
        if change.kind is ChangeKind.ENABLE_PIPELINE:
            access.decide(pipeline, enabled=True)
        elif change.kind is ChangeKind.DESIGNATE:
            access.decide(pipeline, login_flow=True)
        elif change.kind is ChangeKind.SET_VARIABLE:
            access.variables = {**access.variables, change.name: "-"}
        elif change.kind is ChangeKind.SET_SECRET:
            secret = StoredSecret(Secret(change.name, "-"), None, None)
            access.secrets = {**access.secrets, change.name: secret}
        elif change.kind is ChangeKind.DECLARE:
            self.toggles |= frozenset(change.name.split())
        elif change.kind is ChangeKind.DECLARE_NETWORK:
            self.any_network = True


_OF_CALLER = frozenset(
    {
        ChangeKind.SEND_KEY,
        ChangeKind.SEND_TOKEN,
        ChangeKind.SEND_OTHER,
        ChangeKind.DROP_TOKEN,
    }
)
_OF_CONSUMER = frozenset(
    {
        ChangeKind.CREATE_KEY,
        ChangeKind.ENABLE_KEY,
        ChangeKind.ENABLE_CONSUMER,
        ChangeKind.GRANT,
        ChangeKind.ALLOW_ADDRESS,
        ChangeKind.REMOVE_NETWORK,
    }
)
OF_PIPELINE = frozenset(ChangeKind) - _OF_CALLER - _OF_CONSUMER
