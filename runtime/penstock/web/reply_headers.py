"""The headers that a reply gets from the runtime: ids, rates, CORS, deprecation, the policy's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from email.utils import formatdate

import structlog

from penstock.contracts.cors import Cors
from penstock.contracts.pipeline import Pipeline
from penstock.endpoints.replies import checked_refusal
from penstock.endpoints.router import Place
from penstock.errors import Refusal, ReplyError
from penstock.gate.refusals import internal_error
from penstock.host.catalog import Catalog
from penstock.host.compilation import LoadedPipeline
from penstock.host.view import CurrentView
from penstock.http.urls import absolute_urls
from penstock.web.cors_headers import cors_headers
from penstock.web.exchange import Exchange

MAX_REMEMBERED_HEADERS = 500  # headers of refusals that are known to be valid

Headers = list[tuple[str, str]]


class ReplyHeaders:
    """Completes the headers of the replies on one listener."""

    def __init__(
        self,
        catalog: Catalog,
        view: CurrentView,
        served: Mapping[str, LoadedPipeline],
        url: str,
    ) -> None:
        """Take the pipelines of the listener, and the URL that callers know it by, if any."""
        self._catalog, self._view = catalog, view
        self._url = url
        self._deprecation = {
            identifier: deprecation_headers(item.pipeline)
            for identifier, item in served.items()
            if not item.broken
        }
        self._sendable: set[tuple[str, str]] = set()
        self._log = structlog.get_logger("penstock.calls")

    def complete(self, exchange: Exchange, headers: Headers, body: bytes | None) -> None:
        """Add the headers that every reply has. A reply without a body has no length."""
        place = exchange.place
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        headers += [("X-Run-Id", exchange.run), *exchange.rates]
        for header in self._deprecation.get(place.pipeline, ()):
            _add(headers, header)
        if exchange.request_id is not None:
            _add(headers, ("X-Request-Id", exchange.request_id))
        cors = self.cors(place)
        # In place of a handler's own: with two, browsers allow nothing, or more than the policy.
        if cors is not None:
            headers[:] = [
                header for header in headers if not header[0].lower().startswith("access-control-")
            ]
            headers += cors_headers(cors, exchange.environ, place.allowed)
        for rule in self._view.evaluated.responses.headers:
            name = rule.name.lower()
            if rule.override:
                headers[:] = [header for header in headers if header[0].lower() != name]
            elif any(header[0].lower() == name for header in headers):
                continue
            headers.append((rule.name, rule.value))
        if self._url:
            headers[:] = absolute_urls(headers, self._url)

    def cors(self, place: Place) -> Cors | None:
        """Return the CORS rules of a path: the pipeline's own, or those of all responses."""
        item = self._catalog.loaded.get(place.pipeline)
        own = item.pipeline.trigger.cors if item is not None else None
        common = self._view.evaluated.responses
        return common.cors if common.cors_override or own is None else own

    def sendable(self, refusal: Refusal, exchange: Exchange) -> Refusal:
        """Return a refusal that can be sent.

        Its headers may come from an authenticator, or from a reply that an earlier release stored.
        """
        try:
            if self._sendable.issuperset(refusal.headers):
                return refusal
            checked_refusal(refusal, exchange.place.pipeline)
        except (ReplyError, TypeError) as error:
            self._log.error(
                "refusal can't be sent",
                pipeline=exchange.place.pipeline,
                run=exchange.run,
                error=str(error),
            )
            return internal_error()
        if len(self._sendable) < MAX_REMEMBERED_HEADERS:
            self._sendable.update(refusal.headers)
        return refusal


def deprecation_headers(pipeline: Pipeline) -> Headers:
    """Return the headers of a deprecated pipeline (RFC 9745, RFC 8594)."""

    def seconds(moment: date) -> float:
        return datetime(moment.year, moment.month, moment.day, tzinfo=UTC).timestamp()

    headers = []
    if pipeline.deprecated:
        # The header must have a date: the epoch stands for one that is not known.
        since = 0.0 if pipeline.deprecated is True else seconds(pipeline.deprecated)
        headers.append(("Deprecation", f"@{since:.0f}"))
    if pipeline.sunset is not None:
        headers.append(("Sunset", formatdate(seconds(pipeline.sunset), usegmt=True)))
    return headers


def _add(headers: Headers, header: tuple[str, str]) -> None:
    """Add a header unless the handler has set it."""
    lower = header[0].lower()
    for name, _ in headers:
        if name.lower() == lower:
            return
    headers.append(header)
