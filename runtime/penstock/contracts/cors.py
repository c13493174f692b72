"""Which browser origins may call (the Fetch standard's CORS protocol).

This module also finds origins that could never work.

A browser compares an origin letter by letter with what a page's URL serialises to (RFC 6454 section
6.2), so an origin that is written in another way is never allowed, silently. That is why it is
refused when a plugin is loaded or a variable is set, with the form to write.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from penstock.header_fields import NAME

HEADERS = frozenset({"authorization", "content-type", "idempotency-key", "x-api-key"})
EXPOSED = frozenset(
    {"Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id", "X-Run-Id"}
)
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
MAX_AGE_S = 86_400  # no browser remembers a preflight for longer
# What scripts can neither send nor read (Fetch sections 2.2.2 and 2.2.6).
UNSENDABLE = re.compile(
    r"accept-charset|accept-encoding|access-control-request-(?:headers|method)|connection|content-length|cookie2?|date|dnt|expect|host|keep-alive|"
    r"origin|referer|set-cookie|te|trailer|transfer-encoding|upgrade|via|(?:proxy|sec)-.*"
)
UNREADABLE = re.compile(r"set-cookie2?")
URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:[^/?#@]*@)?(?P<host>\[[^\]]*\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]*))?(?:[/?#].*)?",
    re.DOTALL,
)
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
# A host that browsers read as an IPv4 address.
IN_NUMBERS = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
DEFAULT_PORTS = {"http": 80, "https": 443}
NO_PAGES = frozenset(
    {"about", "blob", "data", "file", "ftp", "javascript", "mailto", "ws", "wss"}
)  # schemes of no page, or of pages without an origin
MAX_PORT = 65_535
RULE = "an origin is scheme, host and port"
EXAMPLE = "https://shop.example"


@dataclass(frozen=True, slots=True)
class Cors:
    """Which browser origins may call a pipeline (the Fetch standard's CORS protocol).

    `origins` are exact (``https://shop.example``) or ``{"*"}``, which can't go together with
    `credentials`; `methods` are those that a browser may use, by default all that a path has;
    `headers` those that it may send, `expose` those that it may read; `max_age` is in seconds. What
    could never work is reported when the plugin is loaded, and refuses the pipeline.
    """

    origins: frozenset[str]
    methods: frozenset[str] = frozenset()
    headers: frozenset[str] = HEADERS
    expose: frozenset[str] = EXPOSED
    credentials: bool = False
    max_age: int = 600
    _problems: tuple[tuple[str, str], ...] = field(
        default=(), init=False, repr=False, compare=False
    )

    def __init__(
        self,
        origins: Iterable[str],
        *,
        methods: Iterable[str] = (),
        headers: Iterable[str] = HEADERS,
        expose: Iterable[str] = EXPOSED,
        credentials: bool = False,
        max_age: int = 600,
    ) -> None:
        given = {
            "origins": _listed(origins),
            "methods": _listed(methods),
            "headers": _listed(headers),
            "expose": _listed(expose),
        }
        texts = {
            name: [item for item in items if isinstance(item, str)] for name, items in given.items()
        }
        object.__setattr__(self, "origins", frozenset(texts["origins"]))
        object.__setattr__(self, "methods", frozenset(name.upper() for name in texts["methods"]))
        object.__setattr__(self, "headers", frozenset(name.lower() for name in texts["headers"]))
        object.__setattr__(self, "expose", frozenset(texts["expose"]))
        object.__setattr__(self, "credentials", credentials)
        object.__setattr__(self, "max_age", max_age)
        wrong = [
            *_of_types(given, credentials, max_age),
            *_of_values(texts, credentials=credentials is not False),
        ]
        object.__setattr__(self, "_problems", tuple(wrong))

    def problems(self) -> Iterable[tuple[str, str]]:
        """Return what makes no sense, each with its mend."""
        return self._problems


def _listed(given: object) -> tuple[object, ...]:
    """Return the items of what a developer gave, whatever that is; one text is one item."""
    try:
        return (given,) if isinstance(given, str) else tuple(given)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return (given,)


def _of_types(
    given: dict[str, tuple[object, ...]], credentials: object, max_age: object
) -> Iterator[tuple[str, str]]:
    if not given["origins"]:
        yield "CORS is for no origin", f'write cors=Cors("{EXAMPLE}"), or leave it out'
    for name, items in given.items():
        if not all(isinstance(item, str) for item in items):
            fix = (
                f'write cors=Cors("{EXAMPLE}")'
                if name == "origins"
                else f"write {name} as a list of texts"
            )
            yield f"CORS is for {name} that are no text", fix
    if not isinstance(credentials, bool):
        yield (
            f"CORS credentials={credentials!r} is neither True nor False",
            "write credentials=True, or leave it out",
        )
    if type(max_age) is not int or not 0 <= max_age <= MAX_AGE_S:
        yield (
            f"CORS max_age={max_age!r} is no number of seconds",
            f"give a number of seconds from 0 to {MAX_AGE_S}",
        )


def _of_values(texts: dict[str, list[str]], *, credentials: bool) -> Iterator[tuple[str, str]]:
    yield from _of_origins(texts["origins"], credentials=credentials)
    for method in texts["methods"]:
        if method.upper() not in METHODS:
            fix = (
                "leave methods out for all that a path has"
                if method == "*"
                else f"use {', '.join(sorted(METHODS))}"
            )
            yield f"CORS method {method!r} can't be used", fix
    for name, useless in (("headers", UNSENDABLE), ("expose", UNREADABLE)):
        for header in texts[name]:
            if not NAME.fullmatch(header):
                yield (
                    f"CORS {name}: {header!r} is no header's name",
                    "write names such as X-Order-Id",
                )
            elif header == "*" and credentials:
                yield (
                    f"CORS {name}: browsers take '*' literally beside credentials",
                    "name the headers",
                )
            elif useless.fullmatch(header.lower()):
                yield (
                    f"CORS {name}: no page can {'send' if name == 'headers' else 'read'} {header}",
                    "leave it out",
                )
    for name, items in texts.items():
        count = Counter(item.lower() for item in items)
        twice = [item for item in items if count[item.lower()] > 1]
        if twice:
            yield f"CORS {name}: {twice[-1]!r} is named twice", "name it once"


def _of_origins(origins: list[str], *, credentials: bool) -> Iterator[tuple[str, str]]:
    for origin in origins:
        fix = _origin_mend(origin) if origin != "*" else None
        if fix is not None:
            yield (
                (
                    f"CORS origin {origin!r}"
                    f" {'names no page of yours' if origin == 'null' else 'never matches'}"
                ),
                fix,
            )
    if "*" in origins and credentials:
        yield (
            "CORS for every origin can't allow credentials",
            "name the origins, or drop credentials=True",
        )
    elif "*" in origins and len(origins) > 1:
        yield "CORS names '*' beside other origins", "write '*' alone, or drop it"


def _origin_mend(origin: str) -> str | None:
    """Return how to write an origin that no browser sends as written.

    Return None for an origin that browsers send.
    """
    if origin == "null":
        return (
            "null is sent by any sandboxed page or local file; name the origin of your pages, such"
            f" as {EXAMPLE}"
        )
    if "*" in origin:
        return f"there are no patterns; name each origin, such as {EXAMPLE}"
    if "," in origin:
        return "give each origin as a text of its own"
    if not origin.isascii():
        return f"{RULE}: write the host in Punycode (xn--...), as browsers do"
    serialised = _serialised(origin)
    return (
        f"{RULE}: write {serialised or 'one such as ' + EXAMPLE}" if serialised != origin else None
    )


def _serialised(text: str) -> str | None:
    """Return the origin of a URL or a host as a browser writes it, or None where it has none."""
    match = URL.fullmatch(text.strip())
    if match is None or (
        match["scheme"] is None
        and ("//" in text or match["host"].lower() in {*DEFAULT_PORTS, *NO_PAGES})
    ):
        return None
    scheme, host = (match["scheme"] or "https").lower(), _host(match["host"].lower())
    port = int(match["port"] or 0) or None
    if host is None or scheme in NO_PAGES or (port or 0) > MAX_PORT:
        return None
    return f"{scheme}://{host}" + (
        f":{port}" if port not in {None, DEFAULT_PORTS.get(scheme)} else ""
    )


def _host(host: str) -> str | None:
    """Return a host as browsers write it.

    IPv6 shortened, IPv4 in four numbers (the URL standard's host serializer).
    """
    try:
        if host.startswith("["):
            address = ipaddress.IPv6Address(host[1:-1])
            if address.scope_id is not None:
                return None
            high, low = divmod(int(address.ipv4_mapped or 0), 1 << 16)
            return (
                f"[::ffff:{high:x}:{low:x}]" if address.ipv4_mapped else f"[{address.compressed}]"
            )
        if IN_NUMBERS.fullmatch(host):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        return None
    return host if HOST.fullmatch(host) else None
