"""What each feature costs a call, in microseconds: the same call with the feature off and on, alternately, in one process."""

from __future__ import annotations

import base64
import gzip
import io
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hmac import digest
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from penstock import Call, Cors, Form, Header, HttpTrigger, Pipeline, Rate, hookimpl
from penstock.testing import CallerClient, Runtime

ROUNDS = 7
CALLS = 400
SECRET = "a secret that signs what is sent"
BODY = b'{"reference": "PO-1", "lines": [{"sku": "PEN-01", "quantity": 3}]}'
LARGE = {"rows": [{"sku": f"PEN-{number}", "quantity": number} for number in range(60)]}


def echo(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return body


def with_parameters(call: Call, body: dict[str, Any], *, limit: int = 5, trace: Annotated[str, Header("X-Trace")] = "") -> dict[str, Any]:
    return body


def from_form(call: Call, body: Annotated[dict[str, str], Form()]) -> dict[str, str]:
    return body


def large(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return LARGE


@dataclass
class Feature:
    """One row: how the pipeline is declared and called, each with the feature on; `off` names the row it is compared with."""

    name: str
    trigger: dict[str, Any] = field(default_factory=dict)
    handler: Callable[..., object] = echo
    headers: Callable[[int], dict[str, str]] = lambda _: {}
    body: bytes = BODY
    query: str = ""
    off: str = "key"
    micros: list[float] = field(default_factory=list)

    @property
    def pipeline(self) -> str:
        return self.name.replace(" ", "-")


def signed(_: int) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + digest(SECRET.encode(), BODY, "sha256").hex()}


def basic(_: int) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"erp:{SECRET}".encode()).decode()}


FEATURES = [
    Feature("open", trigger={"api_key": False}, off="open"),
    Feature("key", off="open"),
    Feature("rate in memory", {"rate": Rate("1000000/second")}),
    Feature("calls in flight", {"in_flight": 10}),
    Feature("networks", {"allow": ["127.0.0.0/8", "192.0.2.0/24"], "deny": ["198.51.100.0/24"]}),
    Feature("cors", {"cors": Cors("https://shop.example")}, headers=lambda _: {"Origin": "https://shop.example"}),
    Feature("typed parameters", handler=with_parameters, query="limit=7", headers=lambda _: {"X-Trace": "abc"}),
    Feature("form", handler=from_form, body=b"reference=PO-1&sku=PEN-01", headers=lambda _: {"Content-Type": "application/x-www-form-urlencoded"}),
    Feature("gzip in", body=gzip.compress(BODY), headers=lambda _: {"Content-Encoding": "gzip"}),
    Feature("large reply", handler=large),
    Feature("gzip out", handler=large, headers=lambda _: {"Accept-Encoding": "gzip"}, off="large reply"),
    Feature("idempotent unused", {"idempotent": "key"}),
    Feature("idempotent first", {"idempotent": "key"}, headers=lambda number: {"Idempotency-Key": f"k{number}"}),
    Feature("idempotent repeat", {"idempotent": "key"}, headers=lambda _: {"Idempotency-Key": "again"}),
    Feature("basic", {"api_key": False, "basic": True}, headers=basic, off="open"),
    Feature("github signature", {"api_key": False, "signature": "github"}, headers=signed, off="open"),
]


def calls(client: CallerClient, feature: Feature, connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Yield the environ of one call after the other, as a server would hand it over."""
    usual = client.headers if feature.trigger.get("api_key", True) else {}
    number = time.monotonic_ns()
    while True:
        number += 1
        sent = {**usual, "Content-Type": "application/json", "Content-Length": str(len(feature.body)), **feature.headers(number)}
        named = {name.upper().replace("-", "_"): value for name, value in sent.items()}
        plain = {name: named.pop(name) for name in ("CONTENT_TYPE", "CONTENT_LENGTH")}
        yield {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": f"/v1/{feature.pipeline}/",
            "QUERY_STRING": feature.query,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
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
        pipeline = Pipeline(feature.pipeline, version="1.0.0", trigger=HttpTrigger(**{"api_key": True, **feature.trigger}))
        pipeline.post("/")(feature.handler)
        pipelines.append(pipeline)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return pipelines

    return SimpleNamespace(__name__="bench", penstock_pipelines=penstock_pipelines)


def main() -> None:
    """Measure and print the table."""
    here, there = socket.socketpair()
    with tempfile.TemporaryDirectory() as folder, here, there:
        settings = {"log_calls": "none", "log_level": "error", "trusted_proxies": (ip_network("10.0.0.0/8"),)}
        with Runtime(Path(folder), offering(), policy="any", **settings) as runtime:
            client = runtime.client("acme", token=False)
            runtime.operate("credential", "add", "basic", "acme", "--env", "test", "--name", "erp", given=SECRET)
            runtime.operate("credential", "add", "github_signature", "acme", "--env", "test", "--name", "hooks", given=SECRET)
            sources = {feature.name: calls(client, feature, here) for feature in FEATURES}
            for round_ in range(ROUNDS + 1):
                for feature in FEATURES:
                    made = [next(sources[feature.name]) for _ in range(CALLS)]
                    began = time.perf_counter()
                    for environ in made:
                        runtime.application(environ, refuse_failures)
                    if round_:  # the first one warms up
                        feature.micros.append((time.perf_counter() - began) / CALLS * 1e6)
    median = {feature.name: statistics.median(feature.micros) for feature in FEATURES}
    print(f"\n{ROUNDS} rounds of {CALLS} calls each, alternately, in one process without a server\n")  # noqa: T201  the result
    print(f"{'':24}{'µs a call':>10}{'more than':>20}{'µs':>8}")  # noqa: T201
    for feature in FEATURES:
        print(f"{feature.name:24}{median[feature.name]:10.1f}{feature.off:>20}{median[feature.name] - median[feature.off]:8.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
