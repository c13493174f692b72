"""Credentials in text: what is never written, wherever it stands.

One place for records, the console, replies and the log.

API keys and tokens (JWT, RFC 7519) are known by their shape, also where lines are broken within
them. Passwords and the like have none: they are known by the name before them, as in `password=…`,
`"password": "…"`, `("password", "…")` or `Authorization: Basic …`. In texts for people, such as the
log, four more places are known: what follows a scheme (`Bearer …`), the password of a URL, cookies,
and private keys in PEM.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import lru_cache

HIDDEN = "***"
ALWAYS = frozenset(
    {
        "access_token", "api_key", "apikey", "authorization", "client_secret", "id_token", "passwd",
        "password", "private_key", "refresh_token",
        "secret", "token",
    }
)  # fmt: skip
# Names that end like these are as usual: new_password, refreshToken, x-api-key, passwordConfirm.
_USUAL = (
    r"(?:[\w-]{0,40}?(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|secret[_-]?key|credentials?|authorization)"
    r"(?:[_-]?(?:confirm(?:ation)?|repeat|again|old|new))?|pwd|otp|pin|cvv|cvc|jwt|session[_-]?id)"
)
# One of them is in each of these.
_STEMS = "pass|secret|token|key|credential|auth|pwd|otp|pin|cv[cv]|jwt|session"
# Characters behind a cut that are looked at, so that no credential is cut in two and then not
# known.
BEYOND = 512

_USUAL_NAME = re.compile(_USUAL, re.IGNORECASE)
# Also escaped for a URL, once or more.
_UNDERSCORE, _DOT = r"(?:_|%(?:25)*5[Ff])", r"(?:\.|%(?:25)*2[Ee])"
_PART = r"[A-Za-z0-9_-]"
# A line that ends; what follows is not a word.
_BROKEN = r"(?:(?:\r?\n|(?:\\r)?\\n)[ \t]*(?=[A-Za-z]*(?:[0-9_]|[a-z][A-Z])))"
# base64url of `{"`, `{ ` or `{` and an end of line.
_TOKEN_START = rf"(?:ey[JA]|ew[o0k]){_PART}{{8,}}"
# Another may follow at once.
_KEY = re.compile(
    rf"pk{_UNDERSCORE}[a-z][a-z0-9-]{{0,30}}{_UNDERSCORE}(?:(?!pk{_UNDERSCORE})[0-9A-Za-z]){{22,}}"
)
_LINES = rf"(?:{_BROKEN}{_PART}++){{0,60}}+"
_TOKEN = re.compile(
    rf"{_TOKEN_START}+{_LINES}(?:(?:(?:\s|\\[rn])++(?=\.))?{_DOT}{_PART}*+{_LINES}){{2,}}"
)
_CUT = re.compile(
    rf"(?:pk{_UNDERSCORE}[a-z][a-z0-9-]{{0,30}}(?:{_UNDERSCORE}[0-9A-Za-z]*)?|{_TOKEN_START}(?:{_DOT}{_PART}*)?)\Z"
)
_VALUE = (
    r"(?:"
    r'[bBrRuUfF]{0,2}"(?:[^"\\]|\\.)*(?:"|\\?\Z)'
    r"|[bBrRuUfF]{0,2}'(?:[^'\\]|\\.)*(?:'|\\?\Z)"
    r"|(?P<quote>\\+[\"'])(?:(?!(?P=quote)).)*(?:(?P=quote)|\Z)"  # a text within a text
    r"|[\[{(][^\n]*"
    r"|(?:(?:basic|bearer|token|digest|negotiate|apikey)\s+)?\S*[^\s,;]"
    r")"
)
# No secret: `api_key=True`.
_IS = r"(?>(?:\\*[\"'])?\s*(?:=>|:=|=+|:|%3[AD])\s*)(?!(?:true|false|none|null)\b)"
# A header as a pair: (b'X-API-Key', b'…').
_BESIDE = r"[\"']\s*,\s*(?=[bBrRuUfF]{0,2}[\"'][^\"']*[\"']\s*[)\]])"
# Not "Bearer tokens".
_SCHEME = re.compile(
    r"\b((?i:Bearer|Basic|DPoP|Negotiate))(\s+)(?=[a-z._~+/-]*[A-Z0-9=])[A-Za-z0-9._~+/=-]{6,}"
)
# A password, and no port before a path with an @.
_USERINFO = re.compile(r"(//[^\s:/?#@\"'<>\[]{0,99}:)(?!\d{1,5}[/?#])[^\s\"'<>]{0,256}@")
_COOKIE = re.compile(
    r"""((?<![\w-])(?:set-)?cookie\\*["']?(?:\s*[:=]\s*b?|\s*,\s*b?(?=["'])))(?:(["'])[^\r\n]*?\2|[^\r\n]+)""",
    re.IGNORECASE,
)
_PEM = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.DOTALL)


def masked(text: str) -> str:
    """Return a text without API keys and tokens."""
    if "pk" in text:
        text = _KEY.sub(HIDDEN, text)
    if "ey" in text or "ew" in text:
        text = _TOKEN.sub(HIDDEN, text)
    return text


def masked_fields(text: str, names: Iterable[str] = ALWAYS) -> str:
    """Return a text without API keys and tokens, and without what it says of fields by name.

    Names are in lower case.
    """
    text = masked(text)
    if not ("=" in text or ":" in text or "," in text or "%" in text):
        return text
    hint, named = _named(frozenset(names))
    return named.sub(rf"\1{HIDDEN}", text) if hint.search(text) else text


def masked_text(text: str, names: Iterable[str] = ()) -> str:
    """Return a text for people without credentials.

    Where names are given also without what it says of those fields, and of usual ones.
    """
    text = masked_fields(text, names) if names else masked(text)
    if "@" in text and "//" in text:
        text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    if "ookie" in text or "OOKIE" in text:
        text = _COOKIE.sub(rf"\1{HIDDEN}", text)
    if "PRIVATE KEY-----" in text:
        text = _PEM.sub(rf"\1{HIDDEN}", text)
    return _SCHEME.sub(rf"\1\2{HIDDEN}", text) if " " in text else text


def shortened(text: str, most: int, *, names: Iterable[str] = ()) -> str:
    """Return a text without credentials, of `most` characters at most.

    What is cut off is told by `…`.
    """
    long = len(text) > most
    if long:
        text = text[: most + BEYOND]
    shown = masked_text(text, names)
    if not long:
        # A mask can be longer than what it hides.
        return shown if len(shown) <= most else shown[: most - 1] + "…"
    return _CUT.sub("", shown)[: most - 1] + "…"


@lru_cache(maxsize=4096)
def is_usual(name: str) -> bool:
    """Say whether a field of that name holds a credential, as people usually name them."""
    return _USUAL_NAME.fullmatch(name) is not None


def is_sensitive(name: str, names: Container[str]) -> bool:
    """Say whether a field is never written.

    Its name is usual for credentials, or is one of these, which are in lower case.
    """
    return name.casefold() in names or is_usual(name)


@lru_cache(maxsize=256)
def _named(names: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what every text that may name a sensitive field contains, and what finds that.

    To look for it first is faster.
    """
    any_of = "|".join(
        re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name))
    )
    hint = re.compile(rf"{_STEMS}|{any_of}" if any_of else _STEMS, re.IGNORECASE)
    return hint, re.compile(
        rf"((?<![\w-])(?:{_USUAL}|{any_of})(?:{_IS}|{_BESIDE})){_VALUE}", re.IGNORECASE | re.DOTALL
    )
