"""Serve the documentation of this version at `/-/help`, in the console's frame, with search.

It has the console's guard, headers and errors, because its views are views of the console's
blueprint: only their path is outside of `/-/console`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import groupby

from flask import Response, abort, request, url_for
from flask.blueprints import BlueprintSetupState
from markupsafe import Markup

from penstock.access.users import Role
from penstock.console.pages import NEEDS, SCOPES, Scope, ViewFunction, blueprint
from penstock.console.responses import render
from penstock.contracts.problem_types import CALL_PROBLEMS, RUN_PROBLEMS
from penstock.errors import UnknownName
from penstock.manual.pages import INDEX, Page, all_pages, find_page, folder, search_pages

ROOT = "/-/help"
MAX_QUERY = 200  # characters
KIND_TITLES = {
    "tutorial": "Tutorials",
    "how-to": "How-to",
    "reference": "Reference",
    "explanation": "Explanation",
    "": "Development",
}
PROBLEM_PAGE = "reference/problems"
PROBLEM_NAMES = frozenset(item.name for item in (*CALL_PROBLEMS, *RUN_PROBLEMS))
# The page that explains a page of the console, by the first word of its endpoint.
EXPLAINED_BY: Mapping[str, str] = {
    "overview": "how-to/use-the-console",
    "pipelines": "explanation/access",
    "pipeline": "explanation/access#policies-and-toggles",
    "consumers": "how-to/manage-access#give-a-consumer-access",
    "consumer": "how-to/manage-access#give-a-consumer-access",
    "policies": "how-to/manage-access#set-an-environments-policy",
    "usage": "how-to/find-out-what-happened",
    "explain": "how-to/find-out-what-happened#why-was-this-call-rejected",
    "rejected": "how-to/find-out-what-happened#why-was-this-call-rejected",
    "runs": "how-to/inspect-runs",
    "schedules": "how-to/schedule-a-pipeline#pause-a-schedule-or-run-it-now",
    "queue": "how-to/find-out-what-happened#what-runs-next-and-what-waits",
    "keys": "how-to/manage-access#give-a-consumer-access",
    "deployments": "how-to/find-out-what-happened#what-changed-before-it-broke",
    "alerts": "how-to/use-the-console",
    "run": "how-to/inspect-runs",
    "tokens": "how-to/issue-tokens",
    "limits": "how-to/manage-access#limit-a-consumer",
    "settings": "how-to/use-variables-and-secrets",
    "changes": "how-to/manage-access#ask-for-a-second-approval",
    "audit": "how-to/manage-access#take-access-away",
    "users": "how-to/use-the-console",
    "account": "how-to/use-the-console#sessions",
}


def _serve(rule: str, view: ViewFunction) -> None:
    """Register a view of the console at a path outside of the console."""
    NEEDS[f"console.{view.__name__}"] = Role.VIEWER
    SCOPES[f"console.{view.__name__}"] = Scope.ANY

    def add(state: BlueprintSetupState) -> None:
        state.app.add_url_rule(f"{ROOT}{rule}", f"console.{view.__name__}", view, methods=["GET"])

    blueprint.record(add)


def help_index() -> str:
    """Show the list of pages, or the sections that a search finds."""
    query = request.args.get("q", "").strip()[:MAX_QUERY]
    if query:
        return render(
            "help.html", title="Search", hits=search_pages(query), query=query, **_frame("")
        )
    return _page(all_pages()[INDEX])


def help_root() -> Response:
    """Redirect to the list of pages."""
    return Response(status=301, headers={"Location": url_for("console.help_index")})


def help_page(topic: str) -> str | Response:
    """Show a page, or a file of the examples."""
    if topic in _examples():
        text = (folder() / topic).read_text(encoding="utf-8")
        return Response(text, content_type="text/plain; charset=utf-8")
    try:
        return _page(find_page(topic))
    except UnknownName:
        abort(404, f"There is no help page “{topic}”.")


_serve("", help_index)
_serve("/", help_root)
_serve("/<path:topic>", help_page)


def help_address() -> str:
    """Return the address of the page that explains the current page of the console."""
    endpoint = (request.endpoint or "").removeprefix("console.")
    words = endpoint.split("_")
    target = EXPLAINED_BY.get(endpoint) or EXPLAINED_BY.get(words[0], "")
    return address_of(target) or url_for("console.help_index")


def problem_address(problem: str | None) -> str | None:
    """Return the address of the section that explains a problem type, or None."""
    return address_of(f"{PROBLEM_PAGE}#{problem}") if problem in PROBLEM_NAMES else None


def address_of(target: str) -> str | None:
    """Return the address of a page or example by its path below docs/, with its anchor, or None."""
    name, _, anchor = target.partition("#")
    if name == INDEX:
        return url_for("console.help_index")
    if name not in all_pages() and name not in _examples():
        return None
    return url_for("console.help_page", topic=name, _anchor=anchor or None)


def _page(page: Page) -> str:
    from penstock.manual.render import (  # noqa: PLC0415  most processes show no page
        to_html,
    )

    html = Markup(to_html(page, address_of))  # noqa: S704  our own page, and raw HTML is off
    return render("help.html", title=page.title, html=html, query="", **_frame(page.name))


def _frame(current: str) -> dict[str, object]:
    """Return what the list of pages beside a page shows."""
    listed = [page for page in all_pages().values() if page.name != INDEX]
    groups = [
        (KIND_TITLES.get(kind, kind), list(pages))
        for kind, pages in groupby(listed, key=lambda page: page.kind)
    ]
    return {"groups": groups, "current": current}


@cache
def _examples() -> frozenset[str]:
    return frozenset(
        f"examples/{path.name}" for path in (folder() / "examples").glob("*") if path.is_file()
    )
