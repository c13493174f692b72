"""Search: what a text names, as a page and as the list below the search box.

A text is sent by POST, because it may be a whole API key: a key is found by its digest, and is
never part of an address, of a page or of a log.
"""

from __future__ import annotations

from flask import Response, request, url_for

from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import Scope, own, page
from penstock.console.responses import redirect_to, render
from penstock.execution.search import MAX_TEXT_LENGTH, Hit, is_secret
from penstock.execution.search import search as find

SHOWN = 50  # hits of a kind on the page; the list below the box has ten
KEY_IN_ADDRESS = (
    "This address contains an API key. Addresses are logged and stored by browsers: rotate the key,"
    " and paste keys into the search box only."
)


def _found(text: str, limit: int) -> list[tuple[Hit, str]]:
    """Return what a text names where the user may see it, each with the address of its page."""
    context = console_context()
    hits = find(
        context.engine,
        text,
        pipelines=context.host.catalog.loaded,
        environments=context.environment_names(),
        limit=limit,
    )
    return [(hit, _address(hit)) for hit in hits]


def _address(hit: Hit) -> str:
    if hit.kind == "run":
        return url_for("console.runs_one", env=hit.environment, run=hit.id)
    if hit.kind == "rejected call":
        return url_for("console.rejected_one", env=hit.environment, call=hit.id)
    if hit.kind == "pipeline":
        major, _, name = hit.id.partition("/")
        return url_for("console.pipelines_one", major=major, name=name)
    if hit.kind == "revoked token":
        return url_for("console.tokens", env=hit.environment)
    return url_for("console.consumers_one", name=hit.consumer)


@page("/search", needs=Role.VIEWER, scope=Scope.ANY)
def search() -> str:
    """Show what a text names."""
    text = request.args.get("q", "").strip()[:MAX_TEXT_LENGTH]
    if is_secret(text):
        return render("search.html", text="", warning=KEY_IN_ADDRESS, hits=None)
    return render("search.html", text=text, hits=_found(text, SHOWN) if text else None)


@own("/search")
def search_for() -> Response:
    """Find what the text of a form names; a whole API key by its digest."""
    text = request.form.get("q", "").strip()[:MAX_TEXT_LENGTH]
    if "HX-Request" in request.headers:
        return Response(render("_hits.html", text=text, hits=_found(text, limit=10)))
    if is_secret(text):
        return Response(render("search.html", text="", hits=_found(text, SHOWN), of_key=True))
    return redirect_to(url_for("console.search", q=text or None))
