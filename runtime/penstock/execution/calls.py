"""Build the `Call` of every run, and the input of every durable one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from penstock import clock
from penstock.access.snapshot import Snapshot
from penstock.contracts.call import Call, Caller, Issue
from penstock.contracts.forms import Fields
from penstock.durable.runner import RunInput
from penstock.endpoints.endpoint import Endpoint
from penstock.runs.http_client import Client, trace_of

JSON = "application/json"
NOTHING: Mapping[str, str] = MappingProxyType({})


class CallFactory:
    """Builds the calls of one environment."""

    def __init__(self, environment: str, access: Callable[[], Snapshot | None]) -> None:
        self.environment = environment
        self._access = access

    def create(  # noqa: PLR0913  a call has that many parts
        self,
        endpoint: Endpoint,
        run: str,
        deadline: float,
        caller: Caller,
        *,
        path: str,
        method: str | None = None,
        params: Mapping[str, str] | None = None,
        query_string: str = "",
        content_type: str = "",
        traceparent: str | None = None,
        read_headers: Callable[[], Mapping[str, str]] = dict,
        read_body: Callable[[], bytes] = bytes,
        read_form: Callable[[bytes | None], Fields] = lambda _: {},
        issue: Issue | None = None,
    ) -> Call:
        """Return the call that a handler gets.

        `deadline` is a `time.monotonic()` reading. `traceparent` is that of the request (W3C Trace
        Context). The method is that of the route where none is given.
        """
        pipeline, access = endpoint.pipeline, self._access()
        return Call(
            method=method or endpoint.route.method,
            path=path,
            pipeline=pipeline.name,
            version=pipeline.version,
            environment=self.environment,
            run=run,
            deadline=deadline,
            caller=caller,
            params=params,
            query_string=query_string,
            content_type=content_type,
            read_headers=read_headers,
            read_body=read_body,
            read_form=read_form,
            variables=access.variables if access is not None else NOTHING,
            read_secrets=lambda: access.secrets_for(pipeline.id) if access is not None else {},
            read_http=lambda: Client(run, deadline, trace_of(traceparent, run)),
            issue=issue,
        )

    def of_input(self, run: str, given: RunInput, endpoint: Endpoint, deadline: float) -> Call:
        """Return the call of a durable run, from its stored input."""
        return self.create(
            endpoint,
            run,
            deadline,
            given.caller,
            path=given.path,
            method=given.method,
            params=given.params,
            query_string=given.query_string,
            content_type=given.content_type,
            traceparent=given.traceparent,
            read_headers=lambda: given.headers,
            read_body=lambda: given.body,
            read_form=lambda _: {name: list(values) for name, values in (given.form or {}).items()},
        )


def run_input(  # noqa: PLR0913  a run is given that many parts
    endpoint: Endpoint,
    environment: str,
    caller: Caller,
    *,
    path: str,
    ancestors: list[str],
    params: Mapping[str, str] = NOTHING,
    query_string: str = "",
    headers: Mapping[str, str] = NOTHING,
    content_type: str = "",
    body: bytes = b"",
    form: dict[str, list[str]] | None = None,
    traceparent: str | None = None,
) -> RunInput:
    """Return the input of a durable run that is accepted now.

    `ancestors` are the pipelines that wait for the run, itself included.
    """
    return RunInput(
        pipeline=endpoint.pipeline.id,
        method=endpoint.route.method,
        route=endpoint.route.path,
        path=path,
        environment=environment,
        accepted_at=clock.now(),
        params=dict(params),
        query_string=query_string,
        headers=dict(headers),
        content_type=content_type,
        body=body,
        form=form,
        consumer=caller.consumer,
        consumer_id=caller.consumer_id,
        key_id=caller.key_id,
        subject=caller.subject,
        scopes=sorted(caller.scopes),
        claims=dict(caller.claims),
        traceparent=traceparent,
        ancestors=ancestors,
    )
