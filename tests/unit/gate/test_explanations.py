"""Explanations: decided by the gate itself, and the smallest change that lets a call pass."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any
from unittest import mock

import pytest

from penstock import Call, HttpTrigger, Pipeline, Schedule, hookimpl, secret
from penstock.access import api_keys, consumers, policies
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.environments import create_environment
from penstock.access.presented_keys import keys_of
from penstock.access.snapshot import Snapshot
from penstock.cli.base import Context
from penstock.db.engine import open_engine
from penstock.errors import UsageError
from penstock.gate.attempts import UNKNOWN_KEY, Attempt, PresentedKey
from penstock.gate.decisions import Examination
from penstock.gate.explanations import explain
from penstock.gate.exposure import exposures
from penstock.gate.open_pipelines import Reach, exposed_pipelines
from penstock.host.explanation import (
    examination_of,
    explain_gate,
    presented,
)
from penstock.host.host import Host
from penstock.settings import Settings
from penstock.testing.database import create_database
from penstock.testing.runtime import OPERATIONS

NAMES = ("acme", "globex", "initech", "hooli")
POLICIES = {"test": "api-key", "prod": "jwt-api-key", "lab": "any"}
ADDRESSES = ("10.1.2.3", "10.9.1.1", "192.0.2.7", "2001:db8::1")
TRIGGERS: dict[str, dict[str, Any]] = {
    "open": {},
    "keyed": {"api_key": True},
    "both": {"api_key": True, "jwt": True},
    "scoped": {"api_key": True, "jwt": True, "scopes": {"orders:read", "orders:write"}},
    "login": {"api_key": True, "login": True},
    "needy": {"api_key": True, "jwt": True},
    "near": {"api_key": True, "jwt": True, "allow": "10.0.0.0/8", "deny": "10.9.0.0/16"},
    "typed": {"basic": True, "api_key": True},
}


class Shop:
    """A plugin with a pipeline for each kind of gate, and one without HTTP."""

    @hookimpl
    def penstock_pipelines(self) -> list[Pipeline]:
        offered = [
            Pipeline(
                name,
                version="1.0.0",
                trigger=HttpTrigger(**trigger),
                needs={"shop_url", secret("shop_token")} if name == "needy" else (),
            )
            for name, trigger in TRIGGERS.items()
        ]
        offered.append(Pipeline("nightly", version="1.0.0", trigger=Schedule("0 3 * * *")))
        for pipeline in offered:
            add = pipeline.post if pipeline.name == "nightly" else pipeline.get

            @add("/")
            def show(call: Call) -> dict[str, object]:
                return {"consumer": call.caller.consumer}

        return offered


@dataclass
class World:
    """A database, the access data of three environments, and a source of chance."""

    context: Context
    snapshots: dict[str, Snapshot]
    chance: random.Random

    def examine(self, environment: str, attempt: Attempt) -> Examination:
        host = self.context.host
        access = self.snapshots[environment]
        access.refresh(self.context.engine)
        return examination_of(host.catalog, host.evaluator, access, self.context.engine, attempt)

    def operate(self, command: str) -> str:
        words = shlex.split(command)[1:]
        with redirect_stdout(StringIO()) as output, mock.patch("sys.stdin", StringIO("value")):
            OPERATIONS.main(words, obj=self.context, standalone_mode=False)
        return output.getvalue()

    def presented(self, consumer: str, environment: str) -> list[PresentedKey]:
        return [presented(key) for key in keys_of(self.context.engine, consumer, environment)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url, secret_key = create_database(tmp_path_factory.mktemp("explain")), make_secret_key()
    settings = Settings(database_url=url, secret_keys=(secret_key,), log_calls="none")
    context = Context("test")
    context.settings, context.engine = settings, open_engine(url)
    context.box = SecretBox((secret_key,))
    context.host = Host(settings, extra=[("shop", Shop())])
    engine, offered = context.engine, context.host.catalog.offered
    for name, policy in POLICIES.items():
        create_environment(engine, "test", name, context.box)
        policies.set_policy(engine, "test", name, policy, served={}, stopping=())
    for name in NAMES:
        consumers.create_consumer(engine, "test", name)
        for environment in POLICIES:
            consumers.associate(engine, "test", name, offered, environment, offered)
            api_keys.create_key(engine, "test", name, environment)
    snapshots = {name: Snapshot(name, context.box) for name in POLICIES}
    yield World(context, snapshots, random.Random(16))
    engine.dispose()


def test_a_wrong_key_is_a_matter_of_its_caller_and_no_credential_is_shown(world: World) -> None:
    explained = explain(world.examine("test", Attempt("v1/keyed", None, UNKNOWN_KEY)))

    assert explained.decision.problem == "invalid-api-key"
    assert explained.by_caller_alone
    shown = repr(explained) + repr(explained.document())
    assert "pk_test_" not in shown.replace("pk_test_…", "")
    assert "eyJ" not in shown


def test_a_pipeline_without_a_gate_reads_as_one_that_runs_on_its_schedule(world: World) -> None:
    host, access = world.context.host, world.snapshots["prod"]
    access.refresh(world.context.engine)

    facts = explain_gate(host.catalog, host.evaluator, access, "v1/nightly", internal=False).facts

    values = {fact.name: fact.value for fact in facts}
    assert values["Calls"] == "Not called over HTTP; runs on its schedule"
    assert values["Schedule"] == "0 3 * * * (UTC)"
    assert "Largest body" not in values


def test_each_requirement_names_the_policy_version_or_the_option_it_comes_from(
    world: World,
) -> None:
    host, access = world.context.host, world.snapshots["prod"]
    access.refresh(world.context.engine)

    facts = explain_gate(host.catalog, host.evaluator, access, "v1/scoped", internal=False).facts

    sources = {fact.name: fact.source for fact in facts}
    version = access.environment.policy_version
    assert sources["token"].startswith(f"policy jwt-api-key, version {version} and jwt= on its")
    assert sources["Scopes"] == "scopes= on its HttpTrigger"


def test_exposure_says_who_may_call_in_each_environment_and_what_differs(world: World) -> None:
    host = world.context.host
    world.operate("penstock pipeline enable v1/open --env lab")
    engine, box, broken = world.context.engine, world.context.box, host.catalog.broken
    evaluated = {
        name: host.evaluator.evaluate_environment(engine, name, box)[1] for name in POLICIES
    }

    exposed = {
        item.pipeline: item
        for item in exposed_pipelines(
            {
                name: exposures(each.external, each.internal, broken)
                for name, each in evaluated.items()
            }
        )
    }

    assert exposed["v1/open"].reach["test"] is Reach.CLOSED
    assert exposed["v1/open"].reach["lab"] is Reach.ANYONE
    assert exposed["v1/open"].differs
    assert "v1/nightly" not in exposed


def test_the_commands_explain_a_gate_a_made_up_call_and_what_is_exposed(world: World) -> None:
    for command in (
        "key create hooli --env lab",
        "consumer enable hooli",
        "pipeline enable v1/keyed --env lab",
    ):
        world.operate(f"penstock {command}")
    key = next(key for key in world.presented("hooli", "lab") if key.state == "usable")
    world.operate("penstock consumer associate hooli v1/keyed --env lab")
    world.operate("penstock consumer dissociate hooli v1/keyed --env lab")

    gate = json.loads(world.operate("penstock explain keyed --env lab --format json"))
    call = json.loads(
        world.operate(
            f"penstock explain keyed --env lab --consumer hooli --key {key.id} --format json"
        )
    )

    assert {fact["name"] for fact in gate["facts"]} >= {"API key", "Time limit", "Largest body"}
    assert call["problem"] == "not-associated"
    command = "penstock consumer associate hooli v1/keyed --env lab"
    assert [change["command"] for change in call["changes"]] == [command]
    exposed = json.loads(world.operate("penstock exposure --format json"))
    assert "v1/keyed" in {item["pipeline"] for item in exposed}
    with pytest.raises(UsageError, match="--key: a stored key needs its consumer"):
        world.operate("penstock explain keyed --env lab --key abcd")
