"""Forms that were sent after their session had ended: kept until the user signs in again.

The browser keeps such a form in a cookie that is encrypted, small and short-lived. After the
sign-in, with a password or an identity provider, the page of the form shows the typed values.
Nothing is sent again without a click. Passwords and secrets are never kept, and neither is a form
without the CSRF token of its session. The form of one user is never shown to another one.
"""

from __future__ import annotations

import json
import time
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flask import Response, current_app, request
from werkzeug.datastructures import MultiDict

from penstock.access.encryption import SecretBox, UnknownKey
from penstock.console.context import console_context

COOKIE = "penstock_form"
MAX_AGE_S = 900
MAX_COOKIE_BYTES = 3800  # browsers keep 4096 with the name and the attributes
NO_PAGE = "console.nothing"  # the view of paths without a page
Typed = MultiDict[str, str]


def _box() -> SecretBox:
    """Return keys for this purpose alone."""
    derived = console_context().box.derived("kept form")
    return SecretBox(tuple(urlsafe_b64encode(bytes.fromhex(key)).decode() for key in derived))


def page_of_form(path: str, root: str) -> str:
    """Return the path of the page that shows the form which is sent to a path; else the root."""
    adapter = current_app.create_url_adapter(request)
    while adapter is not None and path != root:
        endpoint, _ = adapter.match(path, method="GET")
        if endpoint != NO_PAGE:
            return path
        path = path.rpartition("/")[0]
    return root


def page_with_query(path: str) -> str:
    """Return the address of a form's page; its query is in the address that the form came from."""
    source = urlsplit(request.referrer or "")
    here = f"{request.script_root}{path}"
    own = source.netloc == request.host and source.path == here
    return f"{path}?{source.query}" if own and source.query else path


def keep(response: Response, user: str, path: str, secret_fields: Iterable[str]) -> bool:
    """Keep the form of a request for its user and page; return False where it is too large."""
    dropped = {"csrf_token", *secret_fields}
    values = [pair for pair in request.form.items(multi=True) if pair[0] not in dropped]
    document = json.dumps([time.time(), user, path, values]).encode()
    sealed = _box().encrypt(zlib.compress(document, 9)).decode()
    if len(sealed) > MAX_COOKIE_BYTES:
        return False
    _set_cookie(response, sealed, MAX_AGE_S)
    return True


@dataclass(frozen=True, slots=True)
class KeptForm:
    """A form in the cookie: when it was sent, by whom, for which page, and its values."""

    at: float
    user: str
    path: str
    values: list[tuple[str, str]] = field(repr=False)


def opened(sealed: str) -> KeptForm | None:
    """Return the form in a cookie; None where it is not ours."""
    try:
        document = json.loads(zlib.decompress(_box().decrypt(sealed.encode())))
    except (UnknownKey, ValueError, zlib.error):
        return None
    at, user, path, values = document
    return KeptForm(at, user, path, [(name, value) for name, value in values])


def typed(user: str) -> Typed | None:
    """Return the values that a user typed into the form of this page, or None."""
    form = opened(request.cookies.get(COOKIE, ""))
    if form is None or form.user != user or form.path != request.path:
        return None
    return MultiDict(form.values) if 0 <= time.time() - form.at <= MAX_AGE_S else None


def drop(response: Response) -> None:
    """Delete the kept form from the browser."""
    _set_cookie(response, "", 0)


def _set_cookie(response: Response, value: str, max_age: int) -> None:
    interface = current_app.session_interface
    response.set_cookie(
        COOKIE,
        value,
        max_age=max_age,
        path=interface.get_cookie_path(current_app),
        secure=interface.get_cookie_secure(current_app),
        httponly=True,
        samesite="Lax",
    )
