"""Signatures of GitHub, Stripe, Slack and one's own, through the real gate."""

from __future__ import annotations

import gzip
import hmac
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from penstock import Call, HttpTrigger, Pipeline, hookimpl
from penstock.testing import Runtime
from penstock_webhook_signature import TOLERANCE_S, GitHub, Hmac, Signature, Slack, Stripe

Start = Callable[..., Runtime]
SECRET = "It's a Secret to Everybody"
KINDS = ("github", "stripe", "slack", "hmac")


def offering(kind: str, **trigger: Any) -> SimpleNamespace:
    pipeline = Pipeline(
        "hooks",
        version="1.0.0",
        trigger=HttpTrigger(**{"signature": kind, "max_body": 10_000, **trigger}),
    )

    @pipeline.post("/")
    def take(call: Call, body: bytes) -> dict[str, object]:
        return {"consumer": call.caller.consumer, "bytes": len(body)}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="hooks", penstock_pipelines=penstock_pipelines)


def signed(
    kind: str, body: bytes, *, secret: str = SECRET, moment: float | None = None
) -> dict[str, str]:
    """Sign as the documentation of each sender says."""
    at = str(int(time.time() if moment is None else moment))

    def mac(message: bytes) -> str:
        return hmac.new(secret.encode(), message, "sha256").hexdigest()

    if kind == "github":
        return {"X-Hub-Signature-256": f"sha256={mac(body)}"}
    if kind == "stripe":
        return {
            "Stripe-Signature": (
                f"t={at},v1={mac(f'{at}.'.encode() + body)}"
                ",v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"
            )
        }
    if kind == "slack":
        return {
            "X-Slack-Request-Timestamp": at,
            "X-Slack-Signature": f"v0={mac(f'v0:{at}:'.encode() + body)}",
        }
    return {"X-Signature-Timestamp": at, "X-Signature": f"sha256={mac(f'{at}.'.encode() + body)}"}


def start(penstock_runtime: Start, kind: str, **trigger: Any) -> Runtime:
    runtime = penstock_runtime(offering(kind, **trigger), policy="any")
    runtime.client("octo", key=False, token=False)
    runtime.operate(
        "credential",
        "add",
        f"{kind}_signature",
        "octo",
        "--env",
        "test",
        "--name",
        "hooks",
        given=SECRET + "\n",
    )
    return runtime


def post(
    runtime: Runtime, headers: dict[str, str], body: bytes = b"{}", **more: str
) -> TestResponse:
    return runtime.anonymous().post("/v1/hooks/", data=body, headers={**headers, **more})


def problem(answered: TestResponse) -> tuple[int, str]:
    return answered.status_code, (answered.json or {}).get("type", "")


def test_the_examples_of_the_senders_documentation_hold() -> None:
    """From GitHub's "Validating webhook deliveries"; its secret and body."""
    made = signed("github", b"Hello, World!")

    assert made == {
        "X-Hub-Signature-256": (
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        )
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_signed_with_a_consumer_s_secret_passes(penstock_runtime: Start, kind: str) -> None:
    runtime = start(penstock_runtime, kind)

    answered = post(runtime, signed(kind, b'{"a": 1}'), b'{"a": 1}')

    assert answered.json == {"consumer": "octo", "bytes": 8}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_another_secret_or_another_form_is_a_401(
    penstock_runtime: Start, kind: str
) -> None:
    runtime = start(penstock_runtime, kind)
    header = list(signed(kind, b"{}"))[-1]
    wrong = {
        "sha1=" + "0" * 40,
        "sha256=",
        "",
        "sha256=" + "g" * 64,
        "0" * 64 + "0",
        "t=1",
        "v1=" + "0" * 64,
        "t=,v1=" + "0" * 64,
    }

    assert problem(post(runtime, signed(kind, b"{}"), b"{ }")) == (401, "invalid-signature")
    assert problem(post(runtime, signed(kind, b"{}", secret=SECRET + "x"))) == (
        401,
        "invalid-signature",
    )
    for text in wrong:
        assert problem(post(runtime, {**signed(kind, b"{}"), header: text})) == (
            401,
            "invalid-signature",
        ), text
    assert problem(post(runtime, {})) == (401, "credentials-missing")


@pytest.mark.parametrize("kind", ["stripe", "slack", "hmac"])
def test_a_moment_too_far_away_is_a_401_and_so_is_a_replay(
    penstock_runtime: Start, kind: str
) -> None:
    runtime = start(penstock_runtime, kind)
    now = time.time()

    for moment in (now - TOLERANCE_S - 5, now + TOLERANCE_S + 5, 0, 10**13):
        assert problem(post(runtime, signed(kind, b"{}", moment=moment))) == (
            401,
            "invalid-signature",
        )
    fresh = signed(kind, b"{}", moment=now - TOLERANCE_S + 20)
    assert [post(runtime, fresh).status_code for _ in range(3)] == [200, 401, 401]
    assert post(runtime, signed(kind, b"{}", moment=now + 20)).status_code == 200


@pytest.mark.parametrize("kind", ["stripe", "slack", "hmac"])
def test_the_moment_is_signed_too(penstock_runtime: Start, kind: str) -> None:
    runtime = start(penstock_runtime, kind)
    old = signed(kind, b"{}", moment=time.time() - 1000)
    forged = {
        name: value.replace(str(int(time.time()) - 1000), str(int(time.time())))
        for name, value in old.items()
    }

    assert problem(post(runtime, forged)) == (401, "invalid-signature")


def test_a_replay_is_known_whatever_else_its_header_says(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "stripe")
    sent = signed("stripe", b"{}")["Stripe-Signature"]

    assert post(runtime, {"Stripe-Signature": sent}).status_code == 200
    for other in (sent.split(",v0=")[0], f"v1={'0' * 64},{sent}", f" {sent} "):
        assert problem(post(runtime, {"Stripe-Signature": other})) == (401, "invalid-signature")


@pytest.mark.parametrize("kind", ["stripe", "slack", "hmac"])
def test_a_replay_is_known_for_as_long_as_its_moment_is_taken(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    runtime = start(penstock_runtime, kind)
    now = time.time()
    moment = now + TOLERANCE_S - 10
    assert post(runtime, signed(kind, b"{}", moment=moment)).status_code == 200
    later = now + 2 * TOLERANCE_S - 20
    monkeypatch.setattr("time.time", lambda: later)

    assert problem(post(runtime, signed(kind, b"{}", moment=moment))) == (401, "invalid-signature")
    assert post(runtime, signed(kind, b"{ }", moment=moment), b"{ }").status_code == 200


def test_github_repeats_are_taken_for_it_signs_no_moment(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "github")

    assert [post(runtime, signed("github", b"{}")).status_code for _ in range(2)] == [200, 200]


def test_who_signs_is_known_by_the_secret_and_must_be_associated(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "github")
    runtime.client("cat", key=False, token=False)
    runtime.operate("consumer", "create", "stranger")
    for consumer in ("cat", "stranger"):
        runtime.operate(
            "credential",
            "add",
            "github_signature",
            consumer,
            "--env",
            "test",
            "--name",
            consumer,
            given=f"the secret of {consumer}",
        )

    assert (post(runtime, signed("github", b"{}", secret="the secret of cat")).json or {})[
        "consumer"
    ] == "cat"
    assert problem(post(runtime, signed("github", b"{}", secret="the secret of stranger"))) == (
        401,
        "invalid-signature",
    )


def test_secrets_rotate(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "github")
    first = (
        runtime.operate("credential", "list", "--format", "json").split('"id": "')[1].split('"')[0]
    )
    new = runtime.operate(
        "credential",
        "add",
        "github_signature",
        "octo",
        "--env",
        "test",
        "--name",
        "new",
        "--generate",
    ).splitlines()[-1]

    assert [
        post(runtime, signed("github", b"{}", secret=secret)).status_code
        for secret in (SECRET, new)
    ] == [200, 200]
    runtime.operate("credential", "revoke", first)
    assert [
        post(runtime, signed("github", b"{}", secret=secret)).status_code
        for secret in (SECRET, new)
    ] == [401, 200]


def test_each_of_many_secrets_is_tried(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "github")
    for number in range(120):
        runtime.operate(
            "credential",
            "add",
            "github_signature",
            "octo",
            "--env",
            "test",
            "--name",
            f"s{number}",
            given=f"the secret number {number}",
        )

    assert [
        post(runtime, signed("github", b"{}", secret=f"the secret number {number}")).status_code
        for number in (0, 99, 100, 119)
    ] == [200] * 4


def test_there_is_room_for_so_many_of_a_kind_and_no_more(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GitHub, "most", 3)
    runtime = start(penstock_runtime, "github")

    def add(name: str, kind: str = "github") -> str:
        return runtime.operate(
            "credential",
            "add",
            f"{kind}_signature",
            "octo",
            "--env",
            "test",
            "--name",
            name,
            "--generate",
        )

    first = add("second").split(":")[0]
    add("third")
    with pytest.raises(
        Exception,
        match=(
            "test has 3 github_signature credentials, and each call is tried with them all; revoke"
            " some"
        ),
    ):
        add("fourth")
    add("fourth", "stripe")
    runtime.operate("credential", "revoke", first)
    add("fourth")
    assert (GitHub.most, Stripe.most) == (3, 1000)


def test_a_secret_that_has_expired_signs_nothing(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = penstock_runtime(offering("github"), policy="any")
    runtime.client("octo", key=False, token=False)
    runtime.operate(
        "credential",
        "add",
        "github_signature",
        "octo",
        "--env",
        "test",
        "--name",
        "a",
        "--expires",
        "1h",
        given=SECRET,
    )

    before = post(runtime, signed("github", b"{}")).status_code
    later = time.time() + 3601
    monkeypatch.setattr("time.time", lambda: later)

    assert (before, post(runtime, signed("github", b"{}")).status_code) == (200, 401)


def test_two_consumers_may_not_share_a_secret_nor_two_credentials_a_name(
    penstock_runtime: Start,
) -> None:
    runtime = start(penstock_runtime, "github")
    runtime.client("cat", key=False, token=False)

    with pytest.raises(Exception, match="another consumer has the same secret"):
        runtime.operate(
            "credential",
            "add",
            "github_signature",
            "cat",
            "--env",
            "test",
            "--name",
            "mine",
            given=SECRET,
        )
    with pytest.raises(Exception, match="exists already"):
        runtime.operate(
            "credential",
            "add",
            "github_signature",
            "octo",
            "--env",
            "test",
            "--name",
            "hooks",
            given=SECRET + "2",
        )
    with pytest.raises(Exception, match="at least 16 characters"):
        runtime.operate(
            "credential",
            "add",
            "github_signature",
            "octo",
            "--env",
            "test",
            "--name",
            "short",
            given="short",
        )
    with pytest.raises(Exception, match="did you mean 'github_signature'"):
        runtime.operate(
            "credential", "add", "github", "octo", "--env", "test", "--name", "x", given=SECRET
        )


def test_the_body_is_bounded_and_signed_as_it_was_sent(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "github")
    packed = gzip.compress(b"x" * 5_000)

    assert (
        post(runtime, signed("github", packed), packed, **{"Content-Encoding": "gzip"}).json or {}
    )["bytes"] == 5_000
    assert problem(
        post(runtime, signed("github", b"x" * 5_000), packed, **{"Content-Encoding": "gzip"})
    ) == (401, "invalid-signature")
    assert problem(post(runtime, signed("github", b"x" * 10_001), b"x" * 10_001)) == (
        413,
        "body-too-large",
    )


def test_a_signature_nobody_asked_for_is_not_looked_at(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "github", signature=None)

    assert post(runtime, {"X-Hub-Signature-256": "sha256=nonsense"}).status_code == 200


def test_key_and_signature_must_be_of_one_consumer(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering("hmac", api_key=True), policy="api-key")
    octo, cat = runtime.client("octo", token=False), runtime.client("cat", token=False)
    runtime.operate(
        "credential", "add", "hmac_signature", "octo", "--env", "test", "--name", "a", given=SECRET
    )

    def status(client: Any) -> int:
        answered: TestResponse = client.post(
            "/v1/hooks/", data=b"{}", headers=signed("hmac", b"{}")
        )
        return answered.status_code

    assert (status(cat), status(runtime.anonymous()), status(octo)) == (401, 401, 200)


@pytest.mark.parametrize("policy", ["api-key", "jwt-api-key"])
def test_it_satisfies_no_policy(penstock_runtime: Start, policy: str) -> None:
    runtime = penstock_runtime(offering("github"), policy=policy)

    assert any("requires api_key=True" in reason for reason in runtime.blocked()["v1/hooks"])


def test_a_kind_that_nobody_offers_refuses_the_pipeline(penstock_runtime: Start) -> None:
    assert (
        "no authenticator for 'shopify_signature' is loaded"
        in penstock_runtime(offering("shopify"), policy="any").blocked()["v1/hooks"][0]
    )
    assert (
        'write "github", "stripe", "slack" or "hmac"'
        in penstock_runtime(offering("Git Hub"), policy="any").problems()[0]
    )


def test_the_secret_is_shown_nowhere(penstock_runtime: Start) -> None:
    runtime = start(penstock_runtime, "github")
    (kept,) = runtime.access.credentials("github_signature").values()

    assert kept.secret == SECRET.encode()
    assert SECRET not in repr(kept) + runtime.operate("credential", "list", "--format", "json")


@pytest.mark.parametrize(
    ("kind", "header", "described"),
    [
        (GitHub(), "X-Hub-Signature-256", "over the body"),
        (Stripe(), "Stripe-Signature", "t=…,v1=…"),
        (Slack(), "X-Slack-Signature", "the moment in `X-Slack-Request-Timestamp`"),
        (Hmac(), "X-Signature", "the moment in `X-Signature-Timestamp`"),
    ],
)
def test_openapi_says_which_headers(kind: Signature, header: str, described: str) -> None:
    scheme = kind.security_scheme()

    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", header)
    assert described in str(scheme["description"])
    assert ("seconds since 1970" in str(scheme["description"])) is kind.timed
