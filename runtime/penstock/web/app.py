"""The WSGI application: calls of pipelines go to the dispatcher, the rest is ordinary Flask."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask, Response, current_app, jsonify, request
from flask.globals import request_ctx
from werkzeug.exceptions import HTTPException

from penstock import forks, logs, metrics, threads
from penstock.console import ClientInfo, add_console
from penstock.console.pages import ROOT as CONSOLE
from penstock.console.preparation import prepare
from penstock.contracts.extensions import Document
from penstock.errors import CannotStart, Refusal
from penstock.execution import Execution
from penstock.gate.refusals import not_found
from penstock.host.host import Host
from penstock.http.addresses import client_address, from_trusted_proxy
from penstock.http.body_protocol import (
    BodyFault,
    BodyNotReceived,
    ResumeAfterBody,
    body_fault,
    must_close_if_unread,
)
from penstock.http.listeners import is_internal
from penstock.http.problems import problem_response
from penstock.http.urls import has_escaped_slash
from penstock.http.watchdog import close_after_reply
from penstock.settings import Settings
from penstock.web.description import add_description
from penstock.web.dispatcher import Dispatcher
from penstock.web.openapi.document import describe

MAX_FORM = 1024 * 1024  # bytes of a form of the console
FORM_S = 30.0  # in which a form must have come
FAULTS = {
    BodyFault.MALFORMED: (
        400,
        "body-malformed",
        "The body ended before it should have, or is not framed as HTTP asks.",
    ),
    BodyFault.TOO_LARGE: (413, "body-too-large", f"The body may have {MAX_FORM} bytes."),
    BodyFault.HOST_STOPPING: (
        503,
        "host-stopping",
        "The host is stopping. The form had not arrived.",
    ),
    BodyFault.TIMED_OUT: (408, "body-late", f"The body did not come within {FORM_S:g} seconds."),
}

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Penstock(Flask):
    """The application of one process.

    It starts its host at the first request where the server has not started it.
    """

    supports_body_protocol = True

    def __init__(self, host: Host) -> None:
        super().__init__("penstock", static_folder=None)
        self.host = host
        execution = Execution.of(host)
        self._external = Dispatcher(host, execution)
        self._internal = Dispatcher(host, execution, internal=True)
        self._internal_bind = host.settings.internal_bind
        self._pipelines = host.settings.pipelines
        self._prefix = host.settings.console_prefix
        # Renders the first pages of the console before they are requested; None without one.
        self.prepare: Callable[[], object] | None = None

    def end_calls(self, moment: float) -> None:
        """Answer every call that has not ended at that moment, a `time.monotonic()` reading.

        The server calls this when the process is about to end.
        """
        services = self.host.services
        if services is not None and services.run_status_api is not None:
            services.run_status_api.end(moment)
        self._external.end_calls(moment)
        self._internal.end_calls(moment)

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if self.host.fork != forks.generation():
            try:
                self.host.start(kind="serve")
            except CannotStart as error:
                structlog.get_logger("penstock").error("can't start", reason=str(error))
        if self.host.health.is_draining():
            # A proxy that has not looked at /-/ready yet must not keep its connections for later.
            close_after_reply(start_response)
        if has_escaped_slash(environ):
            if must_close_if_unread(environ):
                close_after_reply(start_response)
            return problem_response(not_found())(environ, start_response)
        if self._pipelines:
            dispatcher = (
                self._internal if is_internal(environ, self._internal_bind) else self._external
            )
            match = dispatcher.find(environ)
            if match is not None:
                return dispatcher.answer(environ, start_response, match)
        if self._prefix and not is_internal(environ, self._internal_bind):
            environ["SCRIPT_NAME"] = self._prefix  # a proxy took it off; links and cookies need it
        try:
            return super().wsgi_app(environ, start_response)
        except BodyNotReceived:  # a view reads it, once it knows whose request it is
            return ResumeAfterBody(
                MAX_FORM,
                time.monotonic() + FORM_S,
                partial(self._with_body, environ, start_response),
            )

    def _with_body(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer a request once its body has arrived, or report why the body can't be accepted."""
        fault = body_fault(environ)
        if fault is None:
            return super().wsgi_app(environ, start_response)
        close_after_reply(start_response)
        return problem_response(Refusal(*FAULTS[fault]))(environ, start_response)


def create_app(host: Host) -> Penstock:
    """Return the application of a host."""
    app = Penstock(host)
    app.config["MAX_CONTENT_LENGTH"] = MAX_FORM
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # a redirect would repeat the Host that was sent
    app.add_url_rule("/-/health", "health", _health)
    app.add_url_rule("/-/ready", "ready", lambda: _ready(host))
    app.add_url_rule("/-/status", "status", _status_view(host))
    if host.settings.metrics != "off":
        app.add_url_rule("/-/metrics", "metrics", _metrics_view(host))
    if host.settings.console:
        add_console(app, host, _peer(host), describe)
        app.prepare = partial(prepare, app)
    add_description(app, host.settings, host.catalog, host.view)
    if host.settings.pipelines:
        _add_documents(app, host)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failure)
    return app


def from_environment() -> Penstock:
    """Return the application of a server process, configured by the environment.

    Exits with one line on standard error where the settings or the plugins don't allow a start.
    """
    try:
        settings = Settings.from_env(os.environ)
        logs.configure(settings)
        return create_app(Host(settings))
    except CannotStart as error:
        logs.print_error(str(error), os.environ.get("PENSTOCK_LOG_FORMAT", "auto"))
        sys.exit(error.exit_code)


def _peer(host: Host) -> ClientInfo:
    """Return how the console knows the address of a client, and whether TLS was used."""
    proxies, header = host.settings.trusted_proxies, host.settings.forwarded_header

    def secure() -> bool:
        forwarded_https = (
            from_trusted_proxy(request.environ, proxies)
            and request.headers.get("X-Forwarded-Proto", "") == "https"
        )
        return request.is_secure or forwarded_https

    return ClientInfo(lambda: client_address(request.environ, proxies, header), secure)


def _health() -> tuple[Response, int]:
    """Report whether this process works.

    503 once an essential thread is stuck, which a restart alone can change.
    """
    stuck = bool(threads.stuck())
    return jsonify(status="stuck" if stuck else "alive"), 503 if stuck else 200


def _status_view(host: Host) -> Any:  # noqa: ANN401  a Flask view
    def view() -> Response:
        """Return the state of this process and its server, on the internal listener alone."""
        if not is_internal(request.environ, host.settings.internal_bind):
            return problem_response(Refusal(404, "not-found", "There is nothing at this path."))
        return jsonify(host.health.status())

    return view


def _ready(host: Host) -> tuple[Response, int]:
    """Report whether this process can answer calls, and which part can't."""
    ready, checks = host.health.checks()
    return jsonify(
        status="ready" if ready else "not ready",
        environment=host.settings.environment,
        checks=checks,
    ), (200 if ready else 503)


def _metrics_view(host: Host) -> Any:  # noqa: ANN401  a Flask view
    def view() -> Response:
        """Return the metrics for Prometheus, 404 where they are for the internal listener alone."""
        if host.settings.metrics == "internal" and not is_internal(
            request.environ, host.settings.internal_bind
        ):
            return problem_response(not_found())
        text, content_type = metrics.render()
        return Response(text, content_type=content_type)

    return view


def _add_documents(app: Penstock, host: Host) -> None:
    paths = [document.path for document in host.catalog.plugins.documents]
    for document in host.catalog.plugins.documents:
        if document.path.startswith("/.well-known/") and paths.count(document.path) == 1:
            app.add_url_rule(
                document.path,
                endpoint=document.path,
                view_func=_document_view(host, document),
                methods=["GET"],
            )


def _document_view(host: Host, document: Document) -> Any:  # noqa: ANN401  a Flask view
    def view() -> Response:
        if host.view.access is None or not host.view.fresh():
            return problem_response(
                Refusal(
                    503, "pipeline-unavailable", "This document is not available at the moment."
                )
            )
        response = Response(document.render(host.view.access), content_type=document.content_type)
        response.headers["Cache-Control"] = f"public, max-age={document.max_age}"
        return response

    return view


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status == 404 or (status == 405 and _is_hidden()):  # noqa: PLR2004
        return problem_response(not_found())
    headers = [(name, value) for name, value in error.get_headers() if name == "Allow"]
    code = "method-not-allowed" if status == 405 else "request-rejected"  # noqa: PLR2004
    return problem_response(Refusal(status, code, error.description or error.name, headers=headers))


def _is_hidden() -> bool:
    """Return whether a GET of the same path is a 404; then other methods are a 404 too."""
    adapter = request_ctx.url_adapter
    if (
        adapter is None
        or not request.path.startswith("/-/")
        or request.path.startswith(f"{CONSOLE}/")
    ):
        return False
    try:
        endpoint, values = adapter.match(method="GET")
    except HTTPException:
        return False
    reply: Any = current_app.view_functions[endpoint](**values)
    return current_app.make_response(reply).status_code == 404  # noqa: PLR2004


def _failure(error: Exception) -> Response:
    structlog.get_logger("penstock").exception("request failed", error=type(error).__name__)
    return problem_response(
        Refusal(500, "internal", "Something went wrong here; the log says what.")
    )
