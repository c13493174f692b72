"""Turn rows of access data into values, one at a time.

A row that can't be read raises: the snapshot decides what that closes.

The database holds whatever was written to it, by us, by hand or by a damaged disk. A value is
therefore taken only where its type and meaning are what the column stands for; a flag counts as
True only where it is True. Nothing here guesses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from penstock.access.by_name import is_name
from penstock.access.callbacks import CallbackTarget
from penstock.access.variables import StoredSecret
from penstock.contracts.access import (
    Consumer,
    Credential,
    EnvironmentFacts,
    SigningKey,
    TrustedIssuer,
)
from penstock.contracts.networks import network_of
from penstock.contracts.rates import Rate
from penstock.contracts.variables import Secret
from penstock.db.columns import LONG_AGO
from penstock.db.unit_of_work import Row

Open = Callable[[bytes], bytes]  # decrypts what is sealed
RETENTION = 60, 3650 * 86_400  # seconds that runs are kept, at least and at most
RECORDED = ("none", "failed", "all")  # what pipelines may keep of bodies at most


class Unreadable(ValueError):
    """A column holds what it can't mean; the text names the column, never the value."""


@dataclass(frozen=True, slots=True)
class Grace:
    """A pipeline that stopped complying and keeps its old gate until a moment.

    The moment is in seconds since the epoch.
    """

    requires: frozenset[str]
    until: float


@dataclass(frozen=True, slots=True)
class PipelineState:
    """What operators decided about a pipeline here."""

    enabled: bool = True
    login_flow: bool = False


def _of(kind: type[Any], row: Row, name: str) -> Any:  # noqa: ANN401  an instance of kind
    if type(row[name]) is not kind:
        raise Unreadable(f"{name} can't be read")
    return row[name]


def text(row: Row, name: str) -> str:
    """Return a text that is not empty. Raises Unreadable."""
    value: str = _of(str, row, name)
    if not value:
        raise Unreadable(f"{name} is empty")
    return value


def number(row: Row, name: str) -> int:
    """Return a whole number. Raises Unreadable."""
    value: int = _of(int, row, name)
    return value


def flag(row: Row, name: str) -> bool:
    """Return True or False. Raises Unreadable."""
    value: bool = _of(bool, row, name)
    return value


def end(row: Row, name: str) -> float | None:
    """Return a moment in seconds since the epoch, or None where there is none.

    Raises Unreadable.
    """
    moment: datetime | None = row[name]
    return None if moment is None else moment.timestamp()


def texts(value: object, name: str) -> tuple[str, ...]:
    """Return a list of texts. Raises Unreadable."""
    if type(value) is not list or not all(type(item) is str for item in value):
        raise Unreadable(f"{name} can't be read")
    return tuple(value)


def facts_of(row: Row) -> tuple[EnvironmentFacts, list[str]]:
    """Return an environment's rules and the columns that can't be read.

    Each such column has the value that allows least and keeps longest.
    """
    facts = EnvironmentFacts(**{name: row[name] for name in EnvironmentFacts.__slots__})
    strictest: dict[str, Any] = {
        "policy": "",
        "internal_policy": "",
        "policy_version": 0,
        "token_lifetime": 0,
        "keys_in_query": False,
        "algorithm": "",
        "run_retention": RETENTION[1],
        "record_bodies": "none",
    }
    wrong = {
        name: value
        for name, value in strictest.items()
        if type(getattr(facts, name)) is not type(value)
    }
    if facts.record_bodies not in RECORDED:
        wrong["record_bodies"] = strictest["record_bodies"]
    if "run_retention" not in wrong and facts.run_retention < RETENTION[0]:
        wrong["run_retention"] = strictest["run_retention"]
    return replace(facts, **wrong), sorted(wrong)


def consumer_of(row: Row) -> Consumer:
    """Read a consumer."""
    return Consumer(number(row, "id"), text(row, "name"), flag(row, "enabled"))


def pipeline_of(row: Row) -> tuple[str, PipelineState, int]:
    """Read what operators decided about a pipeline, and its revision.

    What can't be read of it disables it.
    """
    return (
        text(row, "name"),
        PipelineState(row["enabled"] is True, row["login_flow"] is True),
        number(row, "revision"),
    )


def pipeline_states(
    read: list[tuple[str, PipelineState, int]],
) -> tuple[dict[str, PipelineState], dict[str, PipelineState]]:
    """Return what counts for each id, and for each name.

    A name's row is of the release before: it can take away, and only what is older.
    """
    named = {name: (state, revision) for name, state, revision in read if is_name(name)}
    states: dict[str, PipelineState] = {}
    for identifier, state, revision in read:
        if is_name(identifier):
            continue
        above, newer = named.get(identifier.partition("/")[2], (state, -1))
        if newer > revision:
            state = PipelineState(  # noqa: PLW2901  what is left of it
                state.enabled and above.enabled, state.login_flow and above.login_flow
            )
        states[identifier] = state
    return states, {name: PipelineState(state.enabled) for name, (state, _) in named.items()}


def association_of(row: Row) -> tuple[str, int, int, int] | None:
    """Read an association: pipeline, consumer, row and revision.

    None where it was taken away, or is one of a name.
    """
    pipeline = row["pipeline"]
    if row["active"] is not True or (type(pipeline) is str and is_name(pipeline)):
        return None
    return (
        text(row, "pipeline"),
        number(row, "consumer_id"),
        number(row, "id"),
        number(row, "revision"),
    )


def dissociated_names(rows: list[Row]) -> dict[tuple[object, object], int]:
    """Return what the release before has taken away by name.

    Consumers and names, each with its revision.
    """
    names = (
        row
        for row in rows
        if row["active"] is not True and type(row["pipeline"]) is str and is_name(row["pipeline"])
    )
    return {(row["consumer_id"], row["pipeline"]): row["revision"] for row in names}


def grace_of(row: Row) -> tuple[str, Grace] | None:
    """Read a grace, None where it has ended."""
    if row["active"] is not True:
        return None
    return text(row, "pipeline"), Grace(
        frozenset(texts(row["requires"], "requires")), row["until"].timestamp()
    )


def credential_of(row: Row, opened: Open) -> Credential | None:
    """Read a credential, None where it was revoked."""
    if row["revoked_at"] is not None:
        return None
    whose = number(row, "consumer_id")
    return Credential(
        text(row, "id"),
        text(row, "kind"),
        text(row, "name"),
        whose,
        opened(row["sealed"]),
        end(row, "expires_at"),
    )


def signing_key_of(row: Row, opened: Open) -> SigningKey | None:
    """Read a signing key, None where it was dropped."""
    if row["dropped_at"] is not None:
        return None
    private = opened(row["private_encrypted"])
    return SigningKey(
        text(row, "kid"),
        text(row, "algorithm"),
        _of(bytes, row, "public"),
        private,
        end(row, "verify_until"),
    )


def issuer_of(row: Row) -> TrustedIssuer | None:
    """Read a trusted issuer, None where it is trusted no more."""
    if row["active"] is not True:
        return None
    keys, consumers = row["keys"], row["consumers"]
    if keys is not None and (type(keys) is not list or not all(type(key) is dict for key in keys)):
        raise Unreadable("keys can't be read")
    if type(consumers) is not dict or not all(type(name) is str for name in consumers.values()):
        raise Unreadable("consumers can't be read")
    return TrustedIssuer(
        issuer=text(row, "issuer"),
        audience=text(row, "audience"),
        jwks_url=None if row["jwks_url"] is None else text(row, "jwks_url"),
        keys=None if keys is None else tuple(keys),
        consumer=None if row["consumer"] is None else text(row, "consumer"),
        consumer_claim=text(row, "consumer_claim"),
        consumers=consumers,
        scope_claim=text(row, "scope_claim"),
    )


def revocation_of(row: Row) -> tuple[str | None, str, float]:
    """Read a revocation.

    Return a token's `jti`, an empty text and when to forget it; or None, a consumer and a moment.
    """
    if row["jti"] is not None:
        return (
            text(row, "jti"),
            "",
            float("inf") if row["forget_at"] == LONG_AGO else row["forget_at"].timestamp(),
        )
    if row["issued_before"] == LONG_AGO:
        raise Unreadable("issued_before can't be read")
    return None, text(row, "consumer"), row["issued_before"].timestamp()


def limit_of(row: Row) -> tuple[tuple[int, str], Rate] | None:
    """Read a limit, None where it was removed."""
    if not flag(row, "active"):
        return None
    rate = Rate.of(text(row, "rate"), text(row, "by"))
    if any(rate.problems()):
        raise Unreadable("rate can't be read")
    pipeline: str = _of(str, row, "pipeline")
    return (number(row, "consumer_id"), pipeline), rate


def address_rule_of(row: Row) -> tuple[int, str, bool] | None:
    """Read a network of a consumer and whether it may call from there.

    Return None where it was removed.
    """
    if not flag(row, "active"):
        return None
    network = text(row, "network")
    try:
        network_of(network)
    except ValueError:
        raise Unreadable("network can't be read") from None
    return number(row, "consumer_id"), network, flag(row, "allowed")


def variable_of(row: Row) -> tuple[str, str] | None:
    """Read a variable, None where it was unset."""
    if row["active"] is not True:
        return None
    value: str = _of(str, row, "value")
    return text(row, "name"), value


def secret_of(row: Row, opened: Open) -> tuple[str, StoredSecret] | None:
    """Read a secret, None where it was wiped."""
    if row["active"] is not True:
        return None
    name, pipelines = text(row, "name"), row["pipelines"]
    allowed = None if pipelines is None else frozenset(texts(pipelines, "pipelines"))
    return name, StoredSecret(
        Secret(name, opened(row["sealed"]).decode()), end(row, "expires_at"), allowed
    )


def sensitive_of(row: Row) -> str | None:
    """Read a sensitive field, None where it is hidden no more."""
    return None if row["active"] is False else text(row, "field")


def callback_of(row: Row, opened: Open) -> tuple[int, CallbackTarget] | None:
    """Read where callbacks of a consumer may go, None where they go there no more."""
    if row["active"] is not True:
        return None
    return number(row, "consumer_id"), CallbackTarget(
        text(row, "prefix"), row["private"] is True, opened(row["sealed"])
    )
