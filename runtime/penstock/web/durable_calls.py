"""Accept calls whose runs are durable.

The call is validated, its run is stored in one transaction, and the reply is 202 with the URL of
the run.
"""

from __future__ import annotations

from functools import partial

from penstock.contracts.call import Call
from penstock.contracts.forms import Upload
from penstock.db.engine import Connection
from penstock.db.failures import DatabaseUnavailable
from penstock.durable.callbacks import target_of
from penstock.durable.intake import RunIntake, RunRequest
from penstock.durable.run_endpoints import RunStatusApi
from penstock.durable.runner import RunInput, stored_headers
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer, answer
from penstock.errors import MAYBE_ACCEPTED, Refusal
from penstock.execution.calls import run_input
from penstock.gate.gate import unavailable
from penstock.host.services import Services
from penstock.host.view import CurrentView
from penstock.runs.idempotency import fingerprint, still_running
from penstock.web.exchange import Exchange

CALLBACK = "callback_url"
ACCEPTED = "accepted"


def accept(
    services: Services,
    view: CurrentView,
    exchange: Exchange,
    endpoint: Endpoint,
    call: Call,
    key: tuple[str, ...] | None,
) -> Answer:
    """Accept a run and return its answer.

    `key` identifies the Idempotency-Key of the call, where it has one. Raises Refusal.
    """
    intake, status_api = services.run_intake, services.run_status_api
    if intake is None or status_api is None:
        raise unavailable()
    endpoint.read(call)  # the caller gets the faults of its input now, not with the run
    request = RunRequest(
        call.run,
        _input(exchange, endpoint, call),
        endpoint.pipeline,
        endpoint.route,
        callback_url=_callback(view, call),
        request_id=exchange.request_id,
    )
    try:
        if key is None:
            intake.accept(request)
            accepted = _accepted(request)
        else:
            accepted = services.idempotency.accept(
                key,
                fingerprint(call, form=endpoint.body is not None and endpoint.body.form),
                partial(_accept_in, exchange, intake, request),
            )
    except DatabaseUnavailable as error:
        raise Refusal(
            503,
            "pipeline-unavailable",
            f"The database did not answer. {MAYBE_ACCEPTED}",
            headers=[("Retry-After", "1")],
        ) from error
    return _after_waiting(status_api, call, accepted)


def _accept_in(
    exchange: Exchange, intake: RunIntake, request: RunRequest, connection: Connection
) -> Answer:
    if exchange.repeats:  # no run is stored: the first call has not ended
        raise still_running()
    intake.accept_in(connection, request)
    return _accepted(request)


def _accepted(request: RunRequest) -> Answer:
    """Return the answer to a call whose run was accepted."""
    _, headers, body = answer(
        {"id": request.run, "status": ACCEPTED, "pipeline": request.pipeline.id}
    )
    location = f"{request.pipeline.url}/runs/{request.run}"
    return (
        202,
        [*headers, ("Location", location), ("Retry-After", "1"), ("Cache-Control", "no-store")],
        body,
    )


def _after_waiting(status_api: RunStatusApi, call: Call, accepted: Answer) -> Answer:
    """Return the finished run where the caller asked to wait (RFC 7240), else `accepted`."""
    location = next(header for header in accepted[1] if header[0] == "Location")
    try:
        waited = status_api.wait(call, location[1].rpartition("/")[2])
    except Refusal as error:
        if error.code != "not-found":
            raise
        waited = None  # the Idempotency-Key is remembered longer than its run
    if waited is None:
        return accepted
    _, headers, body = answer(waited)
    return 202 if "Retry-After" in waited.headers else 200, [*headers, location], body


def _input(exchange: Exchange, endpoint: Endpoint, call: Call) -> RunInput:
    form = endpoint.body is not None and endpoint.body.form
    return run_input(
        endpoint,
        call.environment,
        call.caller,
        path=call.path,
        params=call.params,
        query_string=call.query_string,
        headers=stored_headers(call.headers),
        content_type=call.content_type,
        body=b"" if form else call.body,
        form=(
            {
                name: [value for value in values if not isinstance(value, Upload)]
                for name, values in call.form.items()
            }
            if form
            else None
        ),
        traceparent=exchange.environ.get("HTTP_TRACEPARENT"),
        ancestors=[endpoint.pipeline.id],
    )


def _callback(view: CurrentView, call: Call) -> str | None:
    """Return the URL that gets the result of the run.

    Raises Refusal (422) where no operator allowed the URL for the consumer.
    """
    urls = call.query.get(CALLBACK, [])
    if not urls:
        return None
    targets = (
        view.access.callbacks.get(call.caller.consumer_id or 0, ())
        if view.access is not None
        else ()
    )
    if len(urls) > 1 or target_of(urls[0], targets) is None:
        fault = {
            "parameter": CALLBACK,
            "in": "query",
            "detail": "Given more than once" if len(urls) > 1 else "Not allowed for this consumer",
        }
        raise Refusal(
            422,
            "parameters-invalid",
            "The parameters do not fit: 1 fault.",
            extra={"errors": [fault]},
        )
    return urls[0]
