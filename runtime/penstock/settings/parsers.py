"""Parse the texts of settings.

Each function returns the value of a text, or a function that does. Each raises ValueError whose
text completes a sentence that begins with the setting's name, such as "must be true or false". No
text repeats the value of a setting that may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from penstock.contracts.networks import network_of
from penstock.errors import quoted

Option = TypeVar("Option", bound=str)

MAX_PORT = 65_535
LOG_LEVELS = ("debug", "info", "warning", "error")
ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,30}")
ADDRESS = re.compile(r"unix:\S+|fd://\d+|(?:\[[0-9A-Fa-f:.]+\]|[^:\s\[\]/]+):(?P<port>\d{1,5})")
URL = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*)/*"
)
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
RESERVED_HEADERS = frozenset({"authorization", "cookie", "host"})


def text(value: str) -> str:
    """Return a text as it is."""
    return value


def words(value: str) -> tuple[str, ...]:
    """Return the words of a list that is separated by commas or spaces."""
    return tuple(word for word in re.split(r"[,\s]+", value) if word)


def names(value: str) -> frozenset[str]:
    """Return the words of such a list as a set."""
    return frozenset(words(value))


def levels(value: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a name and a level of a log, separated by commas or spaces."""
    pairs = [word.partition("=") for word in words(value)]
    for name, _, level in pairs:
        if not name or level.lower() not in LOG_LEVELS:
            raise ValueError(
                f"must be like shop=debug,billing=warning, with one of {', '.join(LOG_LEVELS)},"
                f" not {value!r}"
            )
    return tuple((name, level.lower()) for name, _, level in pairs)


def flag(value: str) -> bool:
    """Return the value of true or false, in any case."""
    return one_of("true", "false")(value) == "true"


def one_of(*options: Option) -> Callable[[str], Option]:
    """Return a function that accepts these options, in any case."""

    def parse(value: str) -> Option:
        for option in options:
            if value.lower() == option:
                return option
        raise ValueError(
            f"must be {', '.join(options[:-1])} or {options[-1]}, not {quoted(value.lower())}"
        )

    return parse


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a function that accepts whole numbers within these bounds."""

    def parse(value: str) -> int:
        if re.fullmatch(r"\d{1,9}", value, re.ASCII) and minimum <= int(value) <= maximum:
            return int(value)
        raise ValueError(f"must be a whole number from {minimum} to {maximum}, not {quoted(value)}")

    return parse


def environment_name(value: str) -> str:
    """Return the name of an environment."""
    if not ENVIRONMENT.fullmatch(value):
        raise ValueError(
            f"is {quoted(value)}; an environment's name has lower-case letters, digits and dashes,"
            f" a letter first ({ENVIRONMENT.pattern})"
        )
    return value


def key_headers(value: str) -> tuple[str, ...]:
    """Return the names of request headers that carry an API key."""
    headers = words(value)
    if not headers or not all(HEADER.fullmatch(name) for name in headers):
        raise ValueError(
            "must name at least one header, letters, digits and dashes, separated by commas"
        )
    if any(name.lower() in RESERVED_HEADERS for name in headers):
        raise ValueError("can't be a header with a standard meaning; use one such as X-API-Key")
    return headers


def header_name(value: str) -> str:
    """Return the name of a header, or an empty text."""
    if value and not HEADER.fullmatch(value):
        raise ValueError("must be the name of a header, letters, digits and dashes")
    return value


def port_of(address: str) -> int:
    """Return the port of an address, or 0 for a Unix socket and for an empty text."""
    match = ADDRESS.fullmatch(address)
    return int(match["port"] or 0) if match is not None else 0


def address(value: str) -> str:
    """Return an address that a server can listen on: HOST:PORT, unix:PATH or fd://NUMBER."""
    if not ADDRESS.fullmatch(value) or port_of(value) > MAX_PORT:
        raise ValueError(
            "must be like 127.0.0.1:8000, [::1]:8000 or unix:/run/penstock.sock, not"
            f" {quoted(value)}"
        )
    return value


def internal_address(value: str) -> str:
    """Return the address of the internal listener, or an empty text."""
    if value and (
        not ADDRESS.fullmatch(value) or value.startswith("fd:") or port_of(value) > MAX_PORT
    ):
        raise ValueError(
            "must be like 127.0.0.1:9000, [::1]:9000 or unix:/run/penstock-internal.sock, not"
            f" {quoted(value)}"
        )
    return value


def url(example: str) -> Callable[[str], str]:
    """Return a function that accepts a URL like the example, or an empty text."""

    def parse(value: str) -> str:
        match = URL.fullmatch(value)
        if value and (match is None or int(match["port"] or 0) > MAX_PORT):
            raise ValueError(
                f"must be like {example}: scheme, host and at most a path, in ASCII, without user,"
                " query or fragment"
            )
        return value.rstrip("/")

    return parse


def database_url(value: str) -> str:
    """Return the URL of a database. The error does not repeat it: it may hold a password."""
    try:
        _ = urlsplit(value).port
    except ValueError:
        raise ValueError("has an invalid port; write postgresql://user@host:5432/name") from None
    return value


def networks(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the networks of a list."""
    try:
        return tuple(network_of(word) for word in words(value))
    except ValueError as error:
        raise ValueError(
            f"must be networks such as 10.0.0.0/8, 127.0.0.1 or fd00::/8: {error}"
        ) from None


def folders(value: str) -> tuple[Path, ...]:
    """Return the folders of a list that is separated by colons. All of them must exist."""
    paths = tuple(Path(part).expanduser().resolve() for part in value.split(":") if part)
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"must name folders: {path} is no folder")
    return paths


def existing_folder(value: str) -> tuple[Path, ...]:
    """Return one folder if it exists, else none."""
    path = Path(value)
    return (path.resolve(),) if path.is_dir() else ()
