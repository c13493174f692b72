"""Mask credentials in texts, for records, the console, replies and the log.

API keys and tokens (JWT, RFC 7519) have a recognisable form, also with line breaks inside.
Passwords have none: they are recognised by the name before them, as in `password=…`, `"password":
"…"`, `("password", "…")` or `Authorization: Basic …`. In texts for people, such as the log, four
more places are masked: the credential after a scheme (`Bearer …`), the password of a URL, cookies,
and private keys in PEM.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import lru_cache

HIDDEN = "***"
DEFAULT_SENSITIVE_NAMES = frozenset(
    {
        "access_token", "api_key", "apikey", "authorization", "client_secret", "id_token", "passwd",
        "password", "private_key", "refresh_token",
        "secret", "token",
    }
)  # fmt: skip
# Names that end like this: new_password, refreshToken, x-api-key, passwordConfirm.
_CREDENTIAL_NAME = (
    r"(?:[\w-]{0,40}?(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key"
    r"|access[_-]?key|secret[_-]?key|credentials?|authorization)"
    r"(?:[_-]?(?:confirm(?:ation)?|repeat|again|old|new))?|pwd|otp|pin|cvv|cvc|jwt|session[_-]?id)"
)
# Each such name contains one of these. A search for them first is faster.
_STEMS = "pass|secret|token|key|credential|auth|pwd|otp|pin|cv[cv]|jwt|session"
# Characters after a cut that are searched too: a credential that is cut in two is not recognised.
CUT_MARGIN = 512

_CREDENTIAL_NAME_PATTERN = re.compile(_CREDENTIAL_NAME, re.IGNORECASE)
# Also escaped for a URL, once or more.
_UNDERSCORE, _DOT = r"(?:_|%(?:25)*5[Ff])", r"(?:\.|%(?:25)*2[Ee])"
_PART = r"[A-Za-z0-9_-]"
# The end of a line that is not followed by a word.
_BROKEN = r"(?:(?:\r?\n|(?:\\r)?\\n)[ \t]*(?=[A-Za-z]*(?:[0-9_]|[a-z][A-Z])))"
# base64url of `{"`, `{ ` or `{` and an end of line.
_TOKEN_START = rf"(?:ey[JA]|ew[o0k]){_PART}{{8,}}"
# The next key may follow without a space.
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
# Not `api_key=True`, which is no secret.
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


def masked_fields(text: str, names: Iterable[str] = DEFAULT_SENSITIVE_NAMES) -> str:
    """Return a text without API keys, tokens and the values of fields with these names.

    Names are in lower case. Fields with the usual names of credentials are masked too.
    """
    text = masked(text)
    if not ("=" in text or ":" in text or "," in text or "%" in text):
        return text
    hint, fields = _field_patterns(frozenset(names))
    return fields.sub(rf"\1{HIDDEN}", text) if hint.search(text) else text


def masked_text(text: str, names: Iterable[str] = ()) -> str:
    """Return a text for people without credentials.

    With `names` the values of those fields, and of fields with usual names, are masked too.
    """
    text = masked_fields(text, names) if names else masked(text)
    if "@" in text and "//" in text:
        text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    if "ookie" in text or "OOKIE" in text:
        text = _COOKIE.sub(rf"\1{HIDDEN}", text)
    if "PRIVATE KEY-----" in text:
        text = _PEM.sub(rf"\1{HIDDEN}", text)
    return _SCHEME.sub(rf"\1\2{HIDDEN}", text) if " " in text else text


def shortened(text: str, limit: int, *, names: Iterable[str] = ()) -> str:
    """Return a text without credentials, of at most `limit` characters; `…` marks a cut."""
    long = len(text) > limit
    if long:
        text = text[: limit + CUT_MARGIN]
    shown = masked_text(text, names)
    if not long:
        # A mask can be longer than the text that it replaces.
        return shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return _CUT.sub("", shown)[: limit - 1] + "…"


@lru_cache(maxsize=4096)
def is_credential_name(name: str) -> bool:
    """Return whether a field has a usual name of credentials, such as `password`."""
    return _CREDENTIAL_NAME_PATTERN.fullmatch(name) is not None


def is_sensitive(name: str, names: Container[str]) -> bool:
    """Return whether a field must be masked.

    Its name is a usual name of credentials, or one of these, which are in lower case.
    """
    return name.casefold() in names or is_credential_name(name)


@lru_cache(maxsize=256)
def _field_patterns(names: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return two patterns: a fast test for any such name, and names with their values."""
    any_of = "|".join(
        re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name))
    )
    hint = re.compile(rf"{_STEMS}|{any_of}" if any_of else _STEMS, re.IGNORECASE)
    return hint, re.compile(
        rf"((?<![\w-])(?:{_CREDENTIAL_NAME}|{any_of})(?:{_IS}|{_BESIDE})){_VALUE}",
        re.IGNORECASE | re.DOTALL,
    )
