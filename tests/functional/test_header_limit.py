"""The longest header field is a setting of the server, and what the login flow issues fits into
it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.place import Place, Server

from penstock import TokenNotIssued
from penstock_jwt.issuing import Issuer

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

guarded = Pipeline("guarded", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))

@guarded.get("/")
def show(call: Call):
    return {"characters": len(call.caller.claims["x"])}

@hookimpl
def penstock_pipelines():
    return [guarded]
"""


@pytest.mark.parametrize("limit", ["", "4096"])
def test_the_longest_token_that_is_made_passes_and_a_longer_field_is_a_431(
    sqlite_place: Place, serve: Callable[..., Server], limit: str
) -> None:
    sqlite_place.plugin("guarded", PLUGIN)
    sqlite_place.consumer("acme", "guarded")
    key, size = sqlite_place.key("acme").key, int(limit or 8190)
    issuer, access = Issuer("penstock", size), sqlite_place.snapshot()
    longest = ""
    for padding in range(size):
        try:
            made = issuer.issue(
                access,
                "acme",
                subject="ann",
                scopes=frozenset(),
                lifetime=None,
                claims={"x": "x" * padding},
                now=time.time(),
            )
        except TokenNotIssued:
            break
        longest = made.access_token
    server = serve(sqlite_place, **({"PENSTOCK_MAX_HEADER": limit} if limit else {}))

    answered = server.call("GET", "/v1/guarded/", key=key, token=longest)
    assert (answered.status_code, answered.json()["characters"] > 2000) == (200, True)
    assert (
        server.call(
            "GET", "/v1/guarded/", key=key, token="a" * (size - len("Authorization: Bearer \r\n"))
        ).status_code
        == 401
    )
    assert (
        server.call(
            "GET",
            "/v1/guarded/",
            key=key,
            token="a" * (size - len("Authorization: Bearer \r\n") + 1),
        ).status_code
        == 431
    )


@pytest.mark.parametrize("value", ["0", "2047", "32769", "8k", "-1"])
def test_a_limit_that_makes_no_sense_is_no_setting(sqlite_place: Place, value: str) -> None:
    done = sqlite_place.run("check", "--env", "test", PENSTOCK_MAX_HEADER=value)

    assert done.returncode == 3
    assert "PENSTOCK_MAX_HEADER must be a whole number from 2048 to 32768" in done.stderr
