"""The gate on HTTP: find out who calls, and count the call, before its handler may begin."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

from penstock.access.snapshot import Snapshot
from penstock.contracts.authenticators import Once, RequestHead
from penstock.contracts.call import Caller
from penstock.contracts.networks import Networks
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.rates import OVERRIDDEN_BY_CONSUMER_LIMIT
from penstock.endpoints.endpoint import Endpoint
from penstock.errors import CredentialRejected, Refusal
from penstock.gate.gate import CLOSED, Gate, unavailable
from penstock.gate.guesses import Guess
from penstock.gate.rates import EVERYWHERE
from penstock.gate.refusals import address_rejected, internal_error
from penstock.host.catalog import Catalog
from penstock.host.compilation import LoadedPipeline
from penstock.host.services import Services
from penstock.host.view import CurrentView
from penstock.http.certificates import client_certificate
from penstock.http.request_body import Body
from penstock.plugins.guard import PluginFault
from penstock.runs.idempotency import identity
from penstock.settings import Settings
from penstock.web.exchange import Environ, Exchange, address_of_caller
from penstock.web.idempotency_key import idempotency_key

ReadSigned = Callable[[Exchange, Body], bytes]


class Admission:
    """Admits calls on one listener, or rejects them."""

    def __init__(
        self,
        catalog: Catalog,
        view: CurrentView,
        settings: Settings,
        services: Callable[[], Services | None],
        served: Mapping[str, LoadedPipeline],
        read_signed: ReadSigned,
        *,
        internal: bool,
    ) -> None:
        """Take the pipelines of the listener, and what reads a body that the gate must see.

        `read_signed` raises BodyNotReceived where the server can wait for the body.
        """
        self._catalog, self._view, self._settings = catalog, view, settings
        self._services = services
        self._internal = internal
        self._address = partial(address_of_caller, settings)
        self._read_signed = read_signed
        self._networks = {
            identifier: Networks.of(item.pipeline.trigger.allow, item.pipeline.trigger.deny)
            for identifier, item in served.items()
            if (item.pipeline.trigger.allow or item.pipeline.trigger.deny) and not item.broken
        }

    def admit(self, exchange: Exchange, endpoint: Endpoint, body: Body) -> Caller:
        """Return who calls.

        Nothing of the body is read before the credentials in the head are accepted. Raises Refusal,
        and BodyNotReceived where a signature needs the body and it has not arrived.
        """
        view, environ, pipeline = self._view, exchange.environ, exchange.place.pipeline
        listener = view.evaluated.internal if self._internal else view.evaluated.external
        evaluated, access, services = listener.get(pipeline), view.access, self._services()
        if evaluated is None or access is None or services is None or not view.fresh():
            raise unavailable()
        networks = self._networks.get(pipeline)
        if (
            networks is not None
            and evaluated.gate is not CLOSED
            and not networks.admit(self._address(environ))
        ):
            raise address_rejected()
        now, trigger = time.time(), endpoint.pipeline.trigger
        if exchange.deadline is None:
            exchange.deadline = time.monotonic() + trigger.timeout
        caller = self._pass_gate(services, evaluated.gate, exchange, endpoint, body, access, now)
        exchange.caller = caller
        if (
            access.networks
            and caller.consumer_id in access.networks
            and not access.networks[caller.consumer_id].admit(self._address(environ))
        ):
            raise address_rejected()
        if caller.key_id is not None:
            services.key_usage.note(caller.key_id, now)
        if trigger.rate or access.limits:
            self._count(services, exchange, endpoint.pipeline, caller)
        return caller

    def _pass_gate(
        self,
        services: Services,
        gate: Gate,
        exchange: Exchange,
        endpoint: Endpoint,
        body: Body,
        access: Snapshot,
        now: float,
    ) -> Caller:
        environ = exchange.environ
        head = RequestHead(environ, exchange.place.pipeline, self._certificate)
        signed = partial(self._read_signed, exchange, body) if gate.reads_body else bytes
        claim = partial(self._claim, exchange, endpoint) if gate.counts_once else None
        try:
            return gate.admit(
                head, access, now, signed, partial(self._guess, services, environ), claim
            )
        except Refusal as error:
            if isinstance(error.__cause__, CredentialRejected) and not error.counted:
                services.limiter.fail(access.environment.name, self._address(environ))
            raise
        except PluginFault as fault:
            self._catalog.report_fault(fault)
            raise internal_error() from None

    def _count(
        self, services: Services, exchange: Exchange, pipeline: Pipeline, caller: Caller
    ) -> None:
        """Count a call against the pipeline's rates and its consumer's.

        The limit of a consumer at a pipeline replaces the pipeline's own rates by consumer and key.
        What is left goes out with the reply, also of a rejected call.
        """
        access = self._view.access
        if access is None:
            raise unavailable()
        settings, limits = self._settings, access.limits
        scope = f"{settings.environment}/{exchange.place.pipeline}"
        rates = [(scope, rate) for rate in pipeline.trigger.rate]
        if caller.consumer_id is not None and limits:
            # Also by address: other consumers may call from the same one.
            suffix = f" of {caller.consumer}"
            own = limits.get((caller.consumer_id, exchange.place.pipeline), ())
            if own:
                rates = [rate for rate in rates if rate[1].by not in OVERRIDDEN_BY_CONSUMER_LIMIT]
                rates += [(scope + suffix, rate) for rate in own]
            everywhere = settings.environment + suffix + EVERYWHERE
            rates += [(everywhere, rate) for rate in limits.get((caller.consumer_id, ""), ())]
        if rates:
            exchange.rates = services.limiter.count(rates, caller, self._address(exchange.environ))

    def _guess(self, services: Services, environ: Environ) -> AbstractContextManager[Guess]:
        """Return what counts a check of a credential that can be guessed."""
        return services.limiter.guess(self._settings.environment, self._address(environ))

    def _claim(
        self, exchange: Exchange, endpoint: Endpoint, kind: str, caller: Caller, once: Once
    ) -> bool:
        """Claim what a call counts once for, and return whether the call may proceed.

        It may as the first, or as a repeat of the first with its Idempotency-Key.
        """
        services = self._services()
        if services is None:
            raise unavailable()
        key = idempotency_key(exchange, endpoint, caller, self._settings.environment)
        claim = services.replay_guard.claim(
            kind, caller.consumer_id, once, identity(key) if key is not None else b""
        )
        if claim is not None:
            exchange.claims += (claim,)
        return claim is not None

    def _certificate(self, environ: Mapping[str, object]) -> bytes | None:
        settings = self._settings
        return client_certificate(environ, settings.trusted_proxies, settings.client_cert_header)
