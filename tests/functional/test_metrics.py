"""The metrics for Prometheus: of all processes together, on the internal listener alone unless an
operator says otherwise."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from support.durable import until
from support.place import Place, Server
from support.services import free_port

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, PipelineError, hookimpl

counted = Pipeline("counted", version="1.0.0", trigger=HttpTrigger(api_key=True))

@counted.get("/{how}")
def look(call: Call, how: str):
    if how == "failed":
        raise RuntimeError
    if how == "refused":
        raise PipelineError(409, "No", "Not now.", type="not-now")
    return how

@counted.post("/", mode="durable")
def work(call: Call): return "done"

@hookimpl
def penstock_pipelines(): return [counted]
"""


@pytest.fixture
def ready(sqlite_place: Place) -> Place:
    sqlite_place.policy("api-key")
    sqlite_place.plugin("counted", PLUGIN)
    sqlite_place.consumer("acme", "counted")
    return sqlite_place


RUN = 'penstock_runs_total{pipeline="v1/counted",status="succeeded"} 1.0'


def outcomes(text: str) -> dict[str, float]:
    """Return how many calls there were of each outcome."""
    lines = [line for line in text.splitlines() if line.startswith("penstock_calls_total{")]
    return {
        line.split('outcome="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines
    }


def test_every_process_s_calls_are_counted_for_the_internal_listener_alone(
    ready: Place, serve: Serve
) -> None:
    inside = f"127.0.0.1:{free_port()}"
    key = ready.key("acme").key
    server = serve(ready, workers=2, worker=1, PENSTOCK_INTERNAL_BIND=inside)
    for _ in range(20):  # on new connections, so that both workers have some
        assert (
            httpx.get(f"{server.url}/v1/counted/good", headers={"X-API-Key": key}).status_code
            == 200
        )
    for how in ("failed", "refused"):
        server.call("GET", f"/v1/counted/{how}", key=key)
    server.call("GET", "/v1/counted/good")
    server.call("POST", "/v1/counted/", key=key, headers={"Prefer": "wait=10"})

    expected = {
        "succeeded": 20.0,
        "failed": 1.0,
        "client_error": 1.0,
        "credentials-missing": 1.0,
        "accepted": 1.0,
    }
    until(lambda: outcomes(httpx.get(f"http://{inside}/-/metrics").text) == expected)

    text = httpx.get(f"http://{inside}/-/metrics").text
    # A durable run is no call: its minutes are not among the latencies.
    assert 'penstock_call_seconds_count{pipeline="v1/counted"} 22.0' in text
    until(lambda: RUN in httpx.get(f"http://{inside}/-/metrics").text)
    assert "penstock_snapshot_age_seconds " in text
    assert server.call("GET", "/-/metrics").status_code == 404


@pytest.mark.parametrize(
    ("setting", "status"), [("everywhere", 200), ("off", 404), ("internal", 404)]
)
def test_who_may_see_them_is_a_setting(
    ready: Place, serve: Serve, setting: str, status: int
) -> None:
    server = serve(ready, PENSTOCK_METRICS=setting)

    assert server.call("GET", "/-/metrics").status_code == status
