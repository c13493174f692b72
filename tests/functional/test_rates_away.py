"""Redis goes away, stopped or silent: each process counts its share of every limit in memory,
says so once, and no call waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.place import Place, Server
from support.services import Redis, free_port

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, Rate, hookimpl

rated = Pipeline("rated", version="1.0.0", trigger=HttpTrigger(api_key=True, rate=[Rate("40/hour"), Rate("1000/day", by="pipeline")]))

@rated.get("/")
def show(call: Call): return {"a": 1}

@hookimpl
def penstock_pipelines(): return [rated]
"""  # noqa: E501  text as it is


@pytest.fixture
def key(sqlite_place: Place) -> str:
    sqlite_place.plugin("rated", PLUGIN)
    sqlite_place.policy("api-key")
    sqlite_place.consumer("acme", "rated")
    return sqlite_place.key("acme").key


def call(server: Server, key: str) -> httpx.Response:
    """Call on a new connection, so that every worker has its turn."""
    return httpx.get(f"{server.url}/v1/rated/", headers={"X-API-Key": key}, timeout=20)


def statuses(server: Server, key: str, times: int) -> list[int]:
    with ThreadPoolExecutor(8) as pool:
        return [
            answer.status_code for answer in pool.map(lambda _: call(server, key), range(times))
        ]


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 180
    while not holds() and time.monotonic() < until:
        time.sleep(0.1)
    return holds()


@pytest.mark.parametrize("how", ["stop", "hang"])
def test_each_process_counts_its_share_while_redis_is_away(
    sqlite_place: Place, key: str, serve: Serve, redis: Redis, how: str
) -> None:
    inside = f"127.0.0.1:{free_port()}"
    server = serve(
        sqlite_place,
        workers=2,
        PENSTOCK_RATE_LIMIT_URL=redis.url,
        PENSTOCK_INTERNAL_BIND=inside,
        PENSTOCK_FAILED_AUTH_RATE="6/hour",
    )

    def up() -> str:
        return httpx.get(f"http://{inside}/-/metrics", timeout=20).text.partition(
            "\npenstock_redis_up "
        )[2][:3]

    def logged(event: str) -> int:
        return server.log.read_text().count(event)

    whole = call(server, key)
    assert eventually(lambda: up() == "1.0")
    assert (whole.status_code, whole.headers["RateLimit-Policy"].split(",")[0]) == (
        200,
        '"40/hour by consumer";q=40;w=3600',
    )
    getattr(redis, how)()
    meanwhile = statuses(server, key, 160)
    answer = call(server, key)
    guessed = statuses(server, "pk_test_guess", 60)

    assert (meanwhile.count(200), meanwhile.count(429)) == (40, 120)  # twenty in each process
    assert (
        answer.headers["RateLimit-Policy"]
        == '"40/hour by consumer";q=20;w=3600, "1000/day by pipeline";q=500;w=86400'
    )
    assert answer.headers["RateLimit"].startswith('"40/hour by consumer";r=0;')
    assert (guessed.count(401), guessed.count(429)) == (6, 54)
    assert eventually(lambda: up() == "0.0")
    assert logged("rate limit storage away") == 2
    redis.stop()
    redis.start()
    assert eventually(lambda: logged("rate limit storage back") == 2)
    again = call(server, key)
    assert eventually(lambda: up() == "1.0")
    assert (again.status_code, again.headers["RateLimit-Policy"].split(",")[0]) == (
        200,
        '"40/hour by consumer";q=40;w=3600',
    )
    assert logged("rate limit storage away") == 2


def test_only_the_first_calls_wait_for_a_silent_redis(
    sqlite_place: Place, key: str, serve: Serve, redis: Redis
) -> None:
    server = serve(
        sqlite_place, PENSTOCK_RATE_LIMIT_URL=redis.url, PENSTOCK_RATE_LIMIT_AWAY="share"
    )
    assert call(server, key).status_code == 200
    redis.hang()

    def took() -> float:
        begins = time.monotonic()
        assert server.call("GET", "/v1/rated/", key=key).status_code in {200, 429}
        return time.monotonic() - begins

    took()
    later = []
    until = time.monotonic() + 3  # the storage is tried meanwhile
    while time.monotonic() < until:
        later.append(took())

    # A call that waits for it waits for 0.25 s.
    assert sum(seconds > 0.2 for seconds in later) <= len(later) // 100
    assert (
        server.client.get("/-/ready")
        .json()["checks"]["rates"]
        .startswith("counted by each process alone")
    )


def test_a_redis_that_is_away_at_the_start_is_reported_before_a_call(
    sqlite_place: Place, serve: Serve, redis: Redis
) -> None:
    redis.stop()
    server = serve(sqlite_place, PENSTOCK_RATE_LIMIT_URL=redis.url)

    assert (
        server.client.get("/-/ready")
        .json()["checks"]["rates"]
        .startswith("counted by each process alone")
    )


def test_refused_is_refused_until_redis_is_back(
    sqlite_place: Place, key: str, serve: Serve, redis: Redis
) -> None:
    server = serve(
        sqlite_place, PENSTOCK_RATE_LIMIT_URL=redis.url, PENSTOCK_RATE_LIMIT_AWAY="refuse"
    )
    redis.stop()
    meanwhile = call(server, key)
    away = server.client.get("/-/ready").json()["checks"]["rates"]
    redis.start()

    assert (meanwhile.status_code, meanwhile.headers["Retry-After"]) == (503, "1")
    assert away.startswith("rated calls get 503")
    assert eventually(lambda: call(server, key).status_code == 200)
