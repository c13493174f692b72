"""Rates that several processes count together, in a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.place import Place, Server
from support.services import Redis

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, Rate, hookimpl

rated = Pipeline("rated", version="1.0.0", trigger=HttpTrigger(api_key=True, rate=Rate("10/minute")))

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


def statuses(server: Server, key: str, times: int) -> list[int]:
    """Call on new connections, so that every worker has its turn."""
    return [
        httpx.get(f"{server.url}/v1/rated/", headers={"X-API-Key": key}, timeout=10).status_code
        for _ in range(times)
    ]


def test_all_workers_count_together(
    sqlite_place: Place, key: str, serve: Serve, redis: Redis
) -> None:
    servers = [serve(sqlite_place, workers=2, PENSTOCK_RATE_LIMIT_URL=redis.url) for _ in range(2)]

    answered = statuses(servers[0], key, 6) + statuses(servers[1], key, 8)

    assert sorted(answered) == [200] * 10 + [429] * 4


def test_a_limit_of_a_hundred_lets_exactly_a_hundred_through(
    sqlite_place: Place, key: str, serve: Serve, redis: Redis
) -> None:
    done = sqlite_place.run(
        "limit", "set", "acme", "100/minute", "--pipeline", "rated", "--env", "test"
    )
    assert done.returncode == 0, done.stderr
    server = serve(sqlite_place, workers=2, PENSTOCK_RATE_LIMIT_URL=redis.url)

    with ThreadPoolExecutor(8) as pool:
        answered = [
            status
            for part in pool.map(lambda _: statuses(server, key, 17), range(8))
            for status in part
        ]

    assert (answered.count(200), answered.count(429), len(answered)) == (100, 36, 136)


def test_workers_that_count_alone_say_so_at_start(
    sqlite_place: Place, key: str, serve: Serve
) -> None:
    server = serve(sqlite_place, workers=2)

    assert len(statuses(server, key, 3)) == 3
    assert "each worker counts alone" in server.log.read_text()


def test_a_server_starts_while_redis_is_away(
    sqlite_place: Place, key: str, serve: Serve, redis: Redis
) -> None:
    redis.stop()
    server = serve(sqlite_place, PENSTOCK_RATE_LIMIT_URL=redis.url)

    assert statuses(server, key, 2) == [200, 200]


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://x",
        "redis://[",
        "memcached://x",
        "redsi://:hunter2@redis:6379",
        "redis://:hunter2@redis:port",
    ],
)
def test_a_url_that_makes_no_sense_ends_the_start(sqlite_place: Place, key: str, url: str) -> None:
    done = sqlite_place.run("serve", "--bind", "127.0.0.1:1", PENSTOCK_RATE_LIMIT_URL=url)

    assert done.returncode == 3
    assert "PENSTOCK_RATE_LIMIT_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert key not in done.stderr
    checked = sqlite_place.run("check", "--env", "test", PENSTOCK_RATE_LIMIT_URL=url)
    assert "hunter2" not in done.stdout + done.stderr + checked.stdout + checked.stderr


def test_failures_are_counted_across_workers_and_good_keys_pass_all_the_same(
    sqlite_place: Place, key: str, serve: Serve, redis: Redis
) -> None:
    server = serve(
        sqlite_place,
        workers=2,
        PENSTOCK_RATE_LIMIT_URL=redis.url,
        PENSTOCK_FAILED_AUTH_RATE="10/minute",
    )

    guessed = statuses(server, sqlite_place.key("acme", env="prod").key, 15)

    assert guessed == [401] * 10 + [429] * 5
    assert statuses(server, key, 1) == [200]
