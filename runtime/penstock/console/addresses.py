"""Addresses without a page of their own: the roots, and paths that only take a form."""

from __future__ import annotations

from flask import Response, current_app, request, url_for
from werkzeug.exceptions import NotFound

from penstock.access.users import Role
from penstock.console.context import current_environment
from penstock.console.kept_forms import page_of_form
from penstock.console.pages import ROOT, Scope, page
from penstock.console.responses import redirect_to


@page("", needs=Role.VIEWER, scope=Scope.ANY)
def home() -> Response:
    """Redirect to the first page."""
    return redirect_to(url_for("console.overview"))


@page("/e/<env>", needs=Role.VIEWER)
def environment_home() -> Response:
    """Redirect to the overview of an environment."""
    return redirect_to(url_for("console.overview", env=current_environment()))


@page("/<path:rest>", needs=Role.VIEWER, scope=Scope.ANY)
def nothing(rest: str) -> Response:
    """Answer 404 for a path without a page.

    A path that takes a form leads to the page that shows the form: Reload, Back and Enter in the
    address bar after a form with faults find it again.
    """
    path = f"{ROOT}/{rest}"
    adapter = current_app.create_url_adapter(request)
    if adapter is not None and adapter.test(path, method="POST"):
        above = page_of_form(path, ROOT)
        if above == ROOT:
            return redirect_to(url_for("console.overview"))
        return redirect_to(f"{request.script_root}{above}")
    raise NotFound(f"There is no page {path}.")
