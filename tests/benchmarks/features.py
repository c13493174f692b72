"""What each feature costs a call, in microseconds: the same call with the feature off and on,
alternately, in one process."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from hmac import digest
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from xml.etree.ElementTree import Element

import jwt
import pydantic
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from jwt.algorithms import ECAlgorithm
from support.services import Redis

from penstock import Call, Cors, Form, Header, HttpTrigger, Pipeline, Rate, hookimpl, secret, step
from penstock.testing import CallerClient, Runtime
from penstock_jwt.issuing import Issuer

ROUNDS = 7
CALLS = 400
SECRET = "a secret that signs what is sent"
BODY = b'{"reference": "PO-1", "lines": [{"sku": "PEN-01", "quantity": 3}]}'
LARGE = {"rows": [{"sku": f"PEN-{number}", "quantity": number} for number in range(60)]}


def echo(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return body


def with_parameters(
    call: Call,
    body: dict[str, Any],
    *,
    limit: int = 5,
    trace: Annotated[str, Header("X-Trace")] = "",
) -> dict[str, Any]:
    return body


def from_form(call: Call, body: Annotated[dict[str, str], Form()]) -> dict[str, str]:
    return body


def large(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return LARGE


def with_needs(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return body | {
        "url": call.variables["erp_url"],
        "signed": bool(call.secrets["erp_token"].reveal()),
    }


def from_xml(call: Call, body: Element) -> dict[str, str | None]:
    return {"reference": body.findtext("reference")}


class Line(pydantic.BaseModel):
    sku: str
    quantity: int


class Order(pydantic.BaseModel):
    reference: str
    lines: list[Line]


def with_pydantic(call: Call, body: Order) -> Order:
    return body


@step()
def noted(body: dict[str, Any]) -> dict[str, Any]:
    return body


@step(timeout=5)
def timed(body: dict[str, Any]) -> dict[str, Any]:
    return body


def with_step(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return noted(body)


def with_timed_step(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return timed(body)


def with_ten_steps(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    for _ in range(10):
        body = noted(body)
    return body


Headers = Callable[[Runtime, int], dict[str, str]]


def always(headers: dict[str, str]) -> Headers:
    """Send the same with each call."""
    return lambda _, __: headers


NOTHING = always({})


def bearer(sent: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sent}"}


def token(runtime: Runtime, number: int) -> str:
    """Make a token as a login flow would."""
    wanted: dict[str, Any] = {
        "scopes": frozenset({"echo"}),
        "lifetime": None,
        "claims": {"number": number},
        "now": time.time(),
    }
    return Issuer("penstock").issue(runtime.access, "acme", subject="ann", **wanted).access_token


def outside_token(number: int) -> str:
    """Make a token as an identity provider would."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": "penstock",
        "sub": "ann",
        "client_id": "acme",
        "iat": now,
        "exp": now + 3600,
        "scope": "echo",
        "jti": str(number),
    }
    return jwt.encode(claims, OUTSIDE, algorithm="ES256", headers={"kid": "outside"})


ISSUER = "https://id.example"
OUTSIDE = ec.generate_private_key(ec.SECP256R1())
TOKEN: dict[str, Any] = {"jwt": True, "scopes": {"echo"}}
XML = b"<order><reference>PO-1</reference><line><sku>PEN-01</sku></line></order>"


def certificate() -> bytes:
    """Make a client certificate, in DER."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "erp")])
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    made = x509.CertificateBuilder(
        name, name, OUTSIDE.public_key(), x509.random_serial_number(), now - hour, now + hour
    )
    return made.sign(OUTSIDE, SHA256()).public_bytes(Encoding.DER)


CERTIFICATE = certificate()
BASIC = base64.b64encode(f"erp:{SECRET}".encode()).decode()
SIGNED = "sha256=" + digest(SECRET.encode(), BODY, "sha256").hex()


@dataclass
class Feature:
    """One row: how the pipeline is declared and called, each with the feature on; `off` names the
    row it is compared with.

    `place` names the runtime it is in, whose operator set something for all calls; `address` is
    where calls come from.
    """

    name: str
    trigger: dict[str, Any] = field(default_factory=dict)
    handler: Callable[..., object] = echo
    headers: Headers = NOTHING
    body: bytes = BODY
    query: str = ""
    off: str = "key"
    place: str = "plain"
    address: str = "127.0.0.1"
    declared: dict[str, Any] = field(default_factory=dict)
    micros: list[float] = field(default_factory=list)

    @property
    def pipeline(self) -> str:
        return self.name.replace(" ", "-")


FEATURES = [
    Feature("open", {"api_key": False}, off="open"),
    Feature("key", off="open"),
    Feature("key without a record", place="unrecorded", off="key without a record"),
    Feature("record", off="key without a record"),
    Feature("record with bodies", declared={"record_bodies": "all"}, off="record"),
    Feature(
        "sensitive fields",
        declared={"record_bodies": "all", "sensitive": {"reference"}},
        off="record with bodies",
    ),
    Feature("one step", handler=with_step),
    Feature("ten steps", handler=with_ten_steps),
    Feature("one step with a timeout", handler=with_timed_step),
    Feature("token", TOKEN, headers=lambda runtime, _: bearer(kept_token(runtime))),
    Feature(
        "token seen first",
        TOKEN,
        headers=lambda runtime, number: bearer(token(runtime, number)),
        off="token",
    ),
    Feature("outside token", TOKEN, headers=always(bearer(outside_token(0)))),
    Feature(
        "outside token seen first",
        TOKEN,
        headers=lambda _, number: bearer(outside_token(number)),
        off="outside token",
    ),
    Feature(
        "basic",
        {"api_key": False, "basic": True},
        headers=always({"Authorization": f"Basic {BASIC}"}),
        off="open",
    ),
    Feature(
        "github signature",
        {"api_key": False, "signature": "github"},
        headers=always({"X-Hub-Signature-256": SIGNED}),
        off="open",
    ),
    Feature(
        "mtls",
        {"api_key": False, "mtls": True},
        headers=always({"Client-Cert": f":{base64.b64encode(CERTIFICATE).decode()}:"}),
        off="open",
        address="10.0.0.1",
    ),
    Feature("rate in memory", {"rate": Rate("1000000/second")}),
    Feature("rate in redis", {"rate": Rate("1000000/second")}, place="redis"),
    Feature("consumer limit", place="limits"),
    Feature("consumer networks", place="networks"),
    Feature("calls in flight", {"in_flight": 10}),
    Feature("networks", {"allow": ["127.0.0.0/8", "192.0.2.0/24"], "deny": ["198.51.100.0/24"]}),
    Feature(
        "cors",
        {"cors": Cors("https://shop.example")},
        headers=always({"Origin": "https://shop.example"}),
    ),
    Feature("header policy", headers=always({"Origin": "https://shop.example"}), place="headers"),
    Feature("deprecated", declared={"deprecated": date(2026, 1, 31), "sunset": date(2027, 1, 31)}),
    Feature(
        "variables and secrets",
        handler=with_needs,
        declared={"needs": {"erp_url", secret("erp_token")}},
    ),
    Feature(
        "typed parameters",
        handler=with_parameters,
        query="limit=7",
        headers=always({"X-Trace": "abc"}),
    ),
    Feature(
        "form",
        handler=from_form,
        body=b"reference=PO-1&sku=PEN-01",
        headers=always({"Content-Type": "application/x-www-form-urlencoded"}),
    ),
    Feature("xml", handler=from_xml, body=XML, headers=always({"Content-Type": "application/xml"})),
    Feature("pydantic", handler=with_pydantic),
    Feature("gzip in", body=gzip.compress(BODY), headers=always({"Content-Encoding": "gzip"})),
    Feature("large reply", handler=large),
    Feature(
        "gzip out", handler=large, headers=always({"Accept-Encoding": "gzip"}), off="large reply"
    ),
    Feature("idempotent unused", {"idempotent": "key"}),
    Feature(
        "idempotent first",
        {"idempotent": "key"},
        headers=lambda _, number: {"Idempotency-Key": f"k{number}"},
    ),
    Feature(
        "idempotent repeat", {"idempotent": "key"}, headers=always({"Idempotency-Key": "again"})
    ),
]


@functools.cache
def kept_token(runtime: Runtime) -> str:
    return token(runtime, 0)


def calls(
    runtime: Runtime, client: CallerClient, feature: Feature, connection: socket.socket
) -> Iterator[dict[str, Any]]:
    """Yield the environ of one call after the other, as a server would hand it over."""
    usual = client.headers if feature.trigger.get("api_key", True) else {}
    number = time.monotonic_ns()
    while True:
        number += 1
        sent = {
            **usual,
            "Content-Type": "application/json",
            "Content-Length": str(len(feature.body)),
            **feature.headers(runtime, number),
        }
        named = {name.upper().replace("-", "_"): value for name, value in sent.items()}
        plain = {name: named.pop(name) for name in ("CONTENT_TYPE", "CONTENT_LENGTH")}
        yield {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": f"/v1/{feature.pipeline}/",
            "QUERY_STRING": feature.query,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": feature.address,
            "wsgi.input": io.BytesIO(feature.body),
            "gunicorn.socket": connection,
            **plain,
            **{f"HTTP_{name}": value for name, value in named.items()},
        }


def refuse_failures(status: str, headers: list[tuple[str, str]]) -> None:
    if not status.startswith("200"):
        raise SystemExit(f"bench: a call was answered {status}: {headers}")


def offering() -> SimpleNamespace:
    pipelines = []
    for feature in FEATURES:
        pipeline = Pipeline(
            feature.pipeline,
            version="1.0.0",
            trigger=HttpTrigger(**{"api_key": True, **feature.trigger}),
            **feature.declared,
        )
        pipeline.post("/")(feature.handler)
        pipelines.append(pipeline)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return pipelines

    return SimpleNamespace(__name__="bench", penstock_pipelines=penstock_pipelines)


OPERATED: dict[str, tuple[tuple[str, ...], ...]] = {
    "plain": (),
    "redis": (),
    "unrecorded": (),
    "limits": (("limit", "set", "acme", "1000000/second", "--env", "test"),),
    "networks": (("address", "allow", "acme", "127.0.0.0/8", "192.0.2.0/24", "--env", "test"),),
    "headers": (
        (
            "variable",
            "set",
            "penstock_response_headers",
            '{"X-Frame-Options": "DENY"}',
            "--env",
            "test",
        ),
        (
            "variable",
            "set",
            "penstock_cors",
            '{"origins": ["https://shop.example"]}',
            "--env",
            "test",
        ),
    ),
}


def start(folder: Path, place: str, **settings: Any) -> tuple[Runtime, CallerClient]:
    """Start a runtime as one of the places; return it, and a client with a key."""
    usual = {
        "log_calls": "none",
        "log_level": "error",
        "trusted_proxies": (ip_network("10.0.0.0/8"),),
        "client_cert_header": "Client-Cert",
    }
    runtime = Runtime(folder, offering(), policy="any", **usual, **settings)
    client = runtime.client("acme", token=False)
    keys = folder / "keys.json"
    keys.write_text(
        json.dumps(
            {
                "keys": [
                    ECAlgorithm(ECAlgorithm.SHA256).to_jwk(OUTSIDE.public_key(), as_dict=True)
                    | {"kid": "outside"}
                ]
            }
        )
    )
    runtime.operate(
        "credential", "add", "basic", "acme", "--env", "test", "--name", "erp", given=SECRET
    )
    runtime.operate(
        "credential",
        "add",
        "github_signature",
        "acme",
        "--env",
        "test",
        "--name",
        "hooks",
        given=SECRET,
    )
    runtime.operate(
        "credential",
        "add",
        "mtls",
        "acme",
        "--env",
        "test",
        "--name",
        f"sha256:{sha256(CERTIFICATE).hexdigest()}",
    )
    runtime.operate(
        "issuer",
        "trust",
        ISSUER,
        "--env",
        "test",
        "--audience",
        "penstock",
        "--jwks-file",
        str(keys),
    )
    runtime.operate("variable", "set", "erp_url", "https://erp.example", "--env", "test")
    runtime.operate("secret", "set", "erp_token", "--env", "test", given=SECRET)
    for words in OPERATED[place]:
        runtime.operate(*words)
    return runtime, client


def without_records(runtime: Runtime) -> None:
    """Record no run of a runtime: no setting does that."""
    host = runtime._host  # noqa: SLF001  as its summary says
    assert host.services is not None
    recorder = copy(host.services.recorder)
    for method in ("keeps", "over", "counted"):
        setattr(recorder, method, lambda *_: None)
    host.services = replace(host.services, recorder=recorder)


def main() -> None:
    """Measure and print the table."""
    here, there = socket.socketpair()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(here)
        stack.enter_context(there)
        settings: dict[str, dict[str, Any]] = {}
        if program := shutil.which("redis-server"):
            redis = Redis(program, folder)
            redis.start()
            stack.callback(redis.stop)
            settings["redis"] = {"rate_limit_url": redis.url}
        features = [feature for feature in FEATURES if feature.place != "redis" or program]
        places = {
            place: start(folder, place, **settings.get(place, {}))
            for place in {feature.place for feature in features}
        }
        for runtime, _ in places.values():
            stack.enter_context(runtime)
        without_records(places["unrecorded"][0])
        sources = {
            feature.name: calls(*places[feature.place], feature, here) for feature in features
        }
        for round_ in range(ROUNDS + 1):
            for feature in features:
                application = places[feature.place][0].application
                made = [next(sources[feature.name]) for _ in range(CALLS)]
                began = time.perf_counter()
                for environ in made:
                    application(environ, refuse_failures)
                if round_:  # the first one warms up
                    feature.micros.append((time.perf_counter() - began) / CALLS * 1e6)
    median = {feature.name: statistics.median(feature.micros) for feature in features}
    print(  # noqa: T201  the result
        f"\n{ROUNDS} rounds of {CALLS} calls each, alternately, in one process without a server\n"
    )
    print(f"{'':26}{'µs a call':>10}{'more than':>20}{'µs':>8}")  # noqa: T201
    for feature in features:
        print(  # noqa: T201
            f"{feature.name:26}{median[feature.name]:10.1f}{feature.off:>20}"
            f"{median[feature.name] - median[feature.off]:8.1f}"
        )
    if not program:
        print("\nRedis is not installed: rates in Redis are not measured")  # noqa: T201


if __name__ == "__main__":
    main()
