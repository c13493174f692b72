"""Handlers get the caller, not the credential: inline and durable, whichever header an operator
chose, and in records."""

from __future__ import annotations

import base64
from collections.abc import Callable
from ipaddress import ip_network
from typing import Annotated, Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from support.console import engine_of

from penstock import (
    Authenticator,
    Call,
    Caller,
    CredentialRejected,
    Header,
    HttpTrigger,
    Pipeline,
    hookimpl,
)
from penstock.contracts.withheld import Withheld
from penstock.gate.descriptions import describe_gate
from penstock.testing import Runtime, a_call

Start = Callable[..., Runtime]
PASSWORD = "hunter2-hunter2-hunter2"
SESSION = "s3ss10n-s3ss10n"


class Sessions(Authenticator):
    """A session in a header of its own, as a plugin may have it."""

    name, noun, refusal, challenge = "session", "session", "invalid-session", "Session"
    credential_headers = ("X-Session",)
    credential_parameters = ("session",)

    def find(self, head: Any, access: Any) -> str | None:
        session: str | None = head.header("X-Session") or next(iter(head.query("session")), None)
        return session

    def verify(self, credential: str, access: Any, caller: Caller, now: float) -> Caller:
        if credential != SESSION:
            raise CredentialRejected("unknown")
        return caller


def seen(call: Call) -> dict[str, Any]:
    """Return all that a handler can see of the request's head."""
    return {
        "headers": dict(call.headers),
        "query": dict(call.query),
        "query_string": call.query_string,
        "consumer": call.caller.consumer,
        "subject": call.caller.subject,
        "repr": repr(call),
    }


def offering(**trigger: Any) -> type:
    pipeline = Pipeline(
        "orders",
        version="1.0.0",
        trigger=HttpTrigger(**({"api_key": True} | trigger)),
        record_bodies="all",
    )
    pipeline.get("/")(seen)
    pipeline.post("/", mode="durable")(seen)

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [pipeline]

        @staticmethod
        @hookimpl
        def penstock_authenticators() -> list[Authenticator]:
            return [Sessions()]

    return Plugin


def called(
    runtime: Runtime, client: Any, path: str = "/v1/orders/", **more: Any
) -> list[dict[str, Any]]:
    """Return what the handler saw, inline and durable."""
    inline = client.get(path, **more)
    assert inline.status_code == 200, inline.text
    accepted = client.post(path, **more)
    assert accepted.status_code == 202, accepted.text
    runtime.work()
    ended = client.get(
        accepted.headers["Location"].partition("?")[0], headers=more.get("headers")
    ).json
    return [inline.json, ended["result"]]


def stored_records(runtime: Runtime) -> str:
    """Return all that is stored_records of runs, in the clear."""
    with engine_of(runtime).connect() as connection:
        rows = [
            str(connection.execute(sa.text(f"SELECT * FROM {table}")).all())
            for table in ("runs", "run_details", "refusals")
        ]
    return str(runtime.runs()) + str(rows)


@pytest.mark.parametrize("header", ["X-API-Key", "apikey", "X-Partner-Key"])
def test_no_key_reaches_a_handler_in_any_header_that_operators_choose(
    penstock_runtime: Start, header: str
) -> None:
    runtime = penstock_runtime(
        offering(), policy="api-key", api_key_headers=("X-API-Key", "apikey", "X-Partner-Key")
    )
    client = runtime.client("acme", token=False)
    key = client.headers.pop("X-API-Key")

    for received in called(runtime, client, headers={header: key, "X-Mine": "yes"}):
        assert (received["headers"]["x-mine"], received["consumer"]) == ("yes", "acme")
        assert header.lower() not in received["headers"]
        assert key not in str(received)
    assert key not in stored_records(runtime)


def test_no_token_reaches_a_handler(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(jwt=True), policy="jwt-api-key")
    client = runtime.client("acme", subject="ann")
    token = client.headers["Authorization"].partition(" ")[2]

    for received in called(runtime, client):
        assert received["subject"] == "ann"
        assert "authorization" not in received["headers"]
        assert token not in str(received)
    assert token not in stored_records(runtime)


@pytest.mark.parametrize("name", ["access_token", "API_KEY", "x_api_key", "mine"])
def test_a_credential_that_is_sent_a_second_time_elsewhere_reaches_no_handler_either(
    penstock_runtime: Start, name: str
) -> None:
    runtime = penstock_runtime(offering(jwt=True), policy="jwt-api-key")
    client = runtime.client("acme", subject="ann")
    key, token = client.headers["X-API-Key"], client.headers["Authorization"].partition(" ")[2]
    more = {
        "X-Auth-Token": token,
        "Api-Key": key,
        "X-Authorization": f"Bearer {token}",
        "Referer": f"https://x.example/?k={key}",
        "X-Mine": "yes",
    }

    for received in called(
        runtime, client, f"/v1/orders/?{name}={token}&again={key}&page=2", headers=more
    ):
        assert (received["headers"]["x-mine"], received["query"]) == ("yes", {"page": ["2"]})
        assert key not in str(received)
        assert token not in str(received)


def test_no_password_reaches_a_handler(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(basic=True), policy="api-key")
    client = runtime.client("acme", token=False)
    runtime.operate(
        "credential", "add", "basic", "acme", "--env", "test", "--name", "ann", given=PASSWORD
    )
    sent = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()

    for received in called(
        runtime,
        client,
        headers={"Authorization": f"Basic {sent}", "Proxy-Authorization": f"Basic {sent}"},
    ):
        assert not {"authorization", "proxy-authorization"} & received["headers"].keys()
        assert sent not in str(received)


@pytest.mark.parametrize("name", ["api_key", "apikey", "%61pi_key", "api%5Fkey", "session"])
def test_no_key_in_the_query_reaches_a_handler_or_a_record(
    penstock_runtime: Start, name: str
) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")
    client = runtime.client("acme", token=False)
    runtime.operate("env", "set", "test", "--keys-in-query", "on")
    secret = client.headers["X-API-Key"] if name != "session" else SESSION

    for received in called(runtime, client, f"/v1/orders/?page=2&{name}={secret}&tag=a%26b&empty="):
        assert received["query"] == {"page": ["2"], "tag": ["a&b"], "empty": [""]}
        assert received["query_string"] == "page=2&tag=a%26b&empty="
        assert secret not in str(received)
    assert secret not in stored_records(runtime)


def test_what_a_plugin_s_authenticator_looks_at_is_withheld_too(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")

    for received in called(
        runtime, runtime.client("acme", token=False), headers={"X-Session": SESSION}
    ):
        assert SESSION not in str(received)


def test_a_certificate_header_is_withheld_from_any_sender(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        offering(),
        policy="api-key",
        client_cert_header="X-Client-Cert",
        trusted_proxies=(ip_network("10.0.0.0/8"),),
    )
    sent = {"X-Client-Cert": ":AAAA:", "Client-Cert": ":AAAA:", "Client-Cert-Chain": ":AAAA:"}

    for received in called(runtime, runtime.client("acme", token=False), headers=sent):
        assert not {name.lower() for name in sent} & received["headers"].keys()


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        ("cart=7; penstock_console=.eJx; theme=dark", "cart=7; theme=dark"),
        ("penstock_console=.eJx", None),
        ("cart=penstock_console", "cart=penstock_console"),
        (" penstock_console =x;cart=7", "cart=7"),
    ],
)
def test_cookies_are_the_pipeline_s_own_but_for_the_console_s(sent: str, left: str | None) -> None:
    assert Withheld().without({"cookie": sent}).get("cookie") == left


def test_a_signature_is_no_secret_and_stays(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")

    for received in called(
        runtime, runtime.client("acme", token=False), headers={"X-Signature": "sha256=00"}
    ):
        assert received["headers"]["x-signature"] == "sha256=00"


class TestForwardToken:
    """A pipeline that must hand a token on says so."""

    def test_its_handlers_get_the_token_and_nothing_else(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(offering(jwt=True, forward_token=True), policy="jwt-api-key")
        client = runtime.client("acme")
        sent = client.headers["Authorization"]

        for received in called(runtime, client):
            assert received["headers"]["authorization"] == sent
            assert "x-api-key" not in received["headers"]
            assert client.headers["X-API-Key"] not in str(received)

    def test_what_is_no_verified_token_is_not_handed_on(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(offering(basic=True, forward_token=True), policy="api-key")
        client = runtime.client("acme", token=False)
        runtime.operate(
            "credential", "add", "basic", "acme", "--env", "test", "--name", "ann", given=PASSWORD
        )
        sent = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()

        for received in called(runtime, client, headers={"Authorization": f"Basic {sent}"}):
            assert "authorization" not in received["headers"]

    def test_it_is_shown_in_the_commands_and_in_the_gate_s_words(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(
            offering(jwt=True, forward_token=True), offering_another(), policy="jwt-api-key"
        )
        host = runtime._host  # noqa: SLF001  the kit has no door to it
        words = {
            name: describe_gate(item, host.catalog.plugins.authenticators)
            for name, item in host.view.evaluated.external.items()
        }

        assert words["v1/orders"].endswith("Its handlers get the token itself.")
        assert "get the token itself" not in words["v1/other"]

    def test_it_must_be_true_or_false(self) -> None:
        with pytest.raises(TypeError, match="forward_token"):
            HttpTrigger(forward_token="yes")  # type: ignore[arg-type]  # it is wrong


def offering_another() -> object:
    other = Pipeline("other", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))
    other.get("/")(seen)

    class Another:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [other]

    return Another


@pytest.mark.parametrize(
    ("annotation", "name", "forwards"),
    [
        (Annotated[str, Header("X-API-Key")], "key", False),
        (Annotated[str, Header()], "authorization", False),
        (str, "api_key", False),
    ],
)
def test_a_parameter_that_would_hold_a_credential_refuses_the_pipeline(
    penstock_runtime: Start, annotation: Any, name: str, forwards: bool
) -> None:
    pipeline = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))

    def show(call: Call, *, value: str) -> str:
        return value

    source = f"def show(call: Call, *, {name}: annotation) -> str:\n    return {name}"
    scope = {"Call": Call, "annotation": annotation}
    exec(source, scope)  # noqa: S102  a handler with that parameter
    pipeline.get("/")(scope["show"])  # type: ignore[type-var]  # it is a function

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [pipeline]

    assert "holds a credential, which handlers don't get; use call.caller" in str(
        penstock_runtime(Plugin).problems()
    )


def test_with_forward_token_a_parameter_may_be_the_header(penstock_runtime: Start) -> None:
    pipeline = Pipeline(
        "orders", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True, forward_token=True)
    )

    @pipeline.get("/")
    def show(call: Call, *, authorization: Annotated[str, Header()]) -> str:
        return authorization

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [pipeline]

    runtime = penstock_runtime(Plugin)
    client = runtime.client()

    assert runtime.problems() == []
    assert client.get("/v1/orders/").text == client.headers["Authorization"]


def test_a_call_that_is_made_by_hand_has_no_credentials_either() -> None:
    call = a_call(
        headers={
            "Authorization": "Bearer x",
            "X-API-Key": "pk",
            "apikey": "pk",
            "Content-Type": "text/plain",
        }
    )

    assert dict(call.headers) == {"content-type": "text/plain"}


names = st.sampled_from(["api_key", "apikey", "page", "API_KEY", "api_keys", "a", ""])


@given(st.lists(st.tuples(names, st.text(max_size=5))))
def test_what_is_withheld_of_a_query_is_withheld_however_it_is_written(
    pairs: list[tuple[str, str]],
) -> None:
    from urllib.parse import parse_qsl

    withheld = Withheld.of((), ("api_key", "apikey"))
    text = "&".join(
        f"{''.join(f'%{ord(letter):02x}' for letter in name)}={quote(value)}"
        for name, value in pairs
    )

    assert parse_qsl(withheld.query(text), keep_blank_values=True) == [
        pair
        for pair in parse_qsl(text, keep_blank_values=True)
        if pair[0] not in {"api_key", "apikey"}
    ]
