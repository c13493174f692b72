"""Where messages may go: addresses of e-mail and URLs of webhooks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from penstock.access.callbacks import PORTS
from penstock.errors import UsageError, quoted

MAX_EMAILS, MAX_URL_LENGTH = 10, 2048
# A plain address: no quoted local part, no control character, nothing that ends a header.
EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,180}", re.ASCII)
URL_TEXT = re.compile(r"[\x21-\x7e]+", re.ASCII)


def check_emails(emails: Sequence[str]) -> None:
    """Raise UsageError for what is no address, and for too many."""
    for address in emails:
        if not EMAIL.fullmatch(address):
            raise UsageError(f"{quoted(address)} is no e-mail address; write ops@example.com")
    if len(emails) > MAX_EMAILS:
        raise UsageError(f"a rule has at most {MAX_EMAILS} e-mail addresses; use a mailing list")


def check_webhook(url: str, *, private: bool) -> None:
    """Raise UsageError for what is no URL of a webhook. The error does not repeat the URL.

    A part of it may be a credential.
    """
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in PORTS
            and bool(parts.hostname)
            and len(url) <= MAX_URL_LENGTH
            and bool(URL_TEXT.fullmatch(url))
            and (parts.port or 1) > 0
        )
    except ValueError:
        good = False
    if not good or parts.fragment or parts.username is not None:
        raise UsageError(
            "this is no URL of a webhook; write one such as https://hooks.example.com/penstock"
        )
    if parts.scheme == "http" and not private:
        raise UsageError("webhooks use https; plain http is for private networks (--private)")


def origin_of(url: str) -> str:
    """Return the scheme and host of a URL: its path and query may be credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"[:255]
