"""How a page is added, and what holds for every one of them.

Who may see it, CSRF, its headers and its errors.

A page is a view function under `@page`, a template that extends `layout.html`, and a line of
NAVIGATION; modules of views are named in `app.PAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import structlog
from flask import (
    Blueprint,
    Response,
    abort,
    flash,
    g,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_wtf.csrf import CSRFProtect
from markupsafe import Markup
from werkzeug.exceptions import HTTPException

from penstock.access.sessions import SignedIn, find_session
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.db.engine import DatabaseUnavailable
from penstock.errors import PenstockError, Refusal, UnknownName

ROOT = "/-/console"
READING = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src"
    " 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

View = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the navigation."""

    endpoint: str
    title: str
    needs: Role = Role.VIEWER


# One line a page; views of the same page share the first word of their names, so that its entry is
# marked on all of them.
NAVIGATION = (
    Entry("overview", "Overview"),
    Entry("pipelines", "Pipelines"),
    Entry("consumers", "Consumers"),
    Entry("policies", "Policies"),
    Entry("runs", "Runs"),
    Entry("tokens", "Tokens"),
    Entry("limits", "Limits"),
    Entry("settings", "Settings"),
    Entry("audit", "Audit"),
    Entry("users", "Users", Role.ADMIN),
)

MAX_PUBLIC_FORM = 16 * 1024  # bytes of a form from who is not signed in

blueprint = Blueprint(
    "console",
    __name__,
    url_prefix=ROOT,
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)
csrf = CSRFProtect()
PUBLIC = {"console.static"}
NEEDS: dict[str, Role] = {}


def page(rule: str, *, needs: Role | None, method: str = "GET") -> Callable[[View], View]:
    """Register a view at a path below the console.

    `needs` is the least role that may ask for it, None for everybody.

    What changes anything must be a POST: its form carries a CSRF token, and a viewer can't send it.
    """
    if needs is Role.VIEWER and method not in READING:
        raise ValueError(f"{rule}: a viewer changes nothing")

    def register(view: View) -> View:
        endpoint = f"console.{view.__name__}"
        if needs is None:
            PUBLIC.add(endpoint)
        else:
            NEEDS[endpoint] = needs
        blueprint.add_url_rule(rule, view.__name__, view, methods=[method])
        return view

    return register


def own(rule: str) -> Callable[[View], View]:
    """Register a view that changes nothing but the user's own sign-in, which every role may."""

    def register(view: View) -> View:
        NEEDS[f"console.{view.__name__}"] = Role.VIEWER
        blueprint.add_url_rule(rule, view.__name__, view, methods=["POST"])
        return view

    return register


def user() -> SignedIn:
    """Return who is signed in."""
    found: SignedIn | None = g.get("user")
    if found is None:
        abort(401)
    return found


def _recognise() -> SignedIn | None:
    """Find out who makes the request.

    The database is asked each time, so that a session that was ended is over.
    """
    if "user" not in g:
        token = session.get("token")
        # What a page asks for by itself keeps no session alive.
        g.user = (
            find_session(console_context().engine, token, note="poll" not in request.args)
            if isinstance(token, str)
            else None
        )
    found: SignedIn | None = g.user
    return found


@blueprint.before_request
def _guard() -> Response | None:
    """Let a request through that its user's role allows.

    The one place where that is decided; what is not registered is refused.

    Nothing of a form is read before it is known whose it is; who signs in can only send a small
    one.
    """
    if request.method not in READING and request.headers.get(
        "Sec-Fetch-Site", "same-origin"
    ) not in {"same-origin", "none"}:
        abort(403, "This form was sent from another site.")
    if request.endpoint in PUBLIC:
        request.max_content_length = MAX_PUBLIC_FORM
    else:
        who = _recognise()
        if who is None:
            return _to_sign_in()
        needed = NEEDS.get(request.endpoint or "")
        if needed is None or not who.role.may(needed):
            abort(403, f"This takes the role {needed or Role.ADMIN}, and {who.name} is {who.role}.")
    sent = (*request.args.items(multi=True), *request.form.items(multi=True))
    if "\0" in request.path or any("\0" in value for _, value in sent):
        abort(400, "A text can't hold the character NUL.")  # PostgreSQL takes none
    if request.method not in READING:
        csrf.protect()
    return None


def _to_sign_in() -> Response:
    wanted = (
        request.full_path.rstrip("?")
        if request.method == "GET" and "HX-Request" not in request.headers
        else ""
    )
    target = url_for(
        "console.sign_in", next=wanted if wanted.rstrip("/") != ROOT and wanted else None
    )
    if "HX-Request" in request.headers:
        return Response(status=401, headers={"HX-Redirect": target})
    if request.method in READING:
        return _plain(redirect(target, 303))
    return make_response(
        render_template(
            "error.html", title="Sign in", detail="Your session is over. Sign in, then do it again."
        ),
        401,
    )


def only_signed_in(view: View) -> View:
    """Keep a view outside of the console for its users."""

    @wraps(view)
    def guarded(*args: Any, **more: Any) -> Any:  # noqa: ANN401  a Flask view
        if _recognise() is None:
            # A browser's own request.
            if (
                request.accept_mimetypes.best_match(("application/json", "text/html"))
                == "text/html"
            ):
                return _to_sign_in()
            raise Unauthorised(f"Sign in to the console first: {url_for('console.sign_in')}.")
        return view(*args, **more)

    return guarded


class Unauthorised(HTTPException):
    """Nobody is signed in."""

    code = 401


def _plain(response: Any) -> Response:  # noqa: ANN401  Werkzeug's type, which is ours
    return make_response(response)


@blueprint.after_request
def _headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    if request.endpoint == "console.static":
        return response
    response.headers["Cache-Control"] = "no-store"
    response.vary.add("Cookie")
    return response


@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400 and error.response is not None:  # noqa: PLR2004  a redirect
        return make_response(error.get_response())
    title = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else "Refused"
    return _problem(status, title, error.description or error.name)


@blueprint.errorhandler(PenstockError)
def _refused(error: PenstockError) -> Response:
    if isinstance(error, Refusal):
        response = _problem(error.status, error.title, error.detail)
        response.headers.extend(error.headers)
        return response
    if isinstance(error, UnknownName):
        return _problem(404, "Not found", sentence(error))
    if isinstance(error, DatabaseUnavailable):
        return _problem(
            503, "The database is away", "Try again in a moment; /-/ready says when it is back."
        )
    return _problem(409, "That can't be done", sentence(error))


@blueprint.errorhandler(Exception)
def _failure(error: Exception) -> Response:
    structlog.get_logger("penstock").exception("console failed", error=type(error).__name__)
    return _problem(500, "Something went wrong here", "The log says what.")


def _problem(status: int, title: str, detail: str) -> Response:
    if "HX-Request" in request.headers:
        return make_response(render_template("_problem.html", title=title, detail=detail), status)
    return make_response(render_template("error.html", title=title, detail=detail), status)


def sentence(error: Exception) -> str:
    """Return what an error says as a sentence of a page."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


class Form:
    """The fields of a form that was sent, or is shown for the first time, with their faults."""

    def __init__(self, **first: str) -> None:
        self._first = first
        self.errors: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """Return what stands in a field."""
        return (
            request.form.get(name, self._first.get(name, ""))
            if request.method == "POST"
            else self._first.get(name, "")
        )

    def all(self, name: str) -> list[str]:
        """Return all values of a field that may have several."""
        return request.form.getlist(name)

    @contextmanager
    def blaming(self, field: str, **of_kind: str) -> Iterator[None]:
        """Put what our functions refuse beside a field, in place of a page of its own.

        `of_kind` names the fields of what is unknown, by its kind.
        """
        try:
            yield
        except PenstockError as error:
            if isinstance(error, DatabaseUnavailable | Refusal):
                raise
            self.errors[
                of_kind.get(error.kind, field) if isinstance(error, UnknownName) else field
            ] = sentence(error)


def filters(*names: str) -> Form:
    """Return a form that is sent with GET, filled with what was asked for."""
    return Form(**{name: request.args.get(name, "").strip() for name in names})


def live(html: str) -> Response:
    """Return a part of a page that asks for itself now and then.

    Where it is as before, nothing is sent, and what is selected stays so.
    """
    seen = sha256(html.encode()).hexdigest()[:16]
    if request.args.get("seen") == seen:
        return Response(status=204)
    return Response(live_part(html))


def live_part(html: str) -> Markup:
    """Return a part of a page with the sign by which it is known again."""
    seen = sha256(html.encode()).hexdigest()[:16]
    return Markup('<input type="hidden" name="seen" value="{}">{}').format(seen, Markup(html))  # noqa: S704  a template made it


def render(template: str, **values: object) -> str:
    """Render a page."""
    return render_template(template, **values)


def show_form(template: str, form: Form, **values: object) -> Response:
    """Show a form: again, with status 422 and what is wrong, where it was sent and something is."""
    return make_response(
        render_template(template, form=form, **values), 422 if form.errors else 200
    )


def done(message: str, endpoint: str, **values: Any) -> Response:  # noqa: ANN401  url_for's
    """Say on the next page that something was done."""
    flash(message)
    return _plain(redirect(url_for(f"console.{endpoint}", **values), 303))


def environment() -> str:
    """Return the environment that the user looks at.

    The one asked for, the one looked at before, or this process's.
    """
    asked = request.args.get("env")
    if asked is not None:
        console_context().view(asked)
        session["env"] = asked
        return asked
    names = [row["name"] for row in console_context().environments()]
    kept = session.get("env")
    return str(kept) if kept in names else console_context().settings.environment


@page("", needs=Role.VIEWER)
def home() -> Response:
    """Lead to the first page."""
    return _plain(redirect(url_for("console.overview"), 303))


@page("/<path:rest>", needs=Role.VIEWER)
def nothing(rest: str) -> str:
    """Answer for a path where there is no page."""
    abort(404, f"There is no page {ROOT}/{rest}.")
