"""Tokens of a real identity provider, a program of its own, at a real gate."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from support.place import Place, Server, wait_for
from support.services import free_port

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))

@orders.get("/")
def show(call: Call): return {"consumer": call.caller.consumer, "subject": call.caller.subject}

@hookimpl
def penstock_pipelines(): return [orders]
"""


@pytest.fixture
def provider() -> Iterator[str]:
    """An OpenID Connect provider; return its issuer."""
    port = free_port()
    code = (
        "from oidc_provider_mock import run_server_in_thread; import time\nwith"
        f" run_server_in_thread(port={port}): time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(f"http://localhost:{port}/.well-known/openid-configuration", process)
        yield f"http://localhost:{port}"
        process.kill()


def sign_in(issuer: str, client: str, subject: str) -> str:
    """Go through the authorization code flow and return the ID token."""
    back = "http://localhost/back"
    with httpx.Client() as browser:
        configuration = browser.get(f"{issuer}/.well-known/openid-configuration").json()
        asked = {
            "response_type": "code",
            "client_id": client,
            "redirect_uri": back,
            "scope": "openid",
            "state": "s",
        }
        answered = browser.post(
            configuration["authorization_endpoint"], params=asked, data={"sub": subject}
        )
        code = parse_qs(urlsplit(answered.headers["Location"]).query)["code"][0]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "client_id": client,
            "client_secret": "x",
        }
        token: str = browser.post(configuration["token_endpoint"], data=form).json()["id_token"]
    return token


def test_a_real_provider_s_tokens_pass_with_their_consumer_s_key(
    place: Place, serve: Serve, provider: str
) -> None:
    place.plugin("orders", PLUGIN)
    place.consumer("acme", "orders")
    place.consumer("other", "orders")
    server = serve(place, workers=2)
    key, others = place.key("acme").key, place.key("other").key
    token = sign_in(provider, "erp", "ann@example.org")

    def status(token: str, key: str = key) -> int:
        return server.call("GET", "/v1/orders/", key=key, token=token).status_code

    before = status(token)
    done = place.run(
        "issuer", "trust", provider, "--env", "test", "--audience", "erp", "--consumer", "acme"
    )
    assert done.returncode == 0, done.stderr
    for _ in range(100):
        if (answered := server.call("GET", "/v1/orders/", key=key, token=token)).status_code == 200:
            break
        time.sleep(0.05)
    head, payload, signature = token.split(".")
    forged = json.dumps(
        {**json.loads(base64.urlsafe_b64decode(payload + "==")), "sub": "root"}
    ).encode()

    assert before == 401
    assert answered.json() == {"consumer": "acme", "subject": "ann@example.org"}
    assert status(token, others) == 401
    assert status(sign_in(provider, "shop", "ann")) == 401
    assert (
        status(f"{head}.{base64.urlsafe_b64encode(forged).decode().rstrip('=')}.{signature}") == 401
    )
    assert (
        server.client.get("/v1/orders/", headers={"Authorization": f"Bearer {token}"}).status_code
        == 401
    )
    assert provider in place.run("issuer", "list").stdout
    assert place.run("issuer", "distrust", provider, "--env", "test").returncode == 0
    for _ in range(100):
        if (last := status(token)) == 401:
            break
        time.sleep(0.05)
    assert last == 401
    assert token not in server.log.read_text()
