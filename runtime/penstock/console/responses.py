"""What a view returns: a page, a form with its faults, a redirect, or a part that polls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from flask import Response, flash, make_response, redirect, render_template, request, url_for
from markupsafe import Markup

from penstock.console.forms import ConsoleForm


def render(template: str, **values: object) -> str:
    """Render a page."""
    return render_template(template, **values)


def show_form(template: str, form: ConsoleForm, **values: object) -> Response:
    """Render a page with a form.

    Status 422 where the form has faults, 409 where another user saved meanwhile, else 200.
    """
    status = 422 if form.has_faults else 409 if form.conflicts else 200
    return make_response(render_template(template, form=form, **values), status)


def redirect_to(url: str) -> Response:
    """Send the browser to a page with GET."""
    return make_response(redirect(url, 303))


def done(message: str, endpoint: str, **values: Any) -> Response:  # noqa: ANN401  url_for's
    """Redirect to a page of the console, which shows the message once."""
    flash(message)
    return redirect_to(url_for(f"console.{endpoint}", **values))


def this_page(changes: Mapping[str, str], *, without: Iterable[str] = ()) -> str:
    """Return the address of the current page with other values in its query."""
    dropped = {*without, *changes}
    query = [pair for pair in request.args.items(multi=True) if pair[0] not in dropped]
    return f"{request.script_root}{request.path}?{urlencode([*query, *changes.items()])}"


def _digest(html: str) -> str:
    return sha256(html.encode()).hexdigest()[:16]


def live(html: str) -> Response:
    """Return a part of a page that polls: status 204 where the browser shows the same already.

    An unchanged part is not replaced, so focus and selection stay.
    """
    if request.args.get("seen") == _digest(html):
        return Response(status=204)
    return Response(live_part(html))


def live_part(html: str) -> Markup:
    """Return a part of a page with the digest that its next poll sends back."""
    field = Markup('<input type="hidden" name="seen" value="{}">{}')
    return field.format(_digest(html), Markup(html))  # noqa: S704  a template rendered it
