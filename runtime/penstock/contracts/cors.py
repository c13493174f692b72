"""Which browser origins may call (the Fetch standard's CORS protocol).

A browser compares an origin letter by letter with the serialised origin of a page (RFC 6454 section
6.2). An origin in another spelling never matches, and nothing reports it. So this module rejects
such an origin when a plugin is loaded or a variable is set, and returns the spelling that works.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Self

from penstock.contracts.options import (
    Check,
    Converted,
    Problem,
    convert_options,
    converted,
    option,
    problems_of_options,
    whole_number,
)
from penstock.header_fields import NAME

HEADERS = frozenset({"authorization", "content-type", "idempotency-key", "x-api-key"})
EXPOSED = frozenset(
    {"Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id", "X-Run-Id"}
)
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
MAX_AGE_S = 86_400  # no browser caches a preflight for longer
# Headers that scripts can't send, and those that they can't read (Fetch 2.2.2 and 2.2.6).
UNSENDABLE = re.compile(
    r"accept-charset|accept-encoding|access-control-request-(?:headers|method)|connection"
    r"|content-length|cookie2?|date|dnt|expect|host|keep-alive|origin|"
    r"referer|set-cookie|te|trailer|transfer-encoding|upgrade|via|(?:proxy|sec)-.*"
)
UNREADABLE = re.compile(r"set-cookie2?")
URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:[^/?#@]*@)?"
    r"(?P<host>\[[^\]]*\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]*))?(?:[/?#].*)?",
    re.DOTALL,
)
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
# A host that browsers read as an IPv4 address.
NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
DEFAULT_PORTS = {"http": 80, "https": 443}
SCHEMES_WITHOUT_ORIGIN = frozenset(
    {"about", "blob", "data", "file", "ftp", "javascript", "mailto", "ws", "wss"}
)  # schemes without pages, or of pages without an origin
MAX_PORT = 65_535
RULE = "an origin is scheme, host and port"
EXAMPLE = "https://shop.example"


class Listed(frozenset[str]):
    """A set of texts that remembers the items as the developer listed them.

    `items` are all of them, in order: with repetitions, in their own spelling, and with values that
    are no texts. The set itself is for calls, `items` are for the report of problems.
    """

    items: tuple[object, ...]

    @classmethod
    def of(cls, listed: object, spell: Callable[[str], str] = str) -> Self:
        """Return the set of a text, of several, or of any value a developer wrote."""
        if isinstance(listed, cls):
            return listed
        items: tuple[object, ...] = (listed,)
        if isinstance(listed, Iterable) and not isinstance(listed, str):
            items = tuple(listed)
        texts = cls(spell(item) for item in items if isinstance(item, str))
        texts.items = items
        return texts

    @property
    def texts(self) -> list[str]:
        """The items that are texts, as listed."""
        return [item for item in self.items if isinstance(item, str)]


def _lower(listed: str | Iterable[str]) -> Listed:
    return Listed.of(listed, str.lower)


def _upper(listed: str | Iterable[str]) -> Listed:
    return Listed.of(listed, str.upper)


def _as_listed(listed: str | Iterable[str]) -> Listed:
    return Listed.of(listed)


@dataclass(frozen=True, slots=True)
class Cors:
    """Which browser origins may call a pipeline (the Fetch standard's CORS protocol).

    Example: `Cors("https://shop.example", credentials=True)`.

    A wrong option, or an origin that no browser sends, blocks the pipeline and is reported when the
    plugin is loaded.

    Args:
        origins: Exact origins (`https://shop.example`), or "*" for all. "*" excludes `credentials`.
        methods: Methods that pages may use. Default: all methods of the path.
        headers: Request headers that pages may send. Default: Authorization, Content-Type,
            Idempotency-Key and X-API-Key.
        expose: Response headers that pages may read. Default: Location, RateLimit,
            RateLimit-Policy, Retry-After, X-Request-Id and X-Run-Id.
        credentials: Whether pages may send cookies and HTTP authentication. Default False.
        max_age: Seconds that a browser caches a preflight, 0 to 86400. Default 600.

    """

    origins: Converted[str | Iterable[str], Listed] = converted(_as_listed)
    _: KW_ONLY
    methods: Converted[str | Iterable[str], Listed] = converted(_upper, ())
    headers: Converted[str | Iterable[str], Listed] = converted(_lower, HEADERS)
    expose: Converted[str | Iterable[str], Listed] = converted(_as_listed, EXPOSED)
    credentials: bool = option(
        False,
        Check(
            lambda value: isinstance(value, bool),
            "is neither True nor False",
            "write credentials=True, or leave it out",
        ),
    )
    max_age: int = option(
        600,
        whole_number(
            0,
            MAX_AGE_S,
            fault="is no number of seconds",
            fix=f"give a number of seconds from 0 to {MAX_AGE_S}",
        ),
    )

    def __post_init__(self) -> None:
        convert_options(self)

    def problems(self) -> Iterable[Problem]:
        """Yield what is wrong with the options, each with its fix."""
        lists = {
            "origins": self.origins,
            "methods": self.methods,
            "headers": self.headers,
            "expose": self.expose,
        }
        yield from _type_problems(lists)
        yield from problems_of_options(self, "CORS {}")
        credentials = self.credentials is not False
        yield from _origin_problems(self.origins.texts, credentials=credentials)
        yield from _method_problems(self.methods.texts)
        for name, unusable in (("headers", UNSENDABLE), ("expose", UNREADABLE)):
            yield from _header_problems(name, lists[name].texts, unusable, credentials=credentials)
        for name, listed in lists.items():
            count = Counter(item.lower() for item in listed.texts)
            twice = [item for item in listed.texts if count[item.lower()] > 1]
            if twice:
                yield f"CORS {name}: {twice[-1]!r} is named twice", "name it once"


def _type_problems(lists: Mapping[str, Listed]) -> Iterator[Problem]:
    if not lists["origins"].items:
        yield "CORS is for no origin", f'write cors=Cors("{EXAMPLE}"), or leave it out'
    for name, listed in lists.items():
        if len(listed.texts) < len(listed.items):
            fix = (
                f'write cors=Cors("{EXAMPLE}")'
                if name == "origins"
                else f"write {name} as a list of texts"
            )
            yield f"CORS is for {name} that are no text", fix


def _method_problems(methods: Iterable[str]) -> Iterator[Problem]:
    for method in methods:
        if method.upper() not in METHODS:
            fix = (
                "leave methods out for all methods of the path"
                if method == "*"
                else f"use {', '.join(sorted(METHODS))}"
            )
            yield f"CORS method {method!r} can't be used", fix


def _header_problems(
    option_name: str, headers: Iterable[str], unusable: re.Pattern[str], *, credentials: bool
) -> Iterator[Problem]:
    for header in headers:
        if not NAME.fullmatch(header):
            yield (
                f"CORS {option_name}: {header!r} is no header's name",
                "write names such as X-Order-Id",
            )
        elif header == "*" and credentials:
            yield (
                f"CORS {option_name}: browsers take '*' literally beside credentials",
                "name the headers",
            )
        elif unusable.fullmatch(header.lower()):
            verb = "send" if option_name == "headers" else "read"
            yield f"CORS {option_name}: no page can {verb} {header}", "leave it out"


def _origin_problems(origins: list[str], *, credentials: bool) -> Iterator[Problem]:
    for origin in origins:
        fix = _origin_fix(origin) if origin != "*" else None
        if fix is not None:
            fault = "names no page of yours" if origin == "null" else "never matches"
            yield f"CORS origin {origin!r} {fault}", fix
    if "*" in origins and credentials:
        yield (
            "CORS for every origin can't allow credentials",
            "name the origins, or drop credentials=True",
        )
    elif "*" in origins and len(origins) > 1:
        yield "CORS names '*' beside other origins", "write '*' alone, or drop it"


def _origin_fix(origin: str) -> str | None:
    """Return how to write an origin that no browser sends, or None if browsers send it."""
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
    """Return the origin of a URL or a host as a browser writes it, or None if it has none."""
    match = URL.fullmatch(text.strip())
    if match is None or (
        match["scheme"] is None
        and ("//" in text or match["host"].lower() in {*DEFAULT_PORTS, *SCHEMES_WITHOUT_ORIGIN})
    ):
        return None
    scheme, host = (match["scheme"] or "https").lower(), _host(match["host"].lower())
    port = int(match["port"] or 0) or None
    if host is None or scheme in SCHEMES_WITHOUT_ORIGIN or (port or 0) > MAX_PORT:
        return None
    return f"{scheme}://{host}" + (
        f":{port}" if port not in {None, DEFAULT_PORTS.get(scheme)} else ""
    )


def _host(host: str) -> str | None:
    """Return a host as browsers write it (the URL standard's host serializer), or None.

    IPv6 addresses are shortened; IPv4 addresses have four decimal numbers.
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
        if NUMERIC_HOST.fullmatch(host):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        return None
    return host if HOST.fullmatch(host) else None
