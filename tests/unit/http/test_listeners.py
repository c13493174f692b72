"""The two listeners: networks, rates and limits apply on both, through the real dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import HttpTrigger, Pipeline, Rate, hookimpl
from penstock.testing import CallerClient, Runtime

Start = Callable[..., Runtime]


def offering(**trigger: Any) -> SimpleNamespace:
    pipeline = Pipeline("one", version="1.0.0", trigger=HttpTrigger(**trigger))
    pipeline.get("/")(lambda: "hello")

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)


def statuses(
    client: CallerClient, times: int = 1, path: str = "/v1/one/", **environ: str
) -> list[int]:
    return [client.get(path, environ_overrides=environ).status_code for _ in range(times)]


@pytest.mark.parametrize(
    ("listeners", "outside", "inside"),
    [
        ({}, 503, 404),
        ({"internal": True}, 503, 503),
        ({"external": False, "internal": True}, 404, 503),
        ({"external": False}, 404, 404),
    ],
)
@pytest.mark.parametrize("broken", [{"timeout": 900}, {"allow": ["everywhere"]}])
def test_a_broken_pipeline_is_not_found_on_the_other_listener(
    penstock_runtime: Start,
    listeners: dict[str, bool],
    outside: int,
    inside: int,
    broken: dict[str, Any],
) -> None:
    runtime = penstock_runtime(offering(**listeners, **broken), policy="any")
    caller = runtime.anonymous()

    for path in ("/v1/one/", "/v1/one/below/it"):
        assert (statuses(caller, path=path), statuses(caller.internal(), path=path)) == (
            [outside],
            [inside],
        )
    assert runtime.problems()


@pytest.fixture
def inside(penstock_runtime: Start) -> Callable[..., tuple[Runtime, CallerClient]]:
    """A runtime with a pipeline on both listeners, and a consumer that calls it on the internal
    one."""

    def start(**trigger: Any) -> tuple[Runtime, CallerClient]:
        runtime = penstock_runtime(
            offering(api_key=True, internal=True, **trigger), policy="api-key"
        )
        return runtime, runtime.client("acme", token=False).internal()

    return start


def test_the_networks_of_a_trigger_apply_on_the_internal_listener(
    inside: Callable[..., tuple[Runtime, CallerClient]],
) -> None:
    _, acme = inside(allow=["192.0.2.0/24"], deny=["192.0.2.9"])

    assert [
        statuses(acme, REMOTE_ADDR=address)
        for address in ("192.0.2.1", "192.0.2.9", "198.51.100.1")
    ] == [[200], [403], [403]]


def test_the_networks_of_a_consumer_apply_on_the_internal_listener(
    inside: Callable[..., tuple[Runtime, CallerClient]],
) -> None:
    runtime, acme = inside()

    runtime.operate("address", "allow", "acme", "192.0.2.0/24", "--env", "test")

    assert [statuses(acme, REMOTE_ADDR=address) for address in ("192.0.2.1", "198.51.100.1")] == [
        [200],
        [403],
    ]


def test_the_rates_of_a_trigger_apply_on_the_internal_listener(
    inside: Callable[..., tuple[Runtime, CallerClient]],
) -> None:
    _, acme = inside(rate=Rate("2/minute"))

    assert statuses(acme, 3) == [200, 200, 429]


def test_the_limits_of_a_consumer_apply_on_the_internal_listener(
    inside: Callable[..., tuple[Runtime, CallerClient]],
) -> None:
    runtime, acme = inside()

    runtime.operate("limit", "set", "acme", "2/minute", "--env", "test")

    assert statuses(acme, 3) == [200, 200, 429]
