"""Authenticators, policies and issuers of plugins, as registered when the plugin was loaded.

Plugin code may define an attribute as a property that returns another value each time. So each
attribute is read once, checked and stored here; the gate and the evaluation use these values only.
Constructors raise InvalidPluginValue, or any exception that the plugin's attribute raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Self, TypeGuard

from penstock.contracts.access import AccessView, EnvironmentFacts
from penstock.contracts.authenticators import Authenticator, Once
from penstock.contracts.call import Caller, Token
from penstock.contracts.extensions import Document, TokenIssuer
from penstock.contracts.policies import AccessPolicy, Candidate


class InvalidPluginValue(ValueError):
    """A value of plugin code has a wrong type or form; the text names attribute and fault."""


def require_text(value: object, what: str) -> str:
    """Return a text that is not empty, as a plain `str`. Raises InvalidPluginValue."""
    if not isinstance(value, str) or not value:
        raise InvalidPluginValue(f"{what} is no text")
    return str.__str__(value)


def require_line(value: object, what: str) -> str:
    """Return a text as one line: in a report, a second line would look like another entry.

    Raises InvalidPluginValue.
    """
    shown = "".join(
        character if character.isprintable() else " " for character in require_text(value, what)
    )
    return " ".join(shown.split()) or "?"


def require_texts(value: object, what: str) -> tuple[str, ...]:
    """Return the texts of a collection. Raises InvalidPluginValue, also for a single text."""
    if type(value) not in {tuple, list, set, frozenset}:
        raise InvalidPluginValue(f"{what} is no list of texts")
    return tuple(require_text(item, f"an item of {what}") for item in value)  # type: ignore[attr-defined]  # it is one of these


def require_bool(value: object, what: str) -> bool:
    """Return True or False. Raises InvalidPluginValue for any other value."""
    if type(value) is not bool:
        raise InvalidPluginValue(f"{what} is neither True nor False")
    return value


@dataclass(frozen=True, slots=True)
class RegisteredPolicy:
    """An access policy and its plugin."""

    plugin: str
    name: str
    options: tuple[str, ...]
    meanings: Mapping[str, str]
    judge: Callable[[Candidate, EnvironmentFacts], object]

    @classmethod
    def of(cls, plugin: str, item: AccessPolicy) -> Self:
        """Return the registered form of an access policy."""
        meanings = item.meanings
        if not isinstance(meanings, Mapping):
            raise InvalidPluginValue("its meanings are no mapping")
        meant = {
            require_text(option, "an option"): require_text(meaning, "a meaning")
            for option, meaning in dict(meanings).items()
        }
        return cls(
            plugin,
            require_text(item.name, "its name"),
            require_texts(item.options, "its options"),
            meant,
            item.judge,
        )


@dataclass(frozen=True, slots=True)
class RegisteredAuthenticator:
    """An authenticator and its plugin. The gate checks what its methods return."""

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
    uses_authorization_header: bool
    find: Callable[[Any, AccessView], object]
    verify: Callable[[str, AccessView, Caller, float], object]
    verify_body: Callable[..., object]
    once: Callable[[str, bytes, Any], object]
    enrol: Callable[[str, str], tuple[str, bytes]]
    security_scheme: Callable[[], Mapping[str, object]]

    @classmethod
    def of(cls, plugin: str, item: Authenticator) -> Self:
        """Return the registered form of an authenticator."""
        most, declared = item.most, item.credential_headers
        headers = None if declared is None else require_texts(declared, "credential_headers")
        if most is not None and type(most) is not int:
            raise InvalidPluginValue("most is no number")
        return cls(
            plugin=plugin,
            name=require_text(item.name, "its name"),
            noun=require_text(item.noun, "its noun"),
            refusal=require_text(item.refusal, "its refusal"),
            challenge=require_text(item.challenge, "its challenge"),
            needs=frozenset(require_texts(item.needs, "its needs")),
            only_where_asked=require_bool(item.only_where_asked, "only_where_asked"),
            reads_body=require_bool(item.reads_body, "reads_body"),
            counts_once=type(item).once is not Authenticator.once,
            guessable=require_bool(item.guessable, "guessable"),
            asks_for_secret=require_bool(item.asks_for_secret, "asks_for_secret"),
            most=most,
            enrols=type(item).enrol is not Authenticator.enrol,
            credential_headers=headers or (),
            credential_parameters=require_texts(
                item.credential_parameters, "credential_parameters"
            ),
            uses_authorization_header=headers is None
            or "authorization" in {name.lower() for name in headers},
            find=item.find,
            verify=item.verify,
            verify_body=item.verify_body,
            once=item.once,
            enrol=item.enrol,
            security_scheme=item.security_scheme,
        )


@dataclass(frozen=True, slots=True)
class RegisteredIssuer:
    """A token issuer and its plugin."""

    plugin: str
    issue: Callable[..., object]

    @classmethod
    def of(cls, plugin: str, item: TokenIssuer) -> Self:
        """Return the registered form of a token issuer."""
        return cls(plugin, item.issue)


def read_document(item: Document) -> Document:
    """Return a public document with checked attributes."""
    path, kind, age = (
        require_text(item.path, "its path"),
        require_text(item.content_type, "its content_type"),
        item.max_age,
    )
    if type(age) is not int or age < 0:
        raise InvalidPluginValue("max_age is no number of seconds")
    return Document(path, kind, item.render, age)


def extends_caller(proven: Caller, before: Caller) -> bool:
    """Return whether a caller has valid parts and the consumer that was proven before, if any."""
    number = proven.consumer_id
    if number is None:
        consistent = proven.consumer is None and before.consumer_id is None
    else:
        consistent = (
            type(number) is int
            and type(proven.consumer) is str
            and (before.consumer_id is None or number == before.consumer_id)
        )
    subject, key = proven.subject, proven.key_id
    return (
        consistent
        and type(proven.scopes) is frozenset
        and (subject is None or type(subject) is str)
        and (key is None or type(key) is str)
    )


def is_valid_once(value: object) -> TypeGuard[Once]:
    """Return whether an authenticator returned a valid mark of a call."""
    return (
        type(value) is Once
        and type(value.message) is bytes
        and type(value.seconds) in {int, float}
        and 0 < value.seconds < inf
    )


def is_valid_token(value: object) -> TypeGuard[Token]:
    """Return whether a token issuer returned a valid token."""
    return (
        type(value) is Token and type(value.access_token) is str and type(value.expires_in) is int
    )
