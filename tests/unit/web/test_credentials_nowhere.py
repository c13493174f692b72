"""A credential that a call brings, wherever it stands in it, is in no record, page, command,
reply or line of the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.console import ConsoleClient, console_runtime, engine_of

from penstock import Call, HttpTrigger, Pipeline, PipelineError, hookimpl, step
from penstock.db import rejected_calls
from penstock.db.engine import reading
from penstock.db.rejected_calls import RejectedFilter
from penstock.testing import Runtime

__all__ = ["console_runtime"]

KEY = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4iLCJleHAiOjF9.c2lnbmF0dXJl"
PART = {KEY: "AbCdEfGhIjKl", TOKEN: "eyJzdWIiOiJhbm4"}


@step()
def fail(text: str) -> None:
    raise RuntimeError(f"upstream says {text}")


def offering() -> SimpleNamespace:
    pipeline = Pipeline(
        "shop", version="1.0.0", trigger=HttpTrigger(api_key=True), record_bodies="all"
    )

    @pipeline.post("/{token}")
    @pipeline.post("/by/{name}")
    def take(call: Call, token: str = "", name: str = "") -> None:
        raise PipelineError(
            409, "No", f"Not for {token}{name}, {call.headers.get('x-trace')}", hint=token
        )

    @pipeline.put("/")
    def put(call: Call) -> None:
        fail(call.headers["x-trace"])

    @pipeline.patch("/")
    def patch(call: Call) -> None:
        raise ValueError(call.headers["x-trace"])

    @pipeline.post("/durable", mode="durable")
    def durable(call: Call, body: dict[str, Any]) -> None:
        call.progress(1, note=str(body))
        fail(str(body))

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


def calls(runtime: Runtime, secret: str) -> list[Any]:
    client, anonymous = runtime.client(token=False), runtime.anonymous()
    sent = {"X-Trace": secret, "X-Request-Id": secret, "User-Agent": secret}
    return [
        client.post(
            f"/v1/shop/{secret}?{secret}={secret}&q=a{secret}",
            headers=sent,
            json={secret: [secret, {"x": secret}]},
        ),
        client.post(
            f"/v1/shop/by/{secret}", headers=sent | {"Content-Type": f"text/{secret}"}, data=secret
        ),
        client.post("/v1/shop/by/x", headers=sent, data={secret: secret}),
        client.put("/v1/shop/", headers=sent),
        client.patch("/v1/shop/", headers=sent),
        client.delete(f"/v1/shop/{secret}", headers=sent),
        client.post("/v1/shop/durable", headers=sent, json={"a": secret}),
        anonymous.post(f"/v1/shop/{secret}", headers=sent),
        anonymous.post(
            f"/v1/shop/by/{secret}",
            headers=sent | {"X-API-Key": f"{secret}x", "Authorization": f"Bearer {secret}x"},
        ),
    ]


@pytest.mark.parametrize("secret", [KEY, TOKEN])
def test_it_is_nowhere(
    console_runtime: Callable[..., Runtime], capfd: pytest.CaptureFixture[str], secret: str
) -> None:
    runtime = console_runtime(
        offering(), policy="api-key", log_format="json", log_level="debug", log_calls="all"
    )

    answers = calls(runtime, secret)
    runtime.work()
    runs = [run["id"] for run in runtime.runs()]
    viewer = ConsoleClient.of(runtime, "vic")
    with reading(engine_of(runtime)) as connection:
        refusals = rejected_calls.page(connection, RejectedFilter(1))
    seen = {
        "replies": [dict(answer.headers) for answer in answers],
        "records": runtime.runs(),
        "refusals": refusals,
        "commands": [
            runtime.operate("runs", "list"),
            *(runtime.operate("runs", "show", run) for run in runs),
        ],
        "json": [runtime.operate("runs", "show", run, "--format", "json") for run in runs],
        "pages": [
            viewer.get(path).text
            for path in ("/e/test/runs", *(f"/e/test/runs/{run}" for run in runs), "/", "/audit")
        ],
        "log": capfd.readouterr().err,
    }

    assert [answer.status_code for answer in answers] == [
        409,
        409,
        409,
        500,
        500,
        405,
        202,
        401,
        401,
    ]
    assert len(runs) == 6
    for where, what in seen.items():
        assert PART[secret] not in repr(what), where
    assert not any("X-Request-Id" in answer.headers for answer in answers)
    assert seen["log"].count("***") >= 5


def test_a_parameter_of_the_path_that_is_sensitive_by_name_is_not_written_either(
    console_runtime: Callable[..., Runtime], capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = console_runtime(offering(), policy="api-key", log_format="json", log_calls="all")

    runtime.client(token=False).post("/v1/shop/hunter2")
    runtime.anonymous().post("/v1/shop/hunter2")
    (run,) = runtime.runs()

    assert run["bodies"]["input"]["path"] == "/v1/shop/***"
    paths = [
        line["path"]
        for line in map(json.loads, capfd.readouterr().err.splitlines())
        if line["event"] == "call"
    ]
    assert paths == ["/v1/shop/***"] * 2
