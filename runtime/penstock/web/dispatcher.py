"""The way of a call: find its pipeline, pass its gate, run its handler, send the reply. Nothing here asks the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from email.utils import formatdate
from functools import partial
from typing import Any

import structlog

from penstock.contracts.access import RequestHead
from penstock.contracts.call import Call, Caller
from penstock.contracts.networks import Networks
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.rates import STOOD_IN_FOR
from penstock.contracts.triggers import MAX_SECONDS, Cors
from penstock.errors import CredentialRejected, OutOfTime, Refusal
from penstock.gate.gate import CLOSED, unavailable
from penstock.gate.rates import EVERYWHERE, network_of
from penstock.host import Host
from penstock.perform import Context, Observers, Starter, client_of, failed, handle
from penstock.runs.aside import TimeIsUp, run_aside
from penstock.runs.handlers import Endpoint
from penstock.runs.idempotency import SAFE, fingerprint, key_of
from penstock.runs.records import Exchange, Record
from penstock.runs.replies import BODILESS, Answer
from penstock.runs.routes import Place, Routes
from penstock.runs.steps import Inline
from penstock.web.addresses import client_address
from penstock.web.bodies import Body, BrokenBody
from penstock.web.certificates import client_certificate
from penstock.web.durable import ACCEPTED, accept
from penstock.web.encodings import WORTH_IT, deflate
from penstock.web.passage import Passage, reason_of
from penstock.web.problems import CONTENT_TYPE, problem, status_line
from penstock.web.turns import LONG, PASS_ON
from penstock.web.watchdog import SOCKET, Answered, LastReply, Watchdog, announce_close, last_response, plain_socket, read_in_time

REPLAYED, LOOKED_UP = "replayed", "looked-up"  # what calls are counted as that are no runs

Environ = dict[str, Any]
StartResponse = Callable[..., object]
Headers = list[tuple[str, str]]


class Dispatcher:
    """Answers the calls of pipelines on one of the listeners; whatever else is asked for is not its business."""

    def __init__(self, host: Host, *, internal: bool = False) -> None:
        self._host = host
        self._internal = internal
        self._log = structlog.get_logger("penstock.calls")
        served = {
            identifier: item
            for identifier, item in host.loaded.items()
            if (item.pipeline.trigger.internal if internal else item.pipeline.trigger.external)
        }
        self._routes = Routes(
            ((identifier, endpoint) for identifier, item in served.items() for endpoint in item.endpoints),
            (identifier for identifier, item in served.items() if item.broken),
        )
        self._notices = {identifier: _notices(item.pipeline) for identifier, item in served.items() if not item.broken}
        self._networks = {
            identifier: Networks.of(item.pipeline.trigger.allow, item.pipeline.trigger.deny)
            for identifier, item in served.items()
            if (item.pipeline.trigger.allow or item.pipeline.trigger.deny) and not item.broken
        }
        self._watchdog = Watchdog(min((item.pipeline.trigger.timeout for item in served.values() if not item.broken), default=MAX_SECONDS))
        self._slow: dict[str, set[str]] = {item.pipeline.name: set() for item in served.values()}  # whose last call took long
        self._observers = Observers(host)
        self._starter = Starter(host)
        self._log_all = host.settings.log_calls == "all"
        self._log_failed = host.settings.log_calls != "none"

    def find(self, environ: Environ) -> tuple[Place, list[str]] | None:
        """Return what pipeline a call asks for."""
        try:
            return self._routes.find(_path(environ))
        except UnicodeDecodeError:
            return None

    def answer(self, environ: Environ, start_response: StartResponse, found: tuple[Place, list[str]]) -> Iterable[bytes]:
        """Answer one call."""
        place, values = found
        passage = Passage(environ, place, values)
        refusal: Refusal | None = None
        last = False
        try:
            status, headers, body = self._run(passage, values)
        except TimeIsUp:
            refusal, last = OutOfTime(), True
        except Refusal as error:
            refusal, last = error, isinstance(error, BrokenBody)
        except Answered:
            raise
        except Exception as error:  # noqa: BLE001  a stranger's authenticator may raise anything; it lets nobody in
            if self._host.sparing.may(time.monotonic(), problem="internal", address=network_of(self._address(environ))):  # nobody is known yet
                self._log.exception("call failed before its handler", pipeline=place.pipeline, run=passage.run, error=type(error).__name__)
            refusal = Refusal(500, "internal", "Something went wrong here; the log says what.")
        if refusal is not None:
            status, headers, body = _refused(refusal, passage.run)
        self._record(passage, status, refusal, headers, body)
        if len(body) > WORTH_IT and status != 206:  # noqa: PLR2004  a part of something has the coding of the whole
            body = deflate(body, headers, environ.get("HTTP_ACCEPT_ENCODING", ""))
        self._finish(passage, headers, None if status in BODILESS else body)
        if self._log_all or (self._log_failed and status >= 400 and self._worth_a_line(passage, status, refusal)):  # noqa: PLR2004  the first status of a failure
            self._write_log(passage, status, refusal)
        if last:
            announce_close(start_response)
        start_response(status_line(status), headers)
        body = b"" if passage.method == "HEAD" else body
        return LastReply(environ, body) if last else (body,)

    def _finish(self, passage: Passage, headers: Headers, body: bytes | None) -> None:
        """Add the headers that every reply has; one without a body has no length."""
        place = passage.place
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        headers += [("X-Run-Id", passage.run), *passage.rates, *self._notices.get(place.pipeline, ())]
        if passage.request_id is not None:
            headers.append(("X-Request-Id", passage.request_id))
        cors = self._cors(place)
        if cors is not None:  # in place of a handler's own: two would say nothing at all, or more than the policy does
            headers[:] = [item for item in headers if not item[0].lower().startswith("access-control-")]
            headers += _cors_headers(cors, passage.environ, place.allowed)
        for rule in self._host.responses.headers:
            name = rule.name.lower()
            if rule.override:
                headers[:] = [item for item in headers if item[0].lower() != name]
            elif any(item[0].lower() == name for item in headers):
                continue
            headers.append((rule.name, rule.value))

    def _record(self, passage: Passage, status: int, refusal: Refusal | None, headers: Headers, body: bytes) -> None:
        """Hand over the record of a run, or count what did not become one."""
        recorder, call, endpoint = self._host.recorder, passage.call, passage.endpoint
        if recorder is None or passage.recorded:
            return
        passage.recorded = True
        pipeline = passage.place.pipeline
        if passage.running is None or call is None or endpoint is None:
            if refusal is not None:
                address = self._address(passage.environ)
                recorder.refused(pipeline, refusal.code, address=address, reason=reason_of(refusal), consumer_id=passage.consumer_id)
            elif endpoint is not None:
                recorder.counted(pipeline, ACCEPTED if endpoint.route.durable else REPLAYED)
            return
        if endpoint.of_runtime:
            recorder.counted(pipeline, LOOKED_UP)
            return
        kept = None
        if recorder.keeps(endpoint.pipeline, status):
            kept = Exchange(call.path, call.query_string, call.content_type, *call.so_far(), _content_type(headers), body, call.params)
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
            )
        )

    def _run(self, passage: Passage, values: list[str]) -> Answer:
        host, environ, place = self._host, passage.environ, passage.place
        endpoints = place.endpoints
        endpoint = endpoints.get("GET" if passage.method == "HEAD" else passage.method)
        if endpoint is None and endpoints:
            cors = self._cors(place)
            if passage.method == "OPTIONS" and cors is not None and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
                return 204, [], b""
            raise Refusal(405, "method-not-allowed", f"This path takes {place.allowed}.", headers=[("Allow", place.allowed)])
        judged = (host.judged_internal if self._internal else host.judged).get(place.pipeline)
        access = host.access
        if endpoint is None or judged is None or access is None or not host.fresh():
            raise unavailable()
        networks = self._networks.get(place.pipeline)
        if networks is not None and judged.gate is not CLOSED and not networks.admit(self._address(environ)):
            raise _wrong_address()
        now = time.time()
        pipeline = endpoint.pipeline
        trigger = pipeline.trigger
        body = Body(environ, trigger.max_body)
        head = RequestHead(environ, pipeline.name, self._certificate)
        try:
            signed = partial(self._signed, body, passage, trigger.timeout) if judged.gate.reads_body else bytes
            caller = judged.gate.admit(head, access, now, signed, partial(self._before_guess, environ))
        except Refusal as error:
            if host.limiter is not None and isinstance(error.__cause__, CredentialRejected):
                host.limiter.fail(access.environment.name, self._address(environ))
            raise
        passage.consumer_id = caller.consumer_id
        if access.networks and caller.consumer_id in access.networks and not access.networks[caller.consumer_id].admit(self._address(environ)):
            raise _wrong_address()
        if caller.key_id is not None:
            host.note_use(caller.key_id, now)
        if trigger.rate or access.limits:
            self._count(passage, pipeline, caller)
        deadline = time.monotonic() + trigger.timeout
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
            query_string=environ.get("QUERY_STRING", ""),
            content_type=environ.get("CONTENT_TYPE", ""),
            read_headers=lambda: _headers(environ),
            read_body=body.read,
            read_form=body.form,
            variables=access.variables,
            read_secrets=lambda: access.secrets_for(pipeline.name),
            read_http=client_of(passage.run, deadline, environ.get("HTTP_TRACEPARENT")),
            issue=lambda **wanted: host.issue(pipeline, caller, **wanted),
        )
        passage.endpoint, passage.call = endpoint, call
        return self._handle(endpoint, call, passage)

    def _count(self, passage: Passage, pipeline: Pipeline, caller: Caller) -> None:
        """Count a call against the pipeline's rates and its consumer's; what is left goes out with the reply, whatever that is.

        What an operator set for a consumer at a pipeline stands in place of the pipeline's own rates by consumer and key.
        """
        host = self._host
        if host.limiter is None or host.access is None:
            raise unavailable()
        here = f"{host.settings.environment}/{passage.place.pipeline}"
        rates = [(here, rate) for rate in pipeline.trigger.rate]
        if caller.consumer_id is not None and host.access.limits:
            theirs = f" of {caller.consumer}"  # also by address: others may call from the same one
            own = host.access.limits.get((caller.consumer_id, pipeline.name), ())
            if own:
                rates = [item for item in rates if item[1].by not in STOOD_IN_FOR] + [(here + theirs, rate) for rate in own]
            everywhere = host.settings.environment + theirs + EVERYWHERE
            rates += [(everywhere, rate) for rate in host.access.limits.get((caller.consumer_id, ""), ())]
        if rates:
            passage.rates = host.limiter.count(rates, caller, self._address(passage.environ))

    def _signed(self, body: Body, passage: Passage, seconds: float) -> bytes:
        """Read the body before the gate has let the call through: the gate needs it for a signature, and no sender may be slow for ever."""
        connection = plain_socket(passage.environ)
        deadline = time.monotonic() + seconds
        if connection is None:
            return read_in_time(passage.environ.get(SOCKET), body.raw, deadline)
        return self._watchdog.run(body.raw, connection, deadline, lambda: self._late(passage))

    def _before_guess(self, environ: Environ) -> None:
        if self._host.limiter is not None:
            self._host.limiter.may_guess(self._host.settings.environment, self._address(environ))

    def _certificate(self, environ: Mapping[str, object]) -> bytes | None:
        settings = self._host.settings
        return client_certificate(environ, settings.trusted_proxies, settings.client_cert_header)

    def _address(self, environ: Environ) -> str:
        settings = self._host.settings
        return client_address(environ, settings.trusted_proxies, settings.forwarded_header)

    def _handle(self, endpoint: Endpoint, call: Call, passage: Passage) -> Answer:
        if endpoint.name in self._slow[call.pipeline] and (pass_on := passage.environ.get(PASS_ON)) is not None:
            pass_on()
        began = time.perf_counter()
        self._observers.started(call)
        status = 500
        try:
            done = self._in_time(endpoint, call, passage)
            status = done[0]
        except (Answered, TimeIsUp):
            status = 504
            self._log.warning("pipeline over its time limit", pipeline=call.pipeline, run=call.run, seconds=round(time.perf_counter() - began, 3))
            raise
        except Refusal as error:
            status = error.status
            raise
        except BaseException as error:  # a stranger's handler may raise anything; it ends its call, not the process
            self._log.exception("pipeline failed", pipeline=call.pipeline, run=call.run, error=type(error).__name__)
            raise failed() from error
        finally:
            seconds = time.perf_counter() - began
            self._observers.finished(call, status, seconds)
            if seconds > LONG:
                self._slow[call.pipeline].add(endpoint.name)
            else:
                self._slow[call.pipeline].discard(endpoint.name)
        return done

    def _work(self, endpoint: Endpoint, call: Call, passage: Passage) -> Callable[[], Answer]:
        """Return what the call is to do, once there is room among the pipeline's calls in flight; it leaves that when it really ends."""
        sent = passage.environ.get("HTTP_IDEMPOTENCY_KEY")
        whose = None
        if sent is not None and endpoint.pipeline.trigger.idempotent is not None and call.method not in SAFE:
            whose = call.environment, passage.place.pipeline, str(call.caller.consumer_id), call.caller.subject or "", key_of(sent)
        if endpoint.route.durable:
            run: Callable[[], Answer] = partial(accept, self._host, passage, endpoint, call, whose)
        elif whose is not None:
            run = partial(self._run_once, endpoint, call, whose, passage)
        else:
            run = partial(self._perform, endpoint, call, passage)
        slots = self._host.slots.get(passage.place.pipeline)
        if slots is not None and not slots.acquire(blocking=False):
            raise Refusal(503, "pipeline-busy", "This pipeline has no room for another call at the moment.", headers=[("Retry-After", "1")])

        def work() -> Answer:
            try:
                return run()
            finally:
                call.end()
                if slots is not None:
                    slots.release()

        return work

    def _perform(self, endpoint: Endpoint, call: Call, passage: Passage) -> Answer:
        context = Context(call, (passage.place.pipeline,), passage.environ.get("HTTP_TRACEPARENT"))
        passage.running = Inline(call.deadline, self._starter.start(context))
        return handle(endpoint, call, passage.running)

    def _run_once(self, endpoint: Endpoint, call: Call, whose: tuple[str, ...], passage: Passage) -> Answer:
        if self._host.replies is None:
            raise unavailable()
        request = fingerprint(call, form=endpoint.body is not None and endpoint.body.form)
        return self._host.replies.once(whose, request, endpoint.pipeline.trigger.timeout, partial(self._perform, endpoint, call, passage))

    def _in_time(self, endpoint: Endpoint, call: Call, passage: Passage) -> Answer:
        environ = passage.environ
        connection = plain_socket(environ)
        if connection is not None:
            work = self._work(endpoint, call, passage)
            return self._watchdog.run(work, connection, call.deadline, lambda: self._late(passage))
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            form = endpoint.body is not None and endpoint.body.form  # two threads must not use one TLS connection at a time: it is read before
            read_in_time(environ.get(SOCKET), lambda: call.form if form else call.body, call.deadline)
        return run_aside(self._work(endpoint, call, passage), call.deadline)

    def _late(self, passage: Passage) -> bytes:
        """Return the response, as it goes over the wire, to a call whose time is up."""
        refusal = OutOfTime()
        status, headers, body = _refused(refusal, passage.run)
        self._record(passage, status, refusal, headers, body)
        self._finish(passage, headers, body)
        if self._log_failed:
            self._write_log(passage, status, refusal)
        return last_response(status_line(status), headers, b"" if passage.method == "HEAD" else body)

    def _cors(self, place: Place) -> Cors | None:
        item = self._host.loaded.get(place.pipeline)
        own = item.pipeline.trigger.cors if item is not None else None
        common = self._host.responses
        return common.cors if common.cors_override or own is None else own

    def _worth_a_line(self, passage: Passage, status: int, refusal: Refusal | None) -> bool:
        """Say whether a refused call is logged: those of strangers only now and then, and what the limiter logs not again."""
        if status == 429:  # noqa: PLR2004  too many requests
            return False
        if refusal is None or status in {500, 504} or passage.consumer_id is not None:
            return True
        return self._host.sparing.may(time.monotonic(), problem=refusal.code, address=network_of(self._address(passage.environ)))

    def _shown_path(self, passage: Passage) -> str:
        """Return the path for the log: a parameter can be sensitive, and the call one that the gate refused."""
        path = _path(passage.environ)
        endpoint = passage.endpoint or next(iter(passage.place.endpoints.values()), None)
        if not passage.values or endpoint is None:
            return path
        return self._host.sensitive(endpoint.pipeline).path(path, dict(zip(endpoint.in_path, passage.values, strict=False)))

    def _write_log(self, passage: Passage, status: int, refusal: Refusal | None) -> None:
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
        since = 0.0 if pipeline.deprecated is True else seconds(pipeline.deprecated)  # the header has no other way to leave it open
        notices.append(("Deprecation", f"@{since:.0f}"))
    if pipeline.sunset is not None:
        notices.append(("Sunset", formatdate(seconds(pipeline.sunset), usegmt=True)))
    return notices


def _refused(refusal: Refusal, run: str | None) -> tuple[int, Headers, bytes]:
    return refusal.status, [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store"), *refusal.headers], problem(refusal, run)


def _path(environ: Environ) -> str:
    """Return the path as text: WSGI hands over its bytes one by one as characters (PEP 3333). Raises UnicodeDecodeError."""
    path: str = environ["PATH_INFO"]
    return path if path.isascii() else path.encode("latin-1").decode("utf-8")


def _headers(environ: Environ) -> Mapping[str, str]:
    fields = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            fields[name.replace("_", "-")] = environ[name]
    return fields


def _content_type(headers: Headers) -> str:
    return next((value for name, value in headers if name.lower() == "content-type"), "")


def _wrong_address() -> Refusal:
    return Refusal(403, "address-refused", "Calls from this address are not taken here.")


def _cors_headers(cors: Cors, environ: Environ, allowed: str) -> Headers:
    """Return the Fetch standard's response headers for an origin that may call."""
    headers: Headers = [("Vary", "Origin")]
    origin = environ.get("HTTP_ORIGIN")
    if origin is None or not ("*" in cors.origins or origin in cors.origins):
        return headers
    headers.append(("Access-Control-Allow-Origin", "*" if "*" in cors.origins else origin))
    if cors.credentials:
        headers.append(("Access-Control-Allow-Credentials", "true"))
    if environ["REQUEST_METHOD"] == "OPTIONS":
        methods = [name for name in allowed.split(", ") if not cors.methods or name in cors.methods]
        headers += [
            ("Access-Control-Allow-Methods", ", ".join(methods)),
            ("Access-Control-Allow-Headers", ", ".join(sorted(cors.headers))),
            ("Access-Control-Max-Age", str(cors.max_age)),
        ]
    elif cors.expose:
        headers.append(("Access-Control-Expose-Headers", ", ".join(sorted(cors.expose))))
    return headers
