"""What pipelines have in common in an OpenAPI document.

Problems, runs, and the parameters that the runtime takes.
"""

from __future__ import annotations

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.run_status import UNFINISHED, Status
from penstock.durable.callbacks import EVENTS
from penstock.web.durable_calls import CALLBACK
from penstock.web.openapi.dialect import Document
from penstock.web.openapi.schemas import REFERENCE

PROBLEM: Document = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {
            "type": "string",
            "description": (
                "What went wrong, a name to compare as it stands: the same at every address, so it"
                " is relative and leads to no page"
            ),
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "run": {"type": "string", "description": "The run's id"},
        "errors": {
            "type": "array",
            "description": (
                "Every fault: of the body by its JSON Pointer, of the query and the headers by the"
                " parameter"
            ),
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "format": "json-pointer"},
                    "parameter": {"type": "string"},
                    "in": {"type": "string", "enum": ["query", "header"]},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
IDEMPOTENCY_KEY: Document = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "Makes the call safe to repeat: a repeat with the same key gets the first call's reply, for"
        " 24 hours. 1 to 255 visible ASCII characters without double quotes, bare or within double"
        " quotes."
    ),
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": 257,
        "pattern": r"^(?:[!#-~]{1,255}|\x22[!#-~]{1,255}\x22)$",
    },
}
RUN: Document = {
    "type": "object",
    "description": "A durable run",
    "required": ["id", "status", "pipeline"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "status": {"type": "string", "enum": [status.value for status in Status]},
        "pipeline": {"type": "string"},
        "accepted_at": {"type": "string", "format": "date-time"},
        "started_at": {"type": "string", "format": "date-time"},
        "ended_at": {"type": "string", "format": "date-time"},
        "progress": {
            "type": "object",
            "description": "How far it is, as the pipeline says",
            "properties": {
                "done": {"type": "number"},
                "of": {"type": ["number", "null"]},
                "note": {"type": "string"},
            },
        },
        "result": {"description": "What the pipeline replied, once the run is over"},
        "content_type": {
            "type": "string",
            "description": "The media type of a result that is no JSON",
        },
        "encoding": {
            "type": "string",
            "const": "base64",
            "description": "How a result that is no text is written",
        },
        "problem": {"$ref": REFERENCE.format(name="Problem"), "description": "Why it failed"},
        "url": {
            "type": "string",
            "format": "uri-reference",
            "description": "Where the run is; in callbacks alone",
        },
    },
}
PREFER: Document = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=10` waits at most so many seconds for the end of the run (RFC 7240).",
    "schema": {"type": "string"},
}
CALLBACK_URL: Document = {
    "name": CALLBACK,
    "in": "query",
    "required": False,
    "description": (
        "Where to tell the end of the run, signed as the Standard Webhooks specification says; an"
        " operator allows the targets."
    ),
    "schema": {"type": "string", "format": "uri"},
}
# Of the Standard Webhooks specification.
WEBHOOK_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
AGAIN: Document = {
    "Retry-After": {
        "description": "Seconds after which to look again",
        "schema": {"type": "integer"},
    }
}
LOCATION: Document = {
    "Location": {
        "description": "Where the run is",
        "schema": {"type": "string", "format": "uri-reference"},
    }
}
PROBLEMS = {
    "400": "The body or the Idempotency-Key can't be understood",
    "401": "A credential is missing or no good",
    "403": (
        "The consumer is not associated with this pipeline, the token lacks a scope, or the address"
        " may not call"
    ),
    "404": "There is nothing at this path",
    "409": "The first call with this Idempotency-Key is still running",
    "413": "The body is too large",
    "415": "The body has the wrong media type",
    "422": "The parameters or the body do not fit",
    "429": "Too many calls",
    "500": "The pipeline failed",
    "503": "The pipeline is not available",
    "504": "The pipeline took too long",
    "default": "A problem of the pipeline's own",
}


def deprecation(pipeline: Pipeline) -> tuple[str, Document]:
    """Return the description of a deprecated pipeline, and its headers (RFC 9745, RFC 8594)."""
    sentences, headers = [], {}
    if pipeline.deprecated:
        sentences.append(
            "Deprecated"
            f"{'' if pipeline.deprecated is True else f' since {pipeline.deprecated.isoformat()}'}."
        )
        headers["Deprecation"] = {
            "description": "The moment of deprecation, as `@` and seconds since 1970",
            "schema": {"type": "string"},
        }
    if pipeline.sunset is not None:
        sentences.append(f"Expected to end on {pipeline.sunset.isoformat()}.")
        headers["Sunset"] = {
            "description": "When this is expected to end, as an HTTP date",
            "schema": {"type": "string"},
        }
    return " ".join(sentences), headers


def callback_of(run: Document, operation: str) -> Document:
    """Return the callback at the end of a run: its schema, and the URL sent with the call."""
    event = {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {
                "type": "string",
                "enum": [f"{EVENTS}.{status}" for status in Status if status not in UNFINISHED],
            },
            "timestamp": {
                "type": "string",
                "format": "date-time",
                "description": "When the run ended",
            },
            "data": run,
        },
    }
    header = {
        name: {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
        for name in WEBHOOK_HEADERS
    }
    callback = {
        "operationId": f"{operation}-ended",
        "summary": "Report the end of the run",
        "security": [],  # the receiver checks the signature and needs no credential
        "parameters": list(header.values()),
        "requestBody": {"required": True, "content": {"application/json": {"schema": event}}},
        "responses": {
            "2XX": {"description": "Delivered"},
            "410": {"description": "Not delivered, and not attempted again"},
            "default": {"description": "Not delivered; another attempt follows"},
        },
    }
    return {"ended": {f"{{$request.query.{CALLBACK}}}": {"post": callback}}}
