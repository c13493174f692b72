"""Every problem type that Penstock itself sends, in the order in which a call is checked.

A problem's `type` is a relative name, the same in every environment and behind every proxy. The
page `reference/problems` is written from these tables, with one heading for each type, so that its
anchor can be linked.
"""

from __future__ import annotations

from typing import NamedTuple


class ProblemType(NamedTuple):
    """A problem type: its HTTP statuses, its name, when it is sent, and what the caller can do."""

    statuses: tuple[int, ...]
    name: str
    when: str
    fix: str


CALL_PROBLEMS = (
    ProblemType(
        (404,),
        "not-found",
        "No pipeline has this path, or the pipeline is not on this listener."
        " A path with `%2F` names nothing: an escaped slash is no separator.",
        "Check the URL. `penstock pipelines` lists the URLs and listeners.",
    ),
    ProblemType(
        (405,),
        "method-not-allowed",
        "The path exists, and this method does not.",
        "Use a method that the header `Allow` names.",
    ),
    ProblemType(
        (503,),
        "pipeline-unavailable",
        "The pipeline is blocked or disabled, this process's view of access is too old, or calls"
        " can't be counted. The answer does not say which, because the caller may be anyone.",
        "Operators: `penstock check` and `penstock pipelines` report the reason and the fix.",
    ),
    ProblemType(
        (403,),
        "address-not-allowed",
        "The pipeline or its consumer does not allow calls from this address.",
        "Call from an allowed network. Operators: `penstock address list`.",
    ),
    ProblemType(
        (401,),
        "credentials-missing",
        "The pipeline requires a credential, and the call has none. `detail` names it.",
        "Send the credential: an API key in `X-API-Key`, a token as `Authorization: Bearer`.",
    ),
    ProblemType(
        (401,),
        "invalid-api-key",
        "The API key is unknown, malformed, expired, revoked, disabled, of another environment, or"
        " sent twice with different values.",
        "Send a valid key of this environment. Operators: `penstock key list`.",
    ),
    ProblemType(
        (401,),
        "invalid-token",
        "The token is malformed, expired, revoked or badly signed, has a wrong issuer or audience,"
        " or belongs to another consumer than the API key.",
        "Get a new token, and send it with an API key of the same consumer.",
    ),
    ProblemType(
        (401,),
        "unsupported-scheme",
        "No authenticator checks the scheme of the `Authorization` header.",
        "Remove the header, or use a scheme that the pipeline accepts.",
    ),
    ProblemType(
        (401,),
        "invalid-login",
        "The user or the password of HTTP Basic is wrong.",
        "Send the right user and password. Operators: `penstock credential list`.",
    ),
    ProblemType(
        (401,),
        "invalid-signature",
        "The body is not signed by an associated consumer, was signed too long ago, or is a copy"
        " of a call that counted.",
        "Sign the body as it is sent, with the current time and secret.",
    ),
    ProblemType(
        (401,),
        "invalid-certificate",
        "The client certificate belongs to no consumer, or has expired.",
        "Use an enrolled certificate. Operators: `penstock credential list`.",
    ),
    ProblemType(
        (403,),
        "not-associated",
        "The consumer is disabled, or is not associated with this pipeline in this environment.",
        "Operators: `penstock consumer show`, then `penstock consumer associate`.",
    ),
    ProblemType(
        (403,),
        "insufficient-scope",
        "The token lacks a scope that the pipeline requires.",
        "Request a token with the scopes that `WWW-Authenticate` names.",
    ),
    ProblemType(
        (429,),
        "rate-limited",
        "A rate of the pipeline or a limit of the consumer is used up, or the address sent too many"
        " bad credentials. In that case no password is checked, not even the right one.",
        "Wait as long as `Retry-After` says. `RateLimit` shows what is left.",
    ),
    ProblemType(
        (503,),
        "pipeline-busy",
        "The pipeline has as many calls in progress, or durable runs waiting, as it may. Or too"
        " many credentials of one address are being checked.",
        "Try again after `Retry-After`.",
    ),
    ProblemType(
        (413,),
        "body-too-large",
        "The body is larger than `max_body`, also once inflated, or a form has more than 1,000"
        " fields, or more than 1 MiB outside of its files.",
        "Send less, or raise `max_body` of the trigger.",
    ),
    ProblemType(
        (415,),
        "unsupported-media-type",
        "The pipeline does not accept this media type, charset or compression.",
        "Send a `Content-Type` that `detail` names.",
    ),
    ProblemType(
        (400,),
        "body-malformed",
        "The body is empty or can't be parsed. `detail` says why and where.",
        "Correct the body.",
    ),
    ProblemType(
        (422,),
        "parameters-invalid",
        "The query or a header does not match its type.",
        "Correct the parameters that `errors` lists.",
    ),
    ProblemType(
        (422,),
        "body-invalid",
        "The body does not match its type.",
        "Correct the places that `errors` lists by JSON Pointer, a hundred at most.",
    ),
    ProblemType(
        (400,),
        "idempotency-key-invalid",
        "The `Idempotency-Key` is empty, too long or not visible ASCII.",
        "Send 1 to 255 visible ASCII characters.",
    ),
    ProblemType(
        (409,),
        "idempotency-key-in-use",
        "The first call with this `Idempotency-Key` is still running.",
        "Repeat the call after `Retry-After`.",
    ),
    ProblemType(
        (422,),
        "idempotency-key-reused",
        "This `Idempotency-Key` came with another request before.",
        "Use a new key for a new request.",
    ),
    ProblemType(
        (504,),
        "timed-out",
        "The handler, or the body on its way, took longer than the trigger's `timeout`.",
        "Repeat the call only if that is safe, or with the same `Idempotency-Key`.",
    ),
    ProblemType(
        (503,),
        "host-stopping",
        "The host stopped, and the call had not ended within `PENSTOCK_GRACEFUL_TIMEOUT`. `detail`"
        " says whether the call may have been performed. The connection ends.",
        "Repeat the call, with the same `Idempotency-Key` where it may have been performed.",
    ),
    ProblemType(
        (500,),
        "pipeline-failed",
        "The handler raised an exception. A `PipelineError` has a status and a type of its own.",
        "Operators: `penstock runs show RUN`, with the `run` of the problem.",
    ),
    ProblemType(
        (500,),
        "internal",
        "Penstock itself failed.",
        "Operators: the log has the traceback under the run's id.",
    ),
    ProblemType(
        (400, 408, 414, 417, 431, 501),
        "request-rejected",
        "The bytes are no request that the server can read (RFC 9112). There is no `run`, and the"
        " connection ends.",
        "Correct the request line and the headers.",
    ),
)

RUN_PROBLEMS = (
    ProblemType(
        (409,),
        "cancelled",
        "The run's consumer or an operator cancelled the run.",
        "Start a new run.",
    ),
    ProblemType(
        (504,),
        "timed-out",
        "The run took longer than `Durable.timeout`.",
        "Raise the timeout, or let the run do less.",
    ),
    ProblemType(
        (500,),
        "given-up",
        "The run was recovered from more than `Durable.recoveries` dead workers, and completed no"
        " step in between. The run may be what ends them.",
        "Fix the handler, then `penstock runs redeliver ID`.",
    ),
    ProblemType(
        (500,),
        "not-kept",
        "The engine failed repeatedly to continue the run.",
        "Operators: the log has the reason. Then `penstock runs redeliver ID`.",
    ),
    ProblemType(
        (500,),
        "pipeline-changed",
        "The pipeline changed while the run was in progress, and has other steps now.",
        "`penstock runs redeliver ID` starts the run again from the beginning.",
    ),
    ProblemType(
        (500,),
        "not-begun",
        "The run could not be started.",
        "Operators: the log has the reason. Then `penstock runs redeliver ID`.",
    ),
)
