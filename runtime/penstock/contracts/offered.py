"""What plugins offer for access, as it was when it was loaded.

Each attribute is read once, checked and kept.

Plugin code may define an attribute as a property and answer differently each time. The gate and the
judge ask these values, which don't change. Constructors raise Misfit, or whatever the plugin's
attribute raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Self, TypeGuard

from penstock.contracts.access import (
    AccessPolicy,
    AccessView,
    Authenticator,
    Candidate,
    Document,
    EnvironmentFacts,
    Once,
    TokenIssuer,
)
from penstock.contracts.call import Caller, Token


class Misfit(ValueError):
    """A value that plugin code offers or returns is not what it must be; the text says in what."""


def text(value: object, what: str) -> str:
    """Return a text that is not empty, as a plain `str`. Raises Misfit."""
    if not isinstance(value, str) or not value:
        raise Misfit(f"{what} is no text")
    return str.__str__(value)


def line(value: object, what: str) -> str:
    """Return a text in one line, for whoever reads it takes a second line for another's.

    Raises Misfit.
    """
    shown = "".join(
        character if character.isprintable() else " " for character in text(value, what)
    )
    return " ".join(shown.split()) or "?"


def texts(value: object, what: str) -> tuple[str, ...]:
    """Return a collection of texts; one text is none. Raises Misfit."""
    if type(value) not in {tuple, list, set, frozenset}:
        raise Misfit(f"{what} is no list of texts")
    return tuple(text(item, f"an item of {what}") for item in value)  # type: ignore[attr-defined]  # it is one of these


def flag(value: object, what: str) -> bool:
    """Return True or False. Raises Misfit."""
    if type(value) is not bool:
        raise Misfit(f"{what} is neither True nor False")
    return value


@dataclass(frozen=True, slots=True)
class OfferedPolicy:
    """An access policy, and the plugin that offers it."""

    plugin: str
    name: str
    options: tuple[str, ...]
    meanings: Mapping[str, str]
    judge: Callable[[Candidate, EnvironmentFacts], object]

    @classmethod
    def of(cls, plugin: str, item: AccessPolicy) -> Self:
        """Read an access policy."""
        meanings = item.meanings
        if not isinstance(meanings, Mapping):
            raise Misfit("its meanings are no mapping")
        meant = {
            text(option, "an option"): text(meaning, "a meaning")
            for option, meaning in dict(meanings).items()
        }
        return cls(
            plugin,
            text(item.name, "its name"),
            texts(item.options, "its options"),
            meant,
            item.judge,
        )


@dataclass(frozen=True, slots=True)
class OfferedAuthenticator:
    """An authenticator, and the plugin that offers it.

    What its methods return is for the gate to check.
    """

    plugin: str
    name: str
    noun: str
    refusal: str
    challenge: str
    needs: frozenset[str]
    only_where_asked: bool
    reads_body: bool
    counts_once: bool
    guessable: bool
    asks_for_secret: bool
    most: int | None
    enrols: bool
    credential_headers: tuple[str, ...]
    credential_parameters: tuple[str, ...]
    speaks: bool  # whether it may be what a header Authorization is for
    find: Callable[[Any, AccessView], object]
    verify: Callable[[str, AccessView, Caller, float], object]
    verify_body: Callable[..., object]
    once: Callable[[str, bytes, Any], object]
    enrol: Callable[[str, str], tuple[str, bytes]]
    security_scheme: Callable[[], Mapping[str, object]]

    @classmethod
    def of(cls, plugin: str, item: Authenticator) -> Self:
        """Read an authenticator."""
        most, named = item.most, item.credential_headers
        headers = None if named is None else texts(named, "credential_headers")
        if most is not None and type(most) is not int:
            raise Misfit("most is no number")
        return cls(
            plugin=plugin,
            name=text(item.name, "its name"),
            noun=text(item.noun, "its noun"),
            refusal=text(item.refusal, "its refusal"),
            challenge=text(item.challenge, "its challenge"),
            needs=frozenset(texts(item.needs, "its needs")),
            only_where_asked=flag(item.only_where_asked, "only_where_asked"),
            reads_body=flag(item.reads_body, "reads_body"),
            counts_once=type(item).once is not Authenticator.once,
            guessable=flag(item.guessable, "guessable"),
            asks_for_secret=flag(item.asks_for_secret, "asks_for_secret"),
            most=most,
            enrols=type(item).enrol is not Authenticator.enrol,
            credential_headers=headers or (),
            credential_parameters=texts(item.credential_parameters, "credential_parameters"),
            speaks=headers is None or "authorization" in {name.lower() for name in headers},
            find=item.find,
            verify=item.verify,
            verify_body=item.verify_body,
            once=item.once,
            enrol=item.enrol,
            security_scheme=item.security_scheme,
        )


@dataclass(frozen=True, slots=True)
class OfferedIssuer:
    """A token issuer, and the plugin that offers it."""

    plugin: str
    issue: Callable[..., object]

    @classmethod
    def of(cls, plugin: str, item: TokenIssuer) -> Self:
        """Read a token issuer."""
        return cls(plugin, item.issue)


def read_document(item: Document) -> Document:
    """Read a public document."""
    path, kind, age = (
        text(item.path, "its path"),
        text(item.content_type, "its content_type"),
        item.max_age,
    )
    if type(age) is not int or age < 0:
        raise Misfit("max_age is no number of seconds")
    return Document(path, kind, item.render, age)


def is_on_top(proven: Caller, before: Caller) -> bool:
    """Say whether the parts of a caller have the types they must have.

    Where a consumer was proven before, the caller must be of that consumer.
    """
    number = proven.consumer_id
    if number is None:
        named = proven.consumer is None and before.consumer_id is None
    else:
        named = (
            type(number) is int
            and type(proven.consumer) is str
            and (before.consumer_id is None or number == before.consumer_id)
        )
    subject, key = proven.subject, proven.key_id
    return (
        named
        and type(proven.scopes) is frozenset
        and (subject is None or type(subject) is str)
        and (key is None or type(key) is str)
    )


def is_once(value: object) -> TypeGuard[Once]:
    """Say whether an authenticator returned what a call counts once for."""
    return (
        type(value) is Once
        and type(value.message) is bytes
        and type(value.seconds) in {int, float}
        and 0 < value.seconds < inf
    )


def is_token(value: object) -> TypeGuard[Token]:
    """Say whether what a token issuer returned is a token."""
    return (
        type(value) is Token and type(value.access_token) is str and type(value.expires_in) is int
    )
