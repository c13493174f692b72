"""How a page is added, and the rules of all pages: roles, CSRF, headers and errors.

A page is a view function under `@page`, a template that extends `layout.html`, and an entry of
`menu.MENU`. `app.PAGES` lists the modules of views.

A path below `/e/<env>/` is of one environment: the view gets its other arguments, and
`current_environment()` returns the environment. Links fill it in: two tabs never mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from functools import wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

import structlog
from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    flash,
    g,
    make_response,
    request,
    session,
    url_for,
)
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from penstock.access.sessions import SignedIn, find_session
from penstock.access.users import Role
from penstock.audit.approvals import ChangePending
from penstock.console import kept_forms
from penstock.console.compression import compress
from penstock.console.confirmation import Confirm
from penstock.console.context import (
    console_context,
    current_environment,
    own_environment,
    shown_environment,
)
from penstock.console.formatting import sentence
from penstock.console.forms import secret_fields
from penstock.console.responses import redirect_to, render
from penstock.db.failures import DatabaseUnavailable
from penstock.errors import PenstockError, Refusal, UnknownName

ROOT = "/-/console"
OF_ENVIRONMENT = "/e/<env>"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src"
    " 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

ViewFunction = Callable[..., Any]


MAX_PUBLIC_FORM_BYTES = 16 * 1024  # of a request without a session
SESSION_ENDED = (
    "Your session ended before this form was sent. Check your input, and send the form again."
)
ROLE_NAMES = {role: f"{'an' if role.value[0] in 'ao' else 'a'} {role.value}" for role in Role}

blueprint = Blueprint(
    "console",
    __name__,
    url_prefix=ROOT,
    template_folder="templates",
)
csrf = CSRFProtect()
CSRF_FAILED = (
    "Your session expired, or this page is too old. Load the page again, then send the form."
)
PUBLIC: set[str] = set()
OWN: set[str] = set()  # forms of a user's own sign-in, which are not kept
NEEDS: dict[str, Role] = {}


class Scope(Enum):
    """The environments in which a user needs the role of a page.

    A page that doesn't say it needs the role in all environments.
    """

    ALL = "all"
    ONE = "one"  # the environment of the page
    ANY = "any"  # at least one: the page shows those environments alone


# The environments that a request touches, from the arguments of its view.
Touched = Callable[..., Iterable[str]]
SCOPES: dict[str, Scope | Touched] = {}


def page(
    rule: str,
    *,
    needs: Role | None,
    method: str = "GET",
    scope: Scope | Touched = Scope.ALL,
    confirm: Confirm | None = None,
) -> Callable[[ViewFunction], ViewFunction]:
    """Register a view at a path below the console.

    `needs` is the least role that may request it; None makes it public. `scope` says in which
    environments: a path below `/e/<env>` is of that one, and of those that a function names. A
    view that changes anything must be a POST: its form carries a CSRF token, and viewers can't
    send it. `confirm` builds the question that GET of the same path asks first.
    """
    if needs is Role.VIEWER and method not in SAFE_METHODS:
        raise ValueError(f"{rule}: a viewer changes nothing")

    def register(view: ViewFunction) -> ViewFunction:
        endpoint = f"console.{view.__name__}"
        if needs is None:
            PUBLIC.add(endpoint)
        else:
            NEEDS[endpoint] = needs
            SCOPES[endpoint] = scope
            if rule.startswith(OF_ENVIRONMENT) and not callable(scope):
                SCOPES[endpoint] = Scope.ONE
        blueprint.add_url_rule(rule, view.__name__, view, methods=[method])
        if confirm is not None:
            page(rule, needs=needs, scope=scope)(_question(view, confirm))
        return view

    return register


def _question(view: ViewFunction, confirm: Confirm) -> ViewFunction:
    """Return the view that asks before another one acts."""

    def ask(**arguments: Any) -> str:  # noqa: ANN401  the arguments of a view
        template = "_confirm.html" if "HX-Request" in request.headers else "confirm.html"
        return render(template, asked=confirm(**arguments), action=request.path)

    ask.__name__ = f"{view.__name__}_confirm"
    return ask


def own(rule: str, confirm: Confirm | None = None) -> Callable[[ViewFunction], ViewFunction]:
    """Register a POST view for every role: it changes the user's own sign-in alone, or nothing."""

    def register(view: ViewFunction) -> ViewFunction:
        NEEDS[f"console.{view.__name__}"] = Role.VIEWER
        OWN.add(f"console.{view.__name__}")
        SCOPES[f"console.{view.__name__}"] = Scope.ANY
        blueprint.add_url_rule(rule, view.__name__, view, methods=["POST"])
        if confirm is not None:
            page(rule, needs=Role.VIEWER, scope=Scope.ANY)(_question(view, confirm))
        return view

    return register


def user() -> SignedIn:
    """Return the user who is signed in. Raises 401."""
    signed_in: SignedIn | None = g.get("user")
    if signed_in is None:
        abort(401)
    return signed_in


def _authenticate() -> SignedIn | None:
    """Return the user of the session, or None.

    The database is asked for each request, so that a session ends at once for all processes.
    """
    if "user" not in g:
        token = session.get("token")
        # A poll is not an action of the user and keeps no session alive.
        g.user = (
            find_session(console_context().engine, token, note="poll" not in request.args)
            if isinstance(token, str)
            else None
        )
    signed_in: SignedIn | None = g.user
    return signed_in


@blueprint.url_value_preprocessor
def _take_environment(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    g.env = (values or {}).pop("env", None)


@blueprint.url_defaults
def _give_environment(endpoint: str, values: dict[str, Any]) -> None:
    """Fill the environment of the page into links to pages of one environment."""
    if "env" not in values and current_app.url_map.is_endpoint_expecting(endpoint, "env"):
        values["env"] = shown_environment() or own_environment()


@blueprint.before_request
def _guard() -> Response | None:
    """Accept a request that the role of its user allows, and reject all others.

    This is the one place that decides it; a view without a registered role is rejected. The form
    is read after the user is known; without a session it may only be a small one.
    """
    if request.method not in SAFE_METHODS and request.headers.get(
        "Sec-Fetch-Site", "same-origin"
    ) not in {"same-origin", "none"}:
        abort(403, "This form was sent from another site.")
    if request.endpoint in PUBLIC:
        request.max_content_length = MAX_PUBLIC_FORM_BYTES
    else:
        signed_in = _authenticate()
        if signed_in is None:
            return _to_sign_in()
        _require_role(signed_in)
        _show_kept_form(signed_in)
    values = (*request.args.items(multi=True), *request.form.items(multi=True))
    if "\0" in request.path or any("\0" in value for _, value in values):
        abort(400, "A value can't contain the character NUL.")  # PostgreSQL stores none
    if request.method not in SAFE_METHODS:
        try:
            csrf.protect()
        except CSRFError:
            abort(400, CSRF_FAILED)
    return None


def _require_role(signed_in: SignedIn) -> None:
    """Abort with 403 where the user's role is too low, 404 where the environment stays unknown."""
    endpoint = request.endpoint or ""
    needed, scope = NEEDS.get(endpoint), SCOPES.get(endpoint, Scope.ALL)
    if needed is None:
        abort(403, "This needs the admin role.")
    if scope is Scope.ALL:
        roles = [signed_in.role]
    elif scope is Scope.ANY:
        roles = [signed_in.highest_role]
    else:
        touched = set() if scope is Scope.ONE else set(scope(**(request.view_args or {})))
        if scope is Scope.ONE or g.get("env"):
            touched.add(current_environment())
        names = sorted(touched)
        for name in names:
            if signed_in.role_in(name) is None:
                raise UnknownName("environment", name)
        # A request that touches no environment changes nothing, or its view finds nothing.
        roles = [signed_in.role_in(name) for name in names] or [signed_in.highest_role]
    g.role = lowest_role(roles)
    if g.role is None or not g.role.may(needed):
        role = f"you are {ROLE_NAMES[g.role]}" if g.role is not None else "you have none there"
        where = " in all environments" if scope is Scope.ALL and signed_in.roles else ""
        abort(403, f"This needs the {needed} role{where}; {role}.")


def lowest_role(roles: Iterable[Role | None]) -> Role | None:
    """Return the lowest of some roles; None where one of them is missing."""
    lowest: Role | None = Role.ADMIN
    for role in roles:
        if role is None or lowest is None:
            return None
        lowest = role if lowest.may(role) else lowest
    return lowest


def _to_sign_in() -> Response:
    asked_for_page = request.method == "GET" and "HX-Request" not in request.headers
    path = request.full_path.rstrip("?") if asked_for_page else ""
    target = url_for("console.sign_in", next=path if path.rstrip("/") not in {"", ROOT} else None)
    if "HX-Request" in request.headers:
        return Response(status=401, headers={"HX-Redirect": target})
    if request.method in SAFE_METHODS:
        return redirect_to(target)
    return _keep_form() or _problem(
        401, "Sign in", "Your session expired. Sign in, then send the form again."
    )


def _keep_form() -> Response | None:
    """Return a redirect to the sign-in that keeps what the user typed; None where nothing is kept.

    Only a form with the CSRF token of a session that this browser had is read and kept.
    """
    user_name, endpoint = session.get("user"), request.endpoint or ""
    if not isinstance(user_name, str) or endpoint in OWN or endpoint not in NEEDS:
        return None
    request.max_content_length = MAX_PUBLIC_FORM_BYTES
    try:
        csrf.protect()
        values = [pair for pair in request.form.items(multi=True) if pair[0] != "csrf_token"]
    except (CSRFError, RequestEntityTooLarge):
        return None
    path = kept_forms.page_of_form(request.path, ROOT)
    if f"{endpoint}_confirm" in current_app.view_functions:  # its question has all values
        return redirect_to(url_for("console.sign_in", next=f"{request.path}?{urlencode(values)}"))
    response = redirect_to(url_for("console.sign_in", next=kept_forms.page_with_query(path)))
    return response if kept_forms.keep(response, user_name, path, secret_fields()) else None


def _show_kept_form(signed_in: SignedIn) -> None:
    """Fill the forms of this page with what their user typed before the session ended."""
    if request.method == "GET" and kept_forms.COOKIE in request.cookies:
        g.typed = kept_forms.typed(signed_in.name)
        if g.typed is not None:
            flash(SESSION_ENDED)


def only_signed_in(view: ViewFunction) -> ViewFunction:
    """Restrict a view outside of the console to users who are signed in to it."""

    @wraps(view)
    def guarded(*args: Any, **more: Any) -> Any:  # noqa: ANN401  a Flask view
        if _authenticate() is None:
            accepts = request.accept_mimetypes.best_match(("application/json", "text/html"))
            if accepts == "text/html":  # a browser
                return _to_sign_in()
            raise Unauthorised(f"Sign in to the console first: {url_for('console.sign_in')}.")
        return view(*args, **more)

    return guarded


class Unauthorised(HTTPException):
    """The client is not signed in."""

    code = 401


@blueprint.after_request
def _headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    if request.endpoint == "console.static":
        return response
    response.headers["Cache-Control"] = "no-store"
    if g.get("typed") is not None:
        kept_forms.drop(response)
    response.vary.add("Cookie")
    return compress(response)


@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400 and error.response is not None:  # noqa: PLR2004  a redirect
        return make_response(error.get_response())
    standard = status in HTTPStatus.__members__.values()
    title = HTTPStatus(status).phrase.capitalize() if standard else "Rejected"
    return _problem(status, title, error.description or error.name)


@blueprint.errorhandler(PenstockError)
def _domain_error(error: PenstockError) -> Response:
    if isinstance(error, Refusal):
        response = _problem(error.status, error.title, error.detail)
        response.headers.extend(error.headers)
        return response
    if isinstance(error, ChangePending):
        flash(sentence(error).replace("`", ""))
        return redirect_to(url_for("console.changes"))
    if isinstance(error, UnknownName):
        return _problem(404, "Not found", sentence(error))
    if isinstance(error, DatabaseUnavailable):
        return _problem(
            503,
            "The database is unavailable",
            "Try again in a moment. /-/ready reports when the database is back.",
        )
    return _problem(409, "This can't be done", sentence(error))


@blueprint.errorhandler(Exception)
def _failure(error: Exception) -> Response:
    structlog.get_logger("penstock").exception("console failed", error=type(error).__name__)
    return _problem(500, "Something went wrong", "The log of this process has the reason.")


def _problem(status: int, title: str, detail: str) -> Response:
    template = "_problem.html" if "HX-Request" in request.headers else "error.html"
    return make_response(render(template, title=title, detail=detail, back=_page_before()), status)


def _page_before() -> str | None:
    """Return the path of the page of this application that led here, or None."""
    parts = urlsplit(request.referrer or "")
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    own = parts.netloc == request.host and path.startswith(f"{request.script_root}/-/")
    return path if own and path != request.full_path.rstrip("?") else None
