"""Tokens of test clients."""

from __future__ import annotations

import time
from collections.abc import Sequence

from penstock.contracts.access import AccessView
from penstock.contracts.registered import RegisteredIssuer, is_valid_token
from penstock.errors import UsageError


def issue_token(
    issuers: Sequence[RegisteredIssuer],
    access: AccessView,
    consumer: str,
    *,
    subject: str,
    scopes: frozenset[str],
) -> str:
    """Return a token of a consumer from the only loaded issuer.

    Raises UsageError without an issuer or with several, and TypeError if it returns no token.
    """
    if len(issuers) != 1:
        raise UsageError(
            f"{len(issuers)} plugins issue tokens, and a client's token needs one (penstock_jwt):"
            " load it, or write client(token=False)"
        )
    token = issuers[0].issue(
        access,
        consumer,
        subject=subject,
        scopes=scopes,
        lifetime=None,
        claims={},
        now=time.time(),
    )
    if not is_valid_token(token):
        raise TypeError(f"the token issuer of {issuers[0].plugin} returned {type(token).__name__}")
    return token.access_token
