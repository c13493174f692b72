"""The header Authorization and what surrounds credentials: nothing that looks like a credential
is taken for none."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from penstock import Authenticator, Call, Caller, HttpTrigger, Pipeline, hookimpl
from penstock.contracts.withheld import split_authorization
from penstock.testing import Runtime

Start = Callable[..., Runtime]
PASSWORD = "hunter2-hunter2-hunter2"


class Demo(Authenticator):
    """A scheme of a plugin that says nothing of its headers."""

    name, noun, refusal, challenge = "demo", "demo credential", "invalid-demo", "Demo"

    def find(self, head: Any, access: Any) -> str | None:
        scheme, _, value = (head.header("Authorization") or "").partition(" ")
        return value if scheme == "Demo" else None

    def verify(self, credential: str, access: Any, caller: Caller, now: float) -> Caller:
        return caller


class Plugin:
    @staticmethod
    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        pipelines = [
            Pipeline("open", version="1.0.0", trigger=HttpTrigger()),
            Pipeline("keyed", version="1.0.0", trigger=HttpTrigger(api_key=True)),
        ]
        for pipeline in pipelines:

            @pipeline.get("/")
            def show(call: Call) -> str:
                return str(call.caller.consumer)

        return pipelines


class WithDemo(Plugin):
    @staticmethod
    @hookimpl
    def penstock_authenticators() -> list[Authenticator]:
        return [Demo()]


def status_and_problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, (
        (answer.json or {}).get("type", "") if answer.status_code != 200 else answer.text
    )


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("Bearer x", ("bearer", "x")),
        ("bearer\tx", ("bearer", "x")),
        ("  BEARER  \t x \t", ("bearer", "x")),
        ("Bearer\t x y", ("bearer", "x y")),
        ("Bearer", ("bearer", "")),
        ("", ("", "")),
        ("Bearer\u00a0x", ("bearer\u00a0x", "")),
        ("Bearer \u00a0x\u0085", ("bearer", "\u00a0x\u0085")),
        ("Bearer\vx", ("bearer\vx", "")),
    ],
)
def test_a_scheme_ends_at_a_space_or_a_tab_and_nothing_else_is_stripped(
    value: str, split: tuple[str, str]
) -> None:
    assert split_authorization(value) == split


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("Bearer\u00a0nonsense", "invalid-token"),  # so wrong a token is still one that was sent
        ("Bearer\tnonsense", "invalid-token"),
        ("Bearer nonsense", "invalid-token"),
        ("bEARER nonsense", "invalid-token"),
        ("Bearer", "invalid-token"),
        ("Basic\tbm9ib2R5OnNlY3JldA==", "invalid-login"),
        ("Token abc", "unsupported-scheme"),
        ("Digest username=x", "unsupported-scheme"),
        ("Negotiate abc", "unsupported-scheme"),
        ("nonsense", "unsupported-scheme"),
        ("", "unsupported-scheme"),
    ],
)
def test_what_nothing_here_can_check_is_a_401_also_on_an_open_pipeline(
    penstock_runtime: Start, value: str, problem: str
) -> None:
    runtime = penstock_runtime(Plugin, policy="any")
    client = runtime.client("acme", token=False)

    on_open = runtime.anonymous().get("/v1/open/", headers={"Authorization": value})

    assert status_and_problem(on_open) == (401, problem)
    assert status_and_problem(client.get("/v1/keyed/", headers={"Authorization": value})) == (
        401,
        problem,
    )
    assert (
        "Bearer" in on_open.headers["WWW-Authenticate"]
        or "Basic" in on_open.headers["WWW-Authenticate"]
    )
    assert value == "" or value not in on_open.text


def test_without_the_header_an_open_pipeline_is_open(penstock_runtime: Start) -> None:
    assert status_and_problem(
        penstock_runtime(Plugin, policy="any").anonymous().get("/v1/open/")
    ) == (
        200,
        "None",
    )


def test_a_missing_key_is_reported_before_an_unsupported_scheme(
    penstock_runtime: Start,
) -> None:
    answer = (
        penstock_runtime(Plugin, policy="any")
        .anonymous()
        .get("/v1/keyed/", headers={"Authorization": "Token abc"})
    )

    assert status_and_problem(answer) == (401, "credentials-missing")


def test_a_scheme_of_a_plugin_is_its_own(penstock_runtime: Start) -> None:
    client = penstock_runtime(WithDemo, policy="any").anonymous()

    assert status_and_problem(client.get("/v1/open/", headers={"Authorization": "Demo abc"})) == (
        200,
        "None",
    )
    assert status_and_problem(client.get("/v1/open/", headers={"Authorization": "Token abc"})) == (
        401,
        "unsupported-scheme",
    )


@pytest.mark.parametrize("around", ["\u00a0", "\u0085", "\v", "\f", "\x1c", "\u00ad"])
def test_only_spaces_and_tabs_may_surround_a_credential(
    penstock_runtime: Start, around: str
) -> None:
    runtime = penstock_runtime(Plugin, policy="any")
    client = runtime.client("acme")
    key, token = client.headers["X-API-Key"], client.headers["Authorization"].partition(" ")[2]
    runtime.operate(
        "credential", "add", "basic", "acme", "--env", "test", "--name", "ann", given=PASSWORD
    )
    login = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()

    def ask(**headers: str) -> tuple[int, str]:
        sent = {"HTTP_" + name.upper(): value for name, value in headers.items()}
        return status_and_problem(runtime.anonymous().get("/v1/keyed/", environ_overrides=sent))

    assert ask(x_api_key=f" \t{key}\t ") == (200, "acme")
    assert (
        ask(x_api_key=f"{around}{key}")
        == ask(x_api_key=f"{key}{around}")
        == (401, "invalid-api-key")
    )
    assert ask(x_api_key=key, authorization=f"Bearer \t{token} ") == (200, "acme")
    assert ask(x_api_key=key, authorization=f"Bearer {around}{token}") == (401, "invalid-token")
    assert ask(x_api_key=key, authorization=f"Bearer {token}{around}") == (401, "invalid-token")
    assert ask(x_api_key=key, authorization=f"Basic {login}\t") == (200, "acme")
    assert ask(x_api_key=key, authorization=f"Basic {login}{around}") == (401, "invalid-login")
