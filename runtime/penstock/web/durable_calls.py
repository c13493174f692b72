"""Accept a call whose run is durable.

It is checked as it stands, held in one transaction, and answered 202 with where to look.
"""

from __future__ import annotations

from functools import partial

from penstock import clock
from penstock.contracts.call import Call
from penstock.contracts.forms import Upload
from penstock.db.engine import Connection, DatabaseUnavailable
from penstock.durable.callbacks import target_of
from penstock.durable.intake import RunIntake, RunRequest
from penstock.durable.run_endpoints import RunStatusApi
from penstock.durable.runner import RunInput, lasting
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.replies import Answer, answer
from penstock.errors import MAYBE_ACCEPTED, Refusal
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
    passage: Exchange,
    endpoint: Endpoint,
    call: Call,
    whose: tuple[str, ...] | None,
) -> Answer:
    """Accept a run and return its answer.

    `whose` names the Idempotency-Key that came with the call. Raises Refusal.
    """
    if services.run_intake is None or services.run_status_api is None:
        raise unavailable()
    accepting, asking = services.run_intake, services.run_status_api
    endpoint.read(call)  # what does not fit is told now, not to nobody later
    wanted = RunRequest(
        call.run,
        _given(passage, endpoint, call),
        endpoint.pipeline,
        endpoint.route,
        callback_url=_callback(view, call),
        request_id=passage.request_id,
    )
    hold = partial(_hold, passage, accepting, wanted)
    try:
        if whose is None:
            accepting.accept(wanted)
            accepted = _told(wanted)
        else:
            accepted = services.idempotency.accept(
                whose,
                fingerprint(call, form=endpoint.body is not None and endpoint.body.form),
                hold,
            )
    except DatabaseUnavailable as error:
        raise Refusal(
            503,
            "pipeline-unavailable",
            f"The database did not answer. {MAYBE_ACCEPTED}",
            headers=[("Retry-After", "1")],
        ) from error
    return _after_waiting(asking, call, accepted)


def _hold(
    passage: Exchange, accepting: RunIntake, wanted: RunRequest, connection: Connection
) -> Answer:
    if passage.repeats:  # no run is stored: the first call has not ended
        raise still_running()
    accepting.accept_in(connection, wanted)
    return _told(wanted)


def _told(wanted: RunRequest) -> Answer:
    """Return the answer to a call that was accepted."""
    _, headers, body = answer(
        {"id": wanted.run, "status": ACCEPTED, "pipeline": wanted.pipeline.id}
    )
    location = f"{wanted.pipeline.url}/runs/{wanted.run}"
    return (
        202,
        [*headers, ("Location", location), ("Retry-After", "1"), ("Cache-Control", "no-store")],
        body,
    )


def _after_waiting(asking: RunStatusApi, call: Call, accepted: Answer) -> Answer:
    """Return the run once it is over, where the caller would wait for that (RFC 7240).

    Else return it as it was accepted.
    """
    location = next(item for item in accepted[1] if item[0] == "Location")
    try:
        waited = asking.wait(call, location[1].rpartition("/")[2])
    except Refusal as error:
        if error.code != "not-found":
            raise
        waited = None  # the Idempotency-Key is remembered longer than its run
    if waited is None:
        return accepted
    _, headers, body = answer(waited)
    return 202 if "Retry-After" in waited.headers else 200, [*headers, location], body


def _given(passage: Exchange, endpoint: Endpoint, call: Call) -> RunInput:
    caller = call.caller
    form = endpoint.body is not None and endpoint.body.form
    return RunInput(
        pipeline=endpoint.pipeline.id,
        method=endpoint.route.method,
        route=endpoint.route.path,
        path=call.path,
        environment=call.environment,
        accepted_at=clock.now(),
        params=dict(call.params),
        query_string=call.query_string,
        headers=lasting(call.headers),
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
        consumer=caller.consumer,
        consumer_id=caller.consumer_id,
        key_id=caller.key_id,
        subject=caller.subject,
        scopes=sorted(caller.scopes),
        claims=dict(caller.claims),
        traceparent=passage.environ.get("HTTP_TRACEPARENT"),
        ancestors=[endpoint.pipeline.id],
    )


def _callback(view: CurrentView, call: Call) -> str | None:
    """Return where the run's end is to be told.

    Raises Refusal (422) where no operator allowed that for the consumer.
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
