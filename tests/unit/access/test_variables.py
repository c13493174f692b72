"""Variables and secrets: what a pipeline needs and gets, and what never shows."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from support.place import ACTOR, Place, Server, wait_for

from penstock import Call, HttpTrigger, Pipeline, Secret, audit, hookimpl, secret
from penstock.access import variables
from penstock.errors import UsageError
from penstock.testing import Runtime, a_call

Start = Callable[..., Runtime]
VALUE = "s3cr3t-value-of-the-erp"


def offering(handler: Callable[..., object], *expected: Any, name: str = "sync") -> SimpleNamespace:
    pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(), needs=expected)
    pipeline.get("/")(handler)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__=name, penstock_pipelines=penstock_pipelines)


def show(call: Call) -> dict[str, object]:
    return {
        "variables": dict(call.variables),
        "secrets": {name: value.reveal() for name, value in call.secrets.items()},
    }


def test_a_pipeline_gets_its_variables_and_secrets_live(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(show), policy="any")
    runtime.operate("variable", "set", "erp_url", "https://erp.example", "--env", "test")
    runtime.operate("secret", "set", "erp_token", "--env", "test", given=VALUE + "\n")

    assert runtime.anonymous().get("/v1/sync/").json == {
        "variables": {"erp_url": "https://erp.example"},
        "secrets": {"erp_token": VALUE},
    }
    runtime.operate("variable", "unset", "erp_url", "--env", "test")
    runtime.operate("secret", "unset", "erp_token", "--env", "test")
    assert runtime.anonymous().get("/v1/sync/").json == {"variables": {}, "secrets": {}}


def test_a_pipeline_that_needs_an_unset_variable_is_blocked_with_the_fix(
    penstock_runtime: Start,
) -> None:
    runtime = penstock_runtime(offering(show, "erp_url", secret("erp_token")), policy="any")

    assert runtime.blocked() == {
        "v1/sync": [
            (
                "it needs the variable 'erp_url', which is not set in 'test'; set it: `penstock"
                " variable set erp_url VALUE --env test`"
            ),
            (
                "it needs the secret 'erp_token', which is not set in 'test'; set it: `penstock"
                " secret set erp_token --env test`"
            ),
        ]
    }
    assert runtime.anonymous().get("/v1/sync/").status_code == 503
    runtime.operate("variable", "set", "erp_url", "x", "--env", "test")
    runtime.operate("secret", "set", "erp_token", "--env", "test", given=VALUE)
    assert runtime.blocked() == {}
    assert runtime.anonymous().get("/v1/sync/").status_code == 200
    runtime.operate("secret", "unset", "erp_token", "--env", "test")
    assert runtime.anonymous().get("/v1/sync/").status_code == 503


def test_grace_is_for_policies_not_for_what_is_missing(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(show, "erp_url"), policy="any")
    runtime.operate("variable", "set", "erp_url", "x", "--env", "test")
    runtime.operate("policy", "set", "test", "api-key", "--grace", "7d")
    assert runtime.blocked() == {}

    runtime.operate("variable", "unset", "erp_url", "--env", "test")

    assert "it needs the variable 'erp_url'" in " ".join(runtime.blocked()["v1/sync"])


def test_a_secret_may_be_kept_for_some_pipelines(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        offering(show, secret("erp_token")), offering(show, name="other"), policy="any"
    )

    runtime.operate(
        "secret", "set", "erp_token", "--env", "test", "--pipeline", "other", given=VALUE
    )

    assert "which is for other pipelines in 'test'" in runtime.blocked()["v1/sync"][0]
    assert runtime.anonymous().get("/v1/other/").json == {
        "variables": {},
        "secrets": {"erp_token": VALUE},
    }
    with pytest.raises(UsageError, match="did you mean 'other'"):
        runtime.operate(
            "secret", "set", "erp_token", "--env", "test", "--pipeline", "othr", given=VALUE
        )


def test_a_secret_that_expires_is_warned_about_and_then_refuses(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(show, secret("erp_token")), policy="any")
    runtime.operate("secret", "set", "erp_token", "--env", "test", "--expires", "20d", given=VALUE)
    now = time.time()
    assert "expires" not in str(runtime.warnings())

    with mock.patch("time.time", return_value=now + 7 * 86_400):
        runtime.operate("env", "list")
        assert "the secret 'erp_token' expires on" in str(runtime.warnings())
        assert runtime.anonymous().get("/v1/sync/").status_code == 200
    with mock.patch("time.time", return_value=now + 21 * 86_400):
        runtime.operate("env", "list")
        assert (
            "it needs the secret 'erp_token', which has expired" in runtime.blocked()["v1/sync"][0]
        )
        assert runtime.anonymous().get("/v1/sync/").status_code == 503


def test_an_expired_secret_is_not_readable(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(show), policy="any")
    runtime.operate("secret", "set", "erp_token", "--env", "test", "--expires", "1h", given=VALUE)

    with mock.patch("time.time", return_value=time.time() + 3601):
        assert runtime.anonymous().get("/v1/sync/").json == {"variables": {}, "secrets": {}}


@pytest.mark.parametrize("need", ["Erp", "", "1a", "a-b", secret("x y"), 5])
def test_a_need_that_can_be_no_name_is_a_mistake(penstock_runtime: Start, need: Any) -> None:
    assert (
        "which can't be a name"
        in penstock_runtime(offering(show, need), policy="any").problems()[0]
    )


def test_a_secret_shows_itself_nowhere(
    penstock_runtime: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    def leak(call: Call) -> object:
        print(call, call.secrets, vars)  # noqa: T201  what a careless handler may do
        if call.query:
            raise ValueError(call.secrets["erp_token"])
        return {"token": call.secrets["erp_token"]}

    runtime = penstock_runtime(offering(leak), policy="any", log_calls="all")
    runtime.operate("secret", "set", "erp_token", "--env", "test", given=VALUE)

    answers = [runtime.anonymous().get("/v1/sync/"), runtime.anonymous().get("/v1/sync/?fail=1")]

    assert [answered.status_code for answered in answers] == [500, 500]
    printed = "".join(capfd.readouterr())
    assert "<Secret erp_token>" in printed
    assert VALUE not in printed + "".join(answered.text for answered in answers)


def test_a_secret_can_be_neither_pickled_nor_written() -> None:
    hidden = Secret("erp_token", VALUE)

    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(hidden)
    assert VALUE not in f"{hidden} {hidden!r} {[hidden]}"
    assert not hasattr(hidden, "__dict__")


def test_the_kit_gives_a_handler_what_it_needs() -> None:
    call = a_call(
        variables={"erp_url": "x"}, read_secrets=lambda: {"erp_token": Secret("erp_token", VALUE)}
    )

    assert show(call) == {"variables": {"erp_url": "x"}, "secrets": {"erp_token": VALUE}}


class TestKept:
    """The store, on each database."""

    def test_secrets_are_sealed_at_rest_and_wiped(self, place: Place) -> None:
        from penstock.db.engine import reading
        from penstock.db.tables import PipelineSecretRow
        from penstock.db.unit_of_work import RowReader

        def sealed() -> bytes:
            with reading(place.engine) as connection:
                row = RowReader(connection).find(
                    PipelineSecretRow, {PipelineSecretRow.name: "erp_token"}
                )
                return bytes(row.sealed) if row else b"none"

        variables.set_secret(place.engine, ACTOR, "test", "erp_token", VALUE, place.box)
        assert VALUE.encode() not in sealed()
        assert place.box.decrypt(sealed()).decode() == VALUE
        assert place.snapshot().secrets["erp_token"].value.reveal() == VALUE
        variables.unset_secret(place.engine, ACTOR, "test", "erp_token")
        assert sealed() == b""
        assert dict(place.snapshot().secrets) == {}

    def test_they_are_of_one_environment_and_audited_without_the_secret(self, place: Place) -> None:
        variables.set_variable(place.engine, ACTOR, "test", "erp_url", "https://erp.example")
        variables.set_secret(
            place.engine, ACTOR, "test", "erp_token", VALUE, place.box, expires=timedelta(days=3)
        )

        assert dict(place.snapshot("prod").variables) == dict(place.snapshot("prod").secrets) == {}
        events = audit.events(place.engine, limit=2)
        assert [(event.action, event.subject) for event in events] == [
            ("secret:set", "erp_token"),
            ("variable:set", "erp_url"),
        ]
        assert events[1].detail == {"value": "https://erp.example"}
        assert VALUE not in str(events)
        (listed,) = variables.list_secrets(place.engine)
        assert timedelta(days=2) < listed.expires_at - datetime.now(UTC) < timedelta(days=4)  # type: ignore[operator]  # a datetime
        assert VALUE not in str(listed)

    def test_a_follower_ends_where_a_fresh_one_begins(self, place: Place) -> None:
        follower = place.snapshot()
        version = follower.gates_version
        for value in ("1", "2"):
            variables.set_variable(place.engine, ACTOR, "test", "erp_url", value)
            variables.set_secret(place.engine, ACTOR, "test", "erp_token", value, place.box)
            follower.refresh(place.engine)

        assert dict(follower.variables) == dict(place.snapshot().variables) == {"erp_url": "2"}
        assert follower.secrets_for("any")["erp_token"].reveal() == "2"
        assert follower.gates_version > version

    @pytest.mark.parametrize(
        ("name", "value"),
        [("Erp", "x"), ("", "x"), ("a" * 65, "x"), ("erp", "x" * 70_000), ("erp", "")],
    )
    def test_what_makes_no_sense_changes_nothing(self, place: Place, name: str, value: str) -> None:
        with pytest.raises(UsageError):
            variables.set_secret(place.engine, ACTOR, "test", name, value, place.box)
        with pytest.raises(UsageError, match="no secret is named"):
            variables.unset_secret(place.engine, ACTOR, "test", "other")
        with pytest.raises(UsageError, match="no variable is named"):
            variables.unset_variable(place.engine, ACTOR, "test", "other")
        assert place.snapshot().revision == 2


PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl, secret

sync = Pipeline("sync", version="1.0.0", trigger=HttpTrigger(), needs={"erp_url", secret("erp_token")})

@sync.get("/")
def show(call: Call): return {"url": call.variables["erp_url"], "token": call.secrets["erp_token"].reveal()}

@hookimpl
def penstock_pipelines(): return [sync]
"""  # noqa: E501  text as it is


def test_a_deployment_is_checked_corrected_and_served(
    place: Place, serve: Callable[..., Server]
) -> None:
    place.plugin("sync", PLUGIN)
    place.policy("any")

    before = place.run("check", "--env", "test")
    server = serve(place, workers=2)
    refused = server.client.get("/v1/sync/").status_code
    place.run("variable", "set", "erp_url", "https://erp.example", "--env", "test")
    done = place.run("secret", "set", "erp_token", "--env", "test", given=VALUE + "\n")

    assert before.returncode == 1
    assert "set it: `penstock secret set erp_token --env test`" in before.stdout
    assert (refused, done.returncode, done.stdout) == (503, 0, "secret erp_token set in test\n")
    wait_for(f"{server.url}/-/health")
    deadline = time.monotonic() + 10
    while (
        answered := server.client.get("/v1/sync/")
    ).status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert answered.json() == {"url": "https://erp.example", "token": VALUE}
    assert place.run("check", "--env", "test").returncode == 0
    assert (
        VALUE
        not in server.log.read_text()
        + place.run("audit", "--format", "json").stdout
        + place.run("secret", "list").stdout
    )


VARIABLE_MISSING = (
    "the variable 'nope' is not set in environment 'test'; set it: `penstock variable set nope"
    ' VALUE --env test`, and declare needs={"nope"} on the pipeline, so that `penstock check`'
    " reports it before a call fails"
)
SECRET_MISSING = (
    "the secret 'nope' is not set, has expired or is limited to other pipelines in environment"
    " 'test'; set it: `penstock secret set nope --env test`, and declare needs={secret(\"nope\")}"
    " on the pipeline, so that `penstock check` reports it before a call fails"
)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda call: call.variables["nope"], VARIABLE_MISSING),
        (lambda call: call.secrets["nope"], SECRET_MISSING),
    ],
)
def test_a_name_that_is_not_set_says_where_and_how_to_set_and_declare_it(
    penstock_runtime: Start, ask: Callable[[Call], object], message: str
) -> None:
    raised: list[str] = []

    def handler(call: Call) -> None:
        try:
            ask(call)
        except KeyError as error:
            raised.append(str(error))

    runtime = penstock_runtime(offering(handler), policy="any")
    for set_before in (False, True):
        if set_before:
            runtime.operate("variable", "set", "erp_url", "x", "--env", "test")
            runtime.operate("secret", "set", "erp_token", "--env", "test", given=VALUE)
        runtime.anonymous().get("/v1/sync/")
    handler(a_call())

    assert raised == [message] * 3
    assert a_call(variables={"a": "b"}).variables.get("nope") is None
