"""The way of a call: find its pipeline, pass its gate, run its handler, send the reply.

Nothing here asks the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, date, datetime
from email.utils import formatdate
from functools import partial
from typing import Any

import structlog

from penstock.access.snapshot import Snapshot
from penstock.contracts.authenticators import Once, RequestHead
from penstock.contracts.call import Call, Caller
from penstock.contracts.cors import Cors
from penstock.contracts.networks import Networks, caller_network
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.rates import OVERRIDDEN_BY_CONSUMER_LIMIT
from penstock.contracts.triggers import MAX_CALL_S
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import BODILESS, NO_STORE, Answer, checked_refusal
from penstock.endpoints.router import Place, Routes
from penstock.errors import (
    MAYBE_ACCEPTED,
    CredentialRejected,
    DeadlineExceeded,
    HostStopping,
    Refusal,
    ReplyError,
)
from penstock.execution.perform import (
    Observers,
    ParentRun,
    SubpipelineRunner,
    client_of,
    failed,
    handle,
)
from penstock.gate.gate import CLOSED, Gate, unavailable
from penstock.gate.guesses import Look
from penstock.gate.rates import EVERYWHERE
from penstock.host.host import Host
from penstock.host.tokens import issue_token
from penstock.http.addresses import client_address
from penstock.http.body_protocol import (
    BodyFault,
    BodyNotReceived,
    ResumeAfterBody,
    body_fault,
    body_received,
    must_close_if_unread,
)
from penstock.http.certificates import client_certificate
from penstock.http.encodings import MIN_COMPRESSED_BYTES, compress_reply
from penstock.http.leader_followers import LONG_CALL_S, PROMOTE_NEXT
from penstock.http.problems import CONTENT_TYPE, problem_document, status_line
from penstock.http.request_body import Body, BodyAborted, BodyTimedOut, MalformedBody
from penstock.http.urls import absolute_urls
from penstock.http.watchdog import (
    GUNICORN_SOCKET,
    AlreadyAnswered,
    ClosingReply,
    DeadlineWatchdog,
    channel_of,
    close_after_reply,
    closing_response,
    read_with_deadline,
)
from penstock.plugins.guard import PluginFault
from penstock.runs.failures import Failure, failure_at, failure_of
from penstock.runs.idempotency import SAFE, answered, fingerprint, identity, key_of, still_running
from penstock.runs.records import Record, RecordedBodies
from penstock.runs.steps import Inline
from penstock.runs.timeouts import TimedOut, run_with_deadline
from penstock.web.cors_headers import cors_headers
from penstock.web.durable_calls import ACCEPTED, accept
from penstock.web.exchange import Exchange, reason_of

KNOWN_HEADERS = 500  # headers of refusals that are remembered as valid
REPLAYED, LOOKED_UP = "replayed", "looked-up"  # what calls are counted as that are no runs

Environ = dict[str, Any]
StartResponse = Callable[..., object]
Headers = list[tuple[str, str]]


class Dispatcher:
    """Answers the calls of pipelines on one of the listeners.

    Whatever else is asked for is not its business.
    """

    def __init__(self, host: Host, *, internal: bool = False) -> None:
        self._host = host
        self._view = host.view
        self._internal = internal
        self._url = "" if internal else host.settings.url
        self._log = structlog.get_logger("penstock.calls")
        served = {
            identifier: item
            for identifier, item in host.catalog.loaded.items()
            if (item.pipeline.trigger.internal if internal else item.pipeline.trigger.external)
        }
        self._routes = Routes(
            (
                (identifier, endpoint)
                for identifier, item in served.items()
                for endpoint in item.endpoints
            ),
            (identifier for identifier, item in served.items() if item.broken),
        )
        self._notices = {
            identifier: _notices(item.pipeline)
            for identifier, item in served.items()
            if not item.broken
        }
        self._networks = {
            identifier: Networks.of(item.pipeline.trigger.allow, item.pipeline.trigger.deny)
            for identifier, item in served.items()
            if (item.pipeline.trigger.allow or item.pipeline.trigger.deny) and not item.broken
        }
        self._watchdog = DeadlineWatchdog(
            min(
                (item.pipeline.trigger.timeout for item in served.values() if not item.broken),
                default=MAX_CALL_S,
            )
        )
        # Whose last call took long.
        self._slow: dict[str, set[str]] = {item.pipeline.name: set() for item in served.values()}
        self._observers = Observers(host)
        self._starter = SubpipelineRunner(host)
        self._sent: set[tuple[str, str]] = set()  # headers of refusals that are valid
        self._log_all = host.settings.log_calls == "all"
        self._log_failed = host.settings.log_calls != "none"

    def find(self, environ: Environ) -> tuple[Place, list[str]] | None:
        """Return what pipeline a call asks for."""
        try:
            return self._routes.find(_path(environ))
        except UnicodeDecodeError:
            return None

    def end_calls(self, moment: float) -> None:
        """Answer every call that has not ended at that moment, a `time.monotonic()` reading."""
        self._watchdog.answer_all_at(moment)

    def answer(
        self, environ: Environ, start_response: StartResponse, found: tuple[Place, list[str]]
    ) -> Iterable[bytes]:
        """Answer one call, or say that its body is needed first."""
        place, values = found
        passage = Exchange(environ, place, values)
        return self._go_on(passage, start_response, partial(self._run, passage, values))

    def _go_on(
        self,
        passage: Exchange,
        start_response: StartResponse,
        run: Callable[[], Answer | ResumeAfterBody[Answer]],
    ) -> Iterable[bytes]:
        done, refusal, last = self._outcome(passage, run)
        if isinstance(done, ResumeAfterBody):
            return ResumeAfterBody[Iterable[bytes]](
                done.limit,
                done.deadline,
                partial(self._go_on, passage, start_response, done.resume),
            )
        return self._reply(passage, start_response, done, refusal, last=last)

    def _outcome(
        self, passage: Exchange, run: Callable[[], Answer | ResumeAfterBody[Answer]]
    ) -> tuple[Answer | ResumeAfterBody[Answer], Refusal | None, bool]:
        """Return what came of a call.

        Its answer, why it was refused, and whether its connection ends with that.
        """
        refusal: Refusal
        last = False
        try:
            return run(), None, last
        except TimedOut:
            refusal, last = DeadlineExceeded(), True
        except Refusal as error:
            refusal, last = (
                self._fit(error, passage),
                isinstance(error, MalformedBody | BodyTimedOut | BodyAborted),
            )
        except AlreadyAnswered:
            raise
        except Exception as error:  # noqa: BLE001  a stranger's authenticator may raise anything; it lets nobody in
            if self._host.upkeep.log_throttle.allow(
                time.monotonic(),
                problem="internal",
                address=caller_network(self._address(passage.environ)),
            ):
                self._log.exception(
                    "call failed before its handler",
                    pipeline=passage.place.pipeline,
                    run=passage.run,
                    error=type(error).__name__,
                )
            refusal = _internal()
        return _refused(refusal, passage.run), refusal, last

    def _reply(
        self,
        passage: Exchange,
        start_response: StartResponse,
        done: Answer,
        refusal: Refusal | None,
        *,
        last: bool,
    ) -> Iterable[bytes]:
        environ = passage.environ
        status, headers, body = done
        services = self._host.services
        if passage.claims and services is not None and not answered(status, refusal):
            services.replay_guard.release(passage.claims)
        self._record(passage, status, refusal, headers, body)
        if len(body) > MIN_COMPRESSED_BYTES and status != 206:  # noqa: PLR2004  a part of something has the coding of the whole
            body = compress_reply(body, headers, environ.get("HTTP_ACCEPT_ENCODING", ""))
        self._finish(passage, headers, None if status in BODILESS else body)
        if self._log_all or (
            self._log_failed and status >= 400 and self._worth_a_line(passage, status, refusal)  # noqa: PLR2004  the first status of a failure
        ):
            self._write_log(passage, status, refusal)
        if last or (refusal is not None and must_close_if_unread(environ)):
            close_after_reply(start_response)
        start_response(status_line(status), headers)
        body = b"" if passage.method == "HEAD" else body
        return ClosingReply(environ, body) if last else (body,)

    def _fit(self, refusal: Refusal, passage: Exchange) -> Refusal:
        """Return a refusal that can be sent.

        Its headers may come from an authenticator or from a reply that an earlier release stored.
        """
        try:
            if self._sent.issuperset(refusal.headers):
                return refusal
            checked_refusal(refusal, passage.place.pipeline)
        except (ReplyError, TypeError) as error:
            self._log.error(
                "refusal can't be sent",
                pipeline=passage.place.pipeline,
                run=passage.run,
                error=str(error),
            )
            return _internal()
        if len(self._sent) < KNOWN_HEADERS:
            self._sent.update(refusal.headers)
        return refusal

    def _finish(self, passage: Exchange, headers: Headers, body: bytes | None) -> None:
        """Add the headers that every reply has; one without a body has no length."""
        place = passage.place
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        headers += [("X-Run-Id", passage.run), *passage.rates]
        for item in self._notices.get(place.pipeline, ()):
            _add(headers, item)
        if passage.request_id is not None:
            _add(headers, ("X-Request-Id", passage.request_id))
        cors = self._cors(place)
        # In place of a handler's own: two would say nothing at all, or more than the policy does.
        if cors is not None:
            headers[:] = [
                item for item in headers if not item[0].lower().startswith("access-control-")
            ]
            headers += cors_headers(cors, passage.environ, place.allowed)
        for rule in self._view.evaluated.responses.headers:
            name = rule.name.lower()
            if rule.override:
                headers[:] = [item for item in headers if item[0].lower() != name]
            elif any(item[0].lower() == name for item in headers):
                continue
            headers.append((rule.name, rule.value))
        if self._url:
            headers[:] = absolute_urls(headers, self._url)

    def _record(
        self, passage: Exchange, status: int, refusal: Refusal | None, headers: Headers, body: bytes
    ) -> None:
        """Hand over the record of a run, or count what did not become one."""
        services, call, endpoint = self._host.services, passage.call, passage.endpoint
        if services is None or passage.recorded:
            return
        recorder = services.recorder
        passage.recorded = True
        pipeline = passage.place.pipeline
        if passage.running is None or call is None or endpoint is None:
            if refusal is not None:
                address = self._address(passage.environ)
                recorder.rejected(
                    pipeline,
                    refusal.code,
                    address=address,
                    reason=reason_of(refusal),
                    consumer_id=passage.consumer_id,
                )
            elif endpoint is not None:
                recorder.counted(pipeline, ACCEPTED if endpoint.route.durable else REPLAYED)
            return
        if endpoint.of_runtime:
            recorder.counted(pipeline, LOOKED_UP)
            return
        kept = None
        if recorder.keeps(endpoint.pipeline, status):
            kept = RecordedBodies(
                call.path,
                call.query_string,
                call.content_type,
                *call.so_far(),
                _content_type(headers),
                body,
                call.params,
            )
        recorder.over(
            Record(
                passage.run,
                endpoint.pipeline,
                endpoint.name,
                status,
                int(passage.seconds * 1e6),
                call.caller,
                refusal.code if refusal is not None else None,
                refusal.detail if refusal is not None else None,
                None,
                passage.request_id,
                passage.running.steps or None,
                kept,
                failure=(
                    self._failure(refusal, passage.running, endpoint)
                    if status >= 500 and refusal is not None  # noqa: PLR2004  a fault of ours
                    else None
                ),
            )
        )

    @staticmethod
    def _failure(refusal: Refusal, running: Inline, endpoint: Endpoint) -> Failure:
        """Return why a call failed.

        What its handler raised, or where that was when its time was up.
        """
        if refusal.__traceback__ is None:
            return failure_at(refusal, running.thread, endpoint.route.handler)
        raised = (
            refusal.__cause__
            if type(refusal) is Refusal and refusal.__cause__ is not None
            else refusal
        )
        return failure_of(raised, endpoint.route.handler)

    def _run(self, passage: Exchange, values: list[str]) -> Answer | ResumeAfterBody[Answer]:
        place = passage.place
        endpoint = place.endpoints.get("GET" if passage.method == "HEAD" else passage.method)
        if endpoint is None and place.endpoints:
            cors = self._cors(place)
            if (
                passage.method == "OPTIONS"
                and cors is not None
                and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in passage.environ
            ):
                return 204, [], b""
            raise Refusal(
                405,
                "method-not-allowed",
                f"This path takes {place.allowed}.",
                headers=[("Allow", place.allowed)],
            )
        if endpoint is None:
            raise unavailable()
        try:
            return self._admit(passage, endpoint, values)
        except BodyNotReceived:  # by the gate, for a signature
            limit = endpoint.pipeline.trigger.max_body
            return ResumeAfterBody(
                limit, passage.deadline or 0.0, partial(self._admit, passage, endpoint, values)
            )

    def _admit(
        self, passage: Exchange, endpoint: Endpoint, values: list[str]
    ) -> Answer | ResumeAfterBody[Answer]:
        """Let a call through its gate, and have it handled, as soon as its body is there."""
        host, environ, place = self._host, passage.environ, passage.place
        view, services = self._view, host.services
        side = view.evaluated.internal if self._internal else view.evaluated.external
        evaluated, access = side.get(place.pipeline), view.access
        if evaluated is None or access is None or services is None or not view.fresh():
            raise unavailable()
        networks = self._networks.get(place.pipeline)
        if (
            networks is not None
            and evaluated.gate is not CLOSED
            and not networks.admit(self._address(environ))
        ):
            raise _wrong_address()
        now = time.time()
        pipeline = endpoint.pipeline
        trigger = pipeline.trigger
        body = Body(environ, trigger.max_body)
        if passage.deadline is None:
            passage.deadline = time.monotonic() + trigger.timeout
        deadline = passage.deadline
        caller = self._ask_gate(evaluated.gate, passage, endpoint, body, access, now, deadline)
        passage.consumer_id = caller.consumer_id
        if (
            access.networks
            and caller.consumer_id in access.networks
            and not access.networks[caller.consumer_id].admit(self._address(environ))
        ):
            raise _wrong_address()
        if caller.key_id is not None:
            services.key_usage.note(caller.key_id, now)
        if trigger.rate or access.limits:
            self._count(passage, pipeline, caller)
        call = Call(
            method=passage.method,
            path=_path(environ),
            pipeline=pipeline.name,
            version=pipeline.version,
            environment=access.environment.name,
            run=passage.run,
            deadline=deadline,
            caller=caller,
            params=dict(zip(endpoint.in_path, values, strict=True)) if values else None,
            query_string=host.catalog.withheld.query(_query(environ), lambda: _headers(environ)),
            content_type=environ.get("CONTENT_TYPE", ""),
            read_headers=lambda: host.catalog.withheld.without(
                _headers(environ), forward_token=trigger.forward_token and bool(caller.claims)
            ),
            read_body=body.read,
            read_form=body.form,
            variables=access.variables,
            read_secrets=lambda: access.secrets_for(pipeline.id),
            read_http=client_of(passage.run, deadline, environ.get("HTTP_TRACEPARENT")),
            issue=lambda **wanted: issue_token(host.catalog, view, pipeline, caller, **wanted),
        )
        passage.endpoint, passage.call = endpoint, call
        if (
            not body_received(environ)
            and int(environ.get("CONTENT_LENGTH") or 0) <= trigger.max_body
        ):
            return ResumeAfterBody(
                trigger.max_body, deadline, partial(self._received, endpoint, call, passage)
            )
        return self._handle(endpoint, call, passage)

    def _received(self, endpoint: Endpoint, call: Call, passage: Exchange) -> Answer:
        """Have a call handled whose body was waited for."""
        fault = body_fault(passage.environ)
        if fault is BodyFault.TIMED_OUT:  # its sender took the time, and no handler has begun
            raise BodyTimedOut
        if fault is BodyFault.HOST_STOPPING:
            raise BodyAborted
        return self._handle(endpoint, call, passage)

    def _ask_gate(
        self,
        gate: Gate,
        passage: Exchange,
        endpoint: Endpoint,
        body: Body,
        access: Snapshot,
        now: float,
        deadline: float,
    ) -> Caller:
        """Return who calls.

        Raises Refusal, and BodyNotReceived where a proof needs the body and it is not there yet.
        """
        host, environ = self._host, passage.environ
        head = RequestHead(environ, passage.place.pipeline, self._certificate)
        signed = partial(self._signed, body, passage, deadline) if gate.reads_body else bytes
        claim = partial(self._claim, passage, endpoint) if gate.counts_once else None
        try:
            return gate.admit(head, access, now, signed, partial(self._guess, environ), claim)
        except Refusal as error:
            if (
                host.services is not None
                and isinstance(error.__cause__, CredentialRejected)
                and not error.counted
            ):
                host.services.limiter.fail(access.environment.name, self._address(environ))
            raise
        except PluginFault as fault:
            host.catalog.report_fault(fault)
            raise _internal() from None

    def _count(self, passage: Exchange, pipeline: Pipeline, caller: Caller) -> None:
        """Count a call against the pipeline's rates and its consumer's.

        What is left goes out with the reply, whatever that is.

        What an operator set for a consumer at a pipeline stands in place of the pipeline's own
        rates by consumer and key.
        """
        services, access = self._host.services, self._view.access
        if services is None or access is None:
            raise unavailable()
        environment = self._host.settings.environment
        here = f"{environment}/{passage.place.pipeline}"
        rates = [(here, rate) for rate in pipeline.trigger.rate]
        if caller.consumer_id is not None and access.limits:
            theirs = f" of {caller.consumer}"  # also by address: others may call from the same one
            own = access.limits.get((caller.consumer_id, passage.place.pipeline), ())
            if own:
                rates = [
                    item for item in rates if item[1].by not in OVERRIDDEN_BY_CONSUMER_LIMIT
                ] + [(here + theirs, rate) for rate in own]
            everywhere = environment + theirs + EVERYWHERE
            rates += [
                (everywhere, rate) for rate in access.limits.get((caller.consumer_id, ""), ())
            ]
        if rates:
            passage.rates = services.limiter.count(rates, caller, self._address(passage.environ))

    def _signed(self, body: Body, passage: Exchange, deadline: float) -> bytes:
        """Read the body before the gate has let the call through.

        The gate needs it for a signature, and no sender may be slow for ever.

        Raises BodyNotReceived where it is not there, and the server can wait for it.
        """
        connection = channel_of(passage.environ)
        if connection is None:
            return read_with_deadline(passage.environ.get(GUNICORN_SOCKET), body.raw, deadline)
        return self._watchdog.run(body.raw, connection, deadline, lambda: self._late(passage))

    def _guess(self, environ: Environ) -> AbstractContextManager[Look]:
        """Return what counts a look at a credential that can be guessed."""
        services = self._host.services
        return (
            nullcontext(Look())
            if services is None
            else services.limiter.guess(self._host.settings.environment, self._address(environ))
        )

    def _claim(
        self, passage: Exchange, endpoint: Endpoint, kind: str, caller: Caller, once: Once
    ) -> bool:
        """Claim what a call counts once for, and say whether it may go on.

        As the first, or as a repeat of that with its Idempotency-Key.
        """
        services = self._host.services
        if services is None:
            raise unavailable()
        whose = self._whose(passage, endpoint, caller)
        claim = services.replay_guard.claim(
            kind, caller.consumer_id, once, identity(whose) if whose is not None else b""
        )
        if claim is not None:
            passage.claims += (claim,)
        return claim is not None

    def _whose(
        self, passage: Exchange, endpoint: Endpoint, caller: Caller
    ) -> tuple[str, ...] | None:
        """Return what identifies the Idempotency-Key of a call, where it has one that counts.

        Raises Refusal (400).
        """
        sent = passage.environ.get("HTTP_IDEMPOTENCY_KEY")
        if sent is None or endpoint.pipeline.trigger.idempotent is None or passage.method in SAFE:
            return None
        return (
            self._host.settings.environment,
            passage.place.pipeline,
            str(caller.consumer_id),
            caller.subject or "",
            key_of(sent),
        )

    def _certificate(self, environ: Mapping[str, object]) -> bytes | None:
        settings = self._host.settings
        return client_certificate(environ, settings.trusted_proxies, settings.client_cert_header)

    def _address(self, environ: Environ) -> str:
        settings = self._host.settings
        return client_address(environ, settings.trusted_proxies, settings.forwarded_header)

    def _handle(self, endpoint: Endpoint, call: Call, passage: Exchange) -> Answer:
        if (
            endpoint.name in self._slow[call.pipeline]
            and (pass_on := passage.environ.get(PROMOTE_NEXT)) is not None
        ):
            pass_on()
        began = time.perf_counter()
        self._observers.started(call)
        status = 500
        try:
            done = self._in_time(endpoint, call, passage)
            status = done[0]
        except (AlreadyAnswered, TimedOut):
            status = passage.refusal.status if passage.refusal is not None else 504
            event = (
                "host stopped before a call ended"
                if isinstance(passage.refusal, HostStopping)
                else "pipeline over its time limit"
            )
            self._log.warning(
                event,
                pipeline=endpoint.pipeline.id,
                run=call.run,
                seconds=round(time.perf_counter() - began, 3),
            )
            raise
        except Refusal as error:
            status = error.status
            raise
        # A stranger's handler may raise anything; it ends its call, not the process.
        except BaseException as error:
            self._log.exception(
                "pipeline failed",
                pipeline=endpoint.pipeline.id,
                run=call.run,
                error=type(error).__name__,
            )
            raise failed() from error
        finally:
            seconds = time.perf_counter() - began
            self._observers.finished(call, status, seconds)
            if seconds > LONG_CALL_S:
                self._slow[call.pipeline].add(endpoint.name)
            else:
                self._slow[call.pipeline].discard(endpoint.name)
        return done

    def _work(self, endpoint: Endpoint, call: Call, passage: Exchange) -> Callable[[], Answer]:
        """Return what the call is to do, once there is room among the pipeline's calls in flight.

        It leaves that when it really ends.
        """
        whose = self._whose(passage, endpoint, call.caller)
        if endpoint.route.durable:
            if self._host.services is None:
                raise unavailable()
            run: Callable[[], Answer] = partial(
                accept, self._host.services, self._view, passage, endpoint, call, whose
            )
        elif whose is not None:
            run = partial(self._run_once, endpoint, call, whose, passage)
        else:
            run = partial(self._perform, endpoint, call, passage)
        slots = self._host.catalog.slots.get(passage.place.pipeline)
        if slots is not None and not slots.acquire(blocking=False):
            raise Refusal(
                503,
                "pipeline-busy",
                "This pipeline has no room for another call at the moment.",
                headers=[("Retry-After", "1")],
            )

        def work() -> Answer:
            try:
                return run()
            finally:
                call.end()
                if slots is not None:
                    slots.release()

        return work

    def _perform(self, endpoint: Endpoint, call: Call, passage: Exchange) -> Answer:
        # No reply is stored: the first call still runs, or died with its process.
        if passage.repeats:
            raise still_running()
        context = ParentRun(
            call, (passage.place.pipeline,), passage.environ.get("HTTP_TRACEPARENT")
        )
        passage.running = Inline(call.deadline, self._starter.start(context))
        return handle(endpoint, call, passage.running)

    def _run_once(
        self, endpoint: Endpoint, call: Call, whose: tuple[str, ...], passage: Exchange
    ) -> Answer:
        services = self._host.services
        if services is None:
            raise unavailable()
        request = fingerprint(call, form=endpoint.body is not None and endpoint.body.form)
        return services.idempotency.once(
            whose,
            request,
            endpoint.pipeline.trigger.timeout,
            partial(self._perform, endpoint, call, passage),
        )

    def _in_time(self, endpoint: Endpoint, call: Call, passage: Exchange) -> Answer:
        environ = passage.environ
        connection = channel_of(environ)
        if connection is not None:
            work = self._work(endpoint, call, passage)
            return self._watchdog.run(work, connection, call.deadline, lambda: self._late(passage))
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            # Two threads must not use one TLS connection at a time: it is read before.
            form = endpoint.body is not None and endpoint.body.form
            read_with_deadline(
                environ.get(GUNICORN_SOCKET),
                lambda: call.form if form else call.body,
                call.deadline,
            )
        return run_with_deadline(self._work(endpoint, call, passage), call.deadline)

    def _late(self, passage: Exchange) -> bytes:
        """Return the response on the wire to a call whose time is up, or whose process ends."""
        in_time = passage.deadline is not None and time.monotonic() < passage.deadline
        durable = passage.endpoint is not None and passage.endpoint.route.durable
        late = (
            DeadlineExceeded(f"The database took too long to answer. {MAYBE_ACCEPTED}")
            if durable
            else DeadlineExceeded()
        )
        refusal = passage.refusal = HostStopping() if in_time else late
        status, headers, body = _refused(refusal, passage.run)
        services = self._host.services
        if services is not None:
            services.replay_guard.release_later(passage.claims)
        self._record(passage, status, refusal, headers, body)
        self._finish(passage, headers, body)
        if self._log_failed:
            self._write_log(passage, status, refusal)
        return closing_response(
            status_line(status), headers, b"" if passage.method == "HEAD" else body
        )

    def _cors(self, place: Place) -> Cors | None:
        item = self._host.catalog.loaded.get(place.pipeline)
        own = item.pipeline.trigger.cors if item is not None else None
        common = self._view.evaluated.responses
        return common.cors if common.cors_override or own is None else own

    def _worth_a_line(self, passage: Exchange, status: int, refusal: Refusal | None) -> bool:
        """Say whether a refused call is logged.

        Those of strangers only now and then, and what the limiter logs not again.
        """
        if status == 429:  # noqa: PLR2004  too many requests
            return False
        if refusal is None or status in {500, 504} or passage.consumer_id is not None:
            return True
        return self._host.upkeep.log_throttle.allow(
            time.monotonic(),
            problem=refusal.code,
            address=caller_network(self._address(passage.environ)),
        )

    def _shown_path(self, passage: Exchange) -> str:
        """Return the path for the log.

        A parameter can be sensitive, and the call one that the gate refused.
        """
        path = _path(passage.environ)
        endpoint = passage.endpoint or next(iter(passage.place.endpoints.values()), None)
        if not passage.values or endpoint is None:
            return path
        return self._view.redactor(endpoint.pipeline).path(
            path, dict(zip(endpoint.in_path, passage.values, strict=False))
        )

    def _write_log(self, passage: Exchange, status: int, refusal: Refusal | None) -> None:
        known = {"problem": refusal.code} if refusal is not None else {}
        if refusal is not None and (reason := reason_of(refusal)) is not None:
            known["reason"] = reason
        if passage.request_id is not None:
            known["request_id"] = passage.request_id
        self._log.info(
            "call",
            method=passage.method,
            path=self._shown_path(passage),
            pipeline=passage.place.pipeline,
            status=status,
            run=passage.run,
            ms=round(passage.seconds * 1000, 2),
            **known,
        )


def _notices(pipeline: Pipeline) -> Headers:
    """Return what a deprecated pipeline says in every reply (RFC 9745, RFC 8594)."""

    def seconds(moment: date) -> float:
        return datetime(moment.year, moment.month, moment.day, tzinfo=UTC).timestamp()

    notices = []
    if pipeline.deprecated:
        # The header has no other way to leave it open.
        since = 0.0 if pipeline.deprecated is True else seconds(pipeline.deprecated)
        notices.append(("Deprecation", f"@{since:.0f}"))
    if pipeline.sunset is not None:
        notices.append(("Sunset", formatdate(seconds(pipeline.sunset), usegmt=True)))
    return notices


def _refused(refusal: Refusal, run: str | None) -> tuple[int, Headers, bytes]:
    headers = [("Content-Type", CONTENT_TYPE), *refusal.headers]
    _add(headers, NO_STORE)
    return refusal.status, headers, problem_document(refusal, run)


def _add(headers: Headers, item: tuple[str, str]) -> None:
    """Add a header unless the handler has set it."""
    lower = item[0].lower()
    for name, _ in headers:
        if name.lower() == lower:
            return
    headers.append(item)


def _path(environ: Environ) -> str:
    """Return the path as text: WSGI hands over its bytes one by one as characters (PEP 3333).

    Raises UnicodeDecodeError.
    """
    path: str = environ["PATH_INFO"]
    return path if path.isascii() else path.encode("latin-1").decode("utf-8")


def _query(environ: Environ) -> str:
    """Return the query as text.

    Bytes that are not escaped are UTF-8, as in the path (URL standard).
    """
    query: str = environ.get("QUERY_STRING", "")
    return query if query.isascii() else query.encode("latin-1").decode("utf-8", "replace")


def _headers(environ: Environ) -> Mapping[str, str]:
    fields = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            fields[name.replace("_", "-").lower()] = environ[name]
    return fields


def _content_type(headers: Headers) -> str:
    return next((value for name, value in headers if name.lower() == "content-type"), "")


def _internal() -> Refusal:
    return Refusal(500, "internal", "Something went wrong here; the log says what.")


def _wrong_address() -> Refusal:
    return Refusal(403, "address-not-allowed", "Calls from this address are not taken here.")
