"""The documentation page at `/-/docs`.

A viewer of the environment's OpenAPI document, all of it served from here.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files

from flask import Blueprint, Response, request

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
SERVED = ("swagger-ui-bundle.js", "swagger-ui.css", "page.js", "page.css")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src"
    " {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

View = Callable[..., Response]


@cache
def _file(name: str) -> tuple[bytes, bytes, str]:
    """Return a file as it is, compressed, and its entity tag."""
    plain = files("penstock.web").joinpath("docs", name).read_bytes()
    return plain, gzip.compress(plain, mtime=0), sha256(plain).hexdigest()[:32]


def _answer(name: str, policy: str) -> Response:
    plain, packed, tag = _file(name)
    coded = request.accept_encodings["gzip"] > 0
    response = Response(
        packed if coded else plain, content_type=TYPES[name[name.rindex(".") :]], headers=HEADERS
    )
    response.headers["Content-Security-Policy"] = policy
    response.headers["Vary"] = "Accept-Encoding"
    if coded:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(tag + ("-gzip" if coded else ""))
    response.make_conditional(request)
    return response


def make_docs(guard: Callable[[View], View], origin: str = "") -> Blueprint:
    """Make the page and its files, behind a guard.

    `origin` is that of the calls that the page lets users try, where it has another.
    """
    docs = Blueprint("docs", __name__)
    view = guard(partial(_answer, policy=POLICY.format(connect=f"'self' {origin}".strip())))
    for name, path in (("index.html", "/-/docs"), *((name, f"/-/docs/{name}") for name in SERVED)):
        docs.add_url_rule(
            path,
            endpoint=name.replace(".", "-"),
            view_func=view,
            defaults={"name": name},
            methods=["GET"],
        )
    return docs
