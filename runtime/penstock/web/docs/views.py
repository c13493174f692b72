"""Serve the page at `/-/docs` and its files, all of it from here.

The page is rendered once for each document. It has no script and no style from elsewhere, and its
policy lets it call this environment alone.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import cache, lru_cache
from hashlib import sha256
from importlib.resources import files

import msgspec
import structlog
from flask import Blueprint, Response, request
from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from penstock.errors import Refusal
from penstock.http.problems import problem_response
from penstock.web.docs.operations import Document, groups_of
from penstock.web.docs.schemas import fields_of, limits_of, type_of

HTML = "text/html; charset=utf-8"
# Name → package, folder and content type.
FILES = {
    "page.js": ("penstock.web", "docs", "text/javascript; charset=utf-8"),
    "page.css": ("penstock.web", "docs", "text/css; charset=utf-8"),
    "console.css": ("penstock.console", "static", "text/css; charset=utf-8"),
    "icon.svg": ("penstock.console", "static", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src"
    " {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

View = Callable[..., Response]


def make_docs(
    guard: Callable[[View], View],
    describe: Callable[[], bytes | None],
    *,
    origin: str = "",
    console: str = "",
) -> Blueprint:
    """Return the page and its files, behind a guard.

    `describe` returns the document of the listener, None where it is not available. `origin` is
    that of the calls that the page sends, where it has another; `console` is the console's path.
    """
    docs = Blueprint("docs", __name__)
    policy = POLICY.format(connect=f"'self' {origin}".strip())

    def page() -> Response:
        document = describe()
        if document is None:
            return problem_response(
                Refusal(503, "pipeline-unavailable", "This page is not available at the moment.")
            )
        root = request.script_root
        content = _page(document, request.url_root.rstrip("/"), root, console and root + console)
        return _answer(content, HTML, policy)

    def file(name: str) -> Response:
        return _answer(_file(name), FILES[name][2], policy)

    docs.add_url_rule("/-/docs", endpoint="page", view_func=guard(page), methods=["GET"])
    for name in FILES:
        docs.add_url_rule(
            f"/-/docs/{name}",
            endpoint=name.replace(".", "-"),
            view_func=guard(file),
            defaults={"name": name},
            methods=["GET"],
        )
    return docs


@cache
def _file(name: str) -> bytes:
    package, folder, _ = FILES[name]
    return files(package).joinpath(folder, name).read_bytes()


@lru_cache(maxsize=16)
def _compressed(content: bytes) -> tuple[bytes, str]:
    """Return a content compressed, and its entity tag."""
    return gzip.compress(content, mtime=0), sha256(content).hexdigest()[:32]


def _answer(content: bytes, content_type: str, policy: str) -> Response:
    packed, tag = _compressed(content)
    coded = request.accept_encodings["gzip"] > 0
    response = Response(packed if coded else content, content_type=content_type, headers=HEADERS)
    response.headers["Content-Security-Policy"] = policy
    response.headers["Vary"] = "Accept-Encoding"
    if coded:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(tag + ("-gzip" if coded else ""))
    response.make_conditional(request)
    return response


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("penstock.web", "docs"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parser = MarkdownIt("commonmark", {"html": False}).disable(["image", "heading", "lheading"])
    # Raw HTML is off, and the parser drops addresses of scripts.
    templates.filters["markdown"] = lambda text: Markup(parser.render(text))  # noqa: S704
    templates.globals.update(type_of=type_of, limits_of=limits_of, fields_of=fields_of)
    return templates


@lru_cache(maxsize=8)
def _page(content: bytes, own: str, root: str, console: str) -> bytes:
    """Return the page of a document; without its operations where they can't be shown."""
    document: Document = msgspec.json.decode(content)
    servers = document.get("servers") or [{}]
    server = str(servers[0].get("url", "/")).rstrip("/")
    values = {"document": document, "server": server, "root": root, "console": console}
    template = _templates().get_template("page.html")
    try:
        return template.render(groups=groups_of(document, server or own), **values).encode()
    except Exception:  # noqa: BLE001  a plugin's hook may have written anything into the document
        structlog.get_logger("penstock").exception("docs page failed")
        plain = {"info": {"title": "API documentation"}}
        return template.render({**values, "document": plain, "groups": None}).encode()
