"""Serve the OpenAPI document of an environment, and the page that shows it, to its readers.

Both name every route, field and credential. Under policy `any` everyone may call, so everyone may
read them. Under the other policies signed-in users of the console may. Settings change that. The
policy is read at each request, because a policy change takes effect at once.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

import msgspec
from flask import Flask, Response, request

from penstock.console import only_signed_in
from penstock.console.pages import ROOT as CONSOLE
from penstock.errors import Refusal
from penstock.host.catalog import Catalog
from penstock.host.view import CurrentView
from penstock.http.listeners import is_internal
from penstock.http.problems import problem_response
from penstock.settings import Settings
from penstock.web.docs.views import make_docs
from penstock.web.openapi.document import describe

OPEN = "any"  # the policy under which anyone may call

View = Callable[..., Response]


class Audience(IntEnum):
    """Readers of something, from the fewest to all."""

    NO_ONE = 0
    USERS = 1
    EVERYBODY = 2


def add_description(app: Flask, settings: Settings, catalog: Catalog, current: CurrentView) -> None:
    """Add the document and the page to an application, unless the settings switch them off."""
    if settings.openapi == "false":
        return

    def readers() -> Audience:
        return _audience(settings, current, settings.openapi)

    describe_listener = _describer(settings, catalog, current)
    app.add_url_rule("/-/openapi.json", "openapi", _only(readers, _openapi_view(describe_listener)))
    if settings.docs != "false":
        url = urlsplit(settings.url)
        origin = f"{url.scheme}://{url.netloc}" if settings.url else ""
        # Without the document the page is of no use.
        app.register_blueprint(
            make_docs(
                lambda view: _only(
                    lambda: min(readers(), _audience(settings, current, settings.docs)), view
                ),
                describe_listener,
                origin=origin,
                console=CONSOLE if settings.console else "",
            )
        )


def _audience(settings: Settings, current: CurrentView, choice: str) -> Audience:
    """Return the readers under a setting, on the listener of the current request."""
    access = current.access
    if choice == "true":
        return Audience.EVERYBODY if settings.pipelines else Audience.NO_ONE
    if choice == "auto" and settings.pipelines and access is not None and current.fresh():
        internal = is_internal(request.environ, settings.internal_bind)
        if (access.environment.internal_policy if internal else access.environment.policy) == OPEN:
            return Audience.EVERYBODY
    return Audience.USERS if settings.console else Audience.NO_ONE


def _only(audience: Callable[[], Audience], view: View) -> View:
    """Return a view that answers its audience alone; others get a 404, or have to sign in."""
    for_users = only_signed_in(view)

    @wraps(view)
    def guarded(*args: Any, **more: Any) -> Response:  # noqa: ANN401  a Flask view
        readers = audience()
        if readers is Audience.NO_ONE:
            return problem_response(
                Refusal(404, "not-found", "The description of this environment is not public.")
            )
        return view(*args, **more) if readers is Audience.EVERYBODY else for_users(*args, **more)

    return guarded


def _describer(
    settings: Settings, catalog: Catalog, current: CurrentView
) -> Callable[[], bytes | None]:
    """Return a function that describes what the listener of the current request serves now.

    It returns None while the view of access is stale.
    """
    documents: dict[bool, tuple[object, bytes]] = {}

    def described() -> bytes | None:
        if current.access is None or not current.fresh():
            return None
        internal = is_internal(request.environ, settings.internal_bind)
        evaluated = current.evaluated.internal if internal else current.evaluated.external
        cached = documents.get(internal)
        if cached is None or cached[0] is not evaluated:
            url = "" if internal else settings.url
            cached = documents[internal] = (
                evaluated,
                msgspec.json.encode(describe(catalog, settings.environment, evaluated, url)),
            )
        return cached[1]

    return described


def _openapi_view(described: Callable[[], bytes | None]) -> View:
    def view() -> Response:
        """Describe what this environment serves now on this listener."""
        document = described()
        if document is None:
            return problem_response(
                Refusal(
                    503, "pipeline-unavailable", "This document is not available at the moment."
                )
            )
        return Response(
            document, content_type="application/json", headers={"Cache-Control": "no-cache"}
        )

    return view
