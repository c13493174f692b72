"""Both tables of the access rules over real HTTP: policy x toggles x credentials, on gunicorn."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support.place import ACTOR, Place, Server

from penstock.access import api_keys, consumers, signing_keys

PLUGIN = """
from penstock import Call, Cors, HttpTrigger, Pipeline, PipelineError, hookimpl

def made(name, **trigger):
    pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(**trigger))

    @pipeline.post("/")
    def echo(call: Call, body: dict) -> dict:
        return {"consumer": call.caller.consumer, "subject": call.caller.subject, "body": body}

    @pipeline.get("/boom")
    def boom(call: Call) -> dict:
        raise RuntimeError("secret inside")

    @pipeline.get("/teapot")
    def teapot(call: Call) -> dict:
        raise PipelineError(418, "Teapot", "short and stout", pot="small")

    return pipeline

@hookimpl
def penstock_pipelines():
    return [
        made("none"), made("key", api_key=True), made("jwt", jwt=True), made("both", api_key=True, jwt=True),
        made("scoped", api_key=True, jwt=True, scopes={"orders:write"}), made("login", api_key=True, login=True), made("weak-login", login=True),
        made("hidden", api_key=True, jwt=True, external=False), made("small", api_key=True, jwt=True, max_body=32),
        made("browser", api_key=True, jwt=True, cors=Cors(["https://shop.example"])),
    ]
"""  # noqa: E501  text as it is
POLICIES = ("api-key", "jwt-api-key", "any")
TOGGLES: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "key": frozenset({"api_key"}),
    "jwt": frozenset({"jwt"}),
    "both": frozenset({"api_key", "jwt"}),
}
LOADS = {
    ("api-key", "key"), ("api-key", "both"), ("jwt-api-key", "both"),
    ("any", "none"), ("any", "key"), ("any", "jwt"), ("any", "both"),
}  # fmt: skip
DEMANDS = {"api-key": {"api_key"}, "jwt-api-key": {"api_key", "jwt"}, "any": set()}
NAMES = (*TOGGLES, "scoped", "login", "weak-login", "small", "browser")


@dataclass
class World:
    """Three servers, one a policy, and credentials for each."""

    servers: dict[str, Server]
    credentials: dict[str, dict[str, tuple[str | None, str | None]]]

    def post(self, policy: str, pipeline: str, credential: str) -> httpx.Response:
        key, token = self.credentials[policy][credential]
        return self.servers[policy].call(
            "POST", f"/v1/{pipeline}/", key=key, token=token, json={"a": 1}
        )


KEYS = {
    "none": None,
    "good": True,
    "unknown": False,
    "mistyped": False,
    "expired": False,
    "revoked": False,
    "disabled": False,
    "elsewhere": False,
}
TOKENS = {"none": None, "good": True, "garbage": False, "expired": False, "other consumer": False}
CREDENTIALS = [f"{key}/{token}" for key in KEYS for token in TOKENS]


@pytest.fixture(scope="module", params=["penstock", "gthread"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("tables")
    place = Place.make(f"sqlite:///{folder}/access.db", folder, POLICIES)
    place.plugin("shapes", PLUGIN)
    consumers.create_consumer(place.engine, ACTOR, "acme")
    consumers.create_consumer(place.engine, ACTOR, "other")
    consumers.create_consumer(place.engine, ACTOR, "idle")
    consumers.create_consumer(place.engine, ACTOR, "shut")
    credentials = {}
    keys = {name: place.key("acme", name) for name in POLICIES}
    for env in POLICIES:
        place.policy(env, env)
        for name in ("acme", "other", "shut"):
            place.associate(name, *NAMES, env=env)
        ended = {kind: place.key("acme", env) for kind in ("expired", "revoked", "disabled")}
        api_keys.revoke_key(place.engine, ACTOR, ended["revoked"].id)
        api_keys.set_key_enabled(place.engine, ACTOR, ended["disabled"].id, enabled=False)
        expire(place, ended["expired"].id)
        good = keys[env].key
        by_key = {
            "none": None, "good": good, "unknown": None,
            "mistyped": good[:-1] + ("a" if good[-1] != "a" else "b"),
            **{kind: key.key for kind, key in ended.items()},
            "elsewhere": keys[POLICIES[POLICIES.index(env) - 1]].key,
        }  # fmt: skip
        from penstock import make_api_key

        by_key["unknown"] = make_api_key(env)
        now = time.time()
        by_token = {
            "none": None, "good": place.token("acme", env, scopes=frozenset({"orders:write"})),
            "garbage": "not.a.token",
            "expired": place.token("acme", env, now=now - 8000),
            "other consumer": place.token("other", env),
        }  # fmt: skip
        credentials[env] = {
            f"{key}/{token}": (by_key[key], by_token[token]) for key in KEYS for token in TOKENS
        }
        credentials[env]["unscoped"] = (good, place.token("acme", env))
        credentials[env]["idle"] = (place.key("idle", env).key, place.token("idle", env))
        credentials[env]["shut"] = (place.key("shut", env).key, place.token("shut", env))
    consumers.set_consumer_enabled(place.engine, ACTOR, "shut", enabled=False)
    place.designate("login", "jwt-api-key")
    place.designate("weak-login", "jwt-api-key")
    servers: dict[str, Server] = {}
    try:
        for env in POLICIES:
            servers[env] = Server(place, env, PENSTOCK_WORKER_CLASS=request.param).__enter__()
        yield World(servers, credentials)
    finally:
        for server in servers.values():
            server.__exit__(None, None, None)


def expire(place: Place, key_id: str) -> None:
    from datetime import UTC, datetime, timedelta

    from penstock.db.tables import ApiKeyRow
    from penstock.db.unit_of_work import access_change

    with access_change(place.engine) as rows:
        rows.set(
            ApiKeyRow,
            {ApiKeyRow.id: key_id},
            {ApiKeyRow.expires_at: datetime.now(UTC) - timedelta(seconds=5)},
        )


def expected(policy: str, pipeline: str, credential: str) -> tuple[int, str]:
    """The rules, written down a second time, without the code's help."""
    if (policy, pipeline) not in LOADS:
        return 503, "pipeline-unavailable"
    key, token = credential.split("/")
    required = DEMANDS[policy] | TOGGLES[pipeline]
    if "jwt" in required:
        # A token is usable only together with an API key of its consumer.
        required = required | {"api_key"}
    if ("api_key" in required and key == "none") or ("jwt" in required and token == "none"):
        return 401, "credentials-missing"
    if KEYS[key] is False:
        return 401, "invalid-api-key"
    if TOKENS[token] is False or (token == "good" and key == "none"):
        return 401, "invalid-token"
    return 200, ""


@pytest.mark.parametrize(
    ("policy", "pipeline", "credential"), list(itertools.product(POLICIES, TOGGLES, CREDENTIALS))
)
def test_a_call_gets_exactly_what_the_tables_say(
    world: World, policy: str, pipeline: str, credential: str
) -> None:
    reply = world.post(policy, pipeline, credential)

    status, kind = expected(policy, pipeline, credential)
    assert reply.status_code == status, reply.text
    if status == 200:
        assert reply.json()["consumer"] == ("acme" if credential.startswith("good") else None)
        assert reply.json()["subject"] == ("ann" if credential == "good/good" else None)
    else:
        problem = reply.json()
        assert reply.headers["content-type"] == "application/problem+json"
        assert problem["type"] == kind
        assert problem["status"] == status
        assert {"title", "detail", "run"} <= problem.keys()
        assert ("www-authenticate" in reply.headers) == (status == 401)
        key, token = world.credentials[policy][credential]
        assert not any(secret and secret in reply.text for secret in (key, token))
    if kind == "invalid-token":
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]


class TestTheOtherRows:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_no_such_path_and_internal_pipelines_are_404(self, world: World, policy: str) -> None:
        for path in ("/v1/nothing/", "/v2/both/", "/v1/hidden/", "/v1/both/deeper", "/", "/v1"):
            reply = world.servers[policy].call("POST", path)
            assert (reply.status_code, reply.json()["type"]) == (404, "not-found"), path

    def test_an_unknown_method_is_405_and_says_which_are_known_even_without_credentials(
        self, world: World
    ) -> None:
        reply = world.servers["jwt-api-key"].call("DELETE", "/v1/both/")

        assert (reply.status_code, reply.json()["type"], reply.headers["allow"]) == (
            405,
            "method-not-allowed",
            "POST",
        )

    def test_a_preflight_needs_no_credentials_and_others_get_no_cors(self, world: World) -> None:
        ask = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        server = world.servers["jwt-api-key"]

        reply = server.call("OPTIONS", "/v1/browser/", headers=ask)

        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (
            204,
            "https://shop.example",
        )
        assert (
            "access-control-allow-origin"
            not in server.call(
                "OPTIONS", "/v1/browser/", headers={**ask, "Origin": "https://evil.example"}
            ).headers
        )
        assert server.call("OPTIONS", "/v1/both/", headers=ask).status_code == 405

    @pytest.mark.parametrize("who", ["idle", "shut"])
    def test_a_consumer_that_is_disabled_or_not_associated_is_403(
        self, world: World, who: str
    ) -> None:
        reply = world.post("jwt-api-key", "both", who)

        assert (reply.status_code, reply.json()["type"]) == (403, "not-associated")

    def test_a_missing_scope_is_403_and_named(self, world: World) -> None:
        reply = world.post("jwt-api-key", "scoped", "unscoped")

        assert (reply.status_code, reply.json()["type"]) == (403, "insufficient-scope")
        assert (
            'error="insufficient_scope", scope="orders:write"' in reply.headers["www-authenticate"]
        )
        assert world.post("jwt-api-key", "scoped", "good/good").status_code == 200

    def test_a_login_flow_needs_its_key_but_no_token_once_designated(self, world: World) -> None:
        assert world.post("jwt-api-key", "login", "good/none").status_code == 200
        assert (
            world.post("jwt-api-key", "login", "none/none").json()["type"] == "credentials-missing"
        )
        assert world.post("jwt-api-key", "weak-login", "good/none").status_code == 503

    @pytest.mark.parametrize(
        ("send", "status", "kind"),
        [
            (
                {
                    "content": b'{"long": "' + b"x" * 40 + b'"}',
                    "headers": {"Content-Type": "application/json"},
                },
                413,
                "body-too-large",
            ),
            (
                {"content": b"{}", "headers": {"Content-Type": "text/csv"}},
                415,
                "unsupported-media-type",
            ),
            (
                {"content": b"{", "headers": {"Content-Type": "application/json"}},
                400,
                "body-malformed",
            ),
            (
                {"content": b"[1]", "headers": {"Content-Type": "application/json"}},
                422,
                "body-invalid",
            ),
        ],
    )
    def test_a_body_that_does_not_fit_is_refused_in_the_right_way(
        self, world: World, send: dict[str, object], status: int, kind: str
    ) -> None:
        key, token = world.credentials["jwt-api-key"]["good/good"]

        reply = world.servers["jwt-api-key"].call(
            "POST", "/v1/small/", key=key, token=token, **send
        )

        assert (reply.status_code, reply.json()["type"]) == (status, kind)

    def test_the_gate_answers_before_anything_of_the_body_is_looked_at(self, world: World) -> None:
        reply = world.servers["jwt-api-key"].call("POST", "/v1/small/", content=b"x" * 4000)

        assert (reply.status_code, reply.json()["type"]) == (401, "credentials-missing")

    def test_a_handler_that_fails_tells_its_caller_nothing(self, world: World) -> None:
        key, token = world.credentials["jwt-api-key"]["good/good"]
        server = world.servers["jwt-api-key"]

        boom, teapot = (
            server.call("GET", f"/v1/both/{path}", key=key, token=token)
            for path in ("boom", "teapot")
        )

        assert (boom.status_code, boom.json()["type"]) == (500, "pipeline-failed")
        assert "secret" not in boom.text
        assert "Traceback" not in boom.text
        assert (teapot.status_code, teapot.json()["title"], teapot.json()["pot"]) == (
            418,
            "Teapot",
            "small",
        )

    def test_two_different_keys_in_one_call_are_refused_and_two_equal_ones_are_not(
        self, world: World
    ) -> None:
        key, token = world.credentials["jwt-api-key"]["good/good"]
        server = world.servers["jwt-api-key"]

        def send(**headers: str) -> httpx.Response:
            return server.call("POST", "/v1/both/", key=key, token=token, json={}, headers=headers)

        assert send(apikey=key or "").status_code == 200
        assert send(apikey="pk_other").json()["type"] == "invalid-api-key"
        assert (
            server.call("POST", "/v1/both/", key=f"{key}, {key}x", token=token, json={}).json()[
                "type"
            ]
            == "invalid-api-key"
        )

    def test_a_key_in_the_query_string_is_refused_unless_allowed(self, world: World) -> None:
        key, token = world.credentials["jwt-api-key"]["good/good"]

        reply = world.servers["jwt-api-key"].call(
            "POST", "/v1/both/", token=token, params={"api_key": key}, json={}
        )

        assert reply.status_code == 401


def test_no_credential_is_ever_in_the_log(world: World) -> None:
    for policy, server in world.servers.items():
        for key, token in world.credentials[policy].values():
            server.call("POST", "/v1/both/", key=key, token=token, json={})
        text = server.log.read_text()
        assert re.search(r'"status": 40[13]', text)
        for key, token in world.credentials[policy].values():
            assert not any(secret and secret in text for secret in (key, token))


def test_signing_keys_can_be_listed(world: World) -> None:
    keys = world.servers["any"].client.get("/.well-known/jwks.json").json()["keys"]

    assert [key["alg"] for key in keys] == ["EdDSA"]
    assert all("d" not in key for key in keys)
    assert signing_keys.ALGORITHMS[0] == "EdDSA"
