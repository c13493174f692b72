"""What `penstock explain` says of a call is what HTTP answers, and its smallest change helps.

Random callers call an application in this process, under random policies, while access is withdrawn
and granted at random. Each answer is compared with the explanation of the same call. A change is
made, by the function or by the command that operators use, and the call is sent again.
"""

from __future__ import annotations

import json
import random
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from penstock import (
    AccessView,
    Authenticator,
    Caller,
    CredentialRejected,
    HttpTrigger,
    Pipeline,
    RequestHead,
    Schedule,
    hookimpl,
    secret,
)
from penstock.access import api_keys, consumers, limits, pipelines, policies, variables
from penstock.access.encryption import SecretBox
from penstock.access.environments import create_environment
from penstock.access.presented_keys import keys_of
from penstock.errors import UsageError
from penstock.execution.explained_calls import DECIDED_BY_GATE, explain_call
from penstock.execution.rejected_queries import find_rejected
from penstock.gate import evaluation
from penstock.gate.attempts import UNKNOWN_KEY, Attempt, PresentedKey, Token
from penstock.gate.changes import Actor, Change, ChangeKind
from penstock.gate.decisions import BAD_TOKEN, Decision, Examination
from penstock.gate.explanations import explain
from penstock.host.explanation import examination_of, presented
from penstock.http.listeners import INTERNAL
from penstock.testing import Runtime
from penstock.testing.tokens import issue_token

REJECTIONS = 1000
NAMES = ("acme", "globex", "initech")
POLICIES = ("api-key", "jwt-api-key", "any")
ADDRESSES = ("10.1.2.3", "10.9.1.1", "192.0.2.7", "2001:db8::1")
SCOPES = ("orders:read", "orders:write")
WRONG_KEY = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"
BOTH: Mapping[str, Any] = {"api_key": True, "jwt": True}
TRIGGERS: Mapping[str, Mapping[str, Any]] = {
    "open": {},
    "keyed": {"api_key": True},
    "both": BOTH,
    "scoped": {**BOTH, "scopes": set(SCOPES)},
    "login": {"api_key": True, "login": True},
    "needy": BOTH,
    "near": {**BOTH, "allow": "10.0.0.0/8", "deny": "10.9.0.0/16"},
    "badged": {"basic": True, "api_key": True},
    "inner": {"api_key": True, "external": False, "internal": True},
    "shared": {**BOTH, "internal": True},
    "broken": {"timeout": -1},
}
CALLED = (*TRIGGERS, "nightly")


class Badges(Authenticator):
    """A cheap credential of its own header, which needs no stored secret."""

    name = "basic"
    noun = "badge"
    refusal = "invalid-basic"
    challenge = "Badge"
    credential_headers = ("X-Badge",)

    def find(self, head: RequestHead, access: AccessView) -> str | None:
        return head.header("X-Badge")

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        consumer = access.consumer_named(credential)
        if consumer is None or caller.consumer not in {None, credential}:
            raise CredentialRejected("unknown")
        return caller.replace(consumer=consumer.name, consumer_id=consumer.id)


class Shop:
    """A plugin with a pipeline for each kind of gate, and one without HTTP."""

    @hookimpl
    def penstock_authenticators(self) -> list[Authenticator]:
        return [Badges()]

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
            add("/")(lambda call: None)
        return offered


class Answer(NamedTuple):
    """The answer to a call: an accepted one has no problem."""

    status: int
    problem: str
    detail: str
    run: str = ""

    @classmethod
    def expected(cls, decision: Decision) -> Answer:
        if decision.accepted:
            return cls(204, "accepted", "")
        return cls(decision.http_status, decision.problem, decision.detail)


@dataclass
class World:
    """A runtime, a source of chance, and the credentials that its callers were given."""

    runtime: Runtime
    chance: random.Random
    secrets: dict[str, str] = field(default_factory=dict)  # keys by their ids
    tokens: dict[tuple[str, frozenset[str]], str] = field(default_factory=dict)
    stored: dict[tuple[str, str], list[PresentedKey]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = self.runtime._engine  # noqa: SLF001  the kit has no functions for all of it
        self.host = self.runtime._host  # noqa: SLF001
        self.box: SecretBox = self.runtime._box  # noqa: SLF001
        self.offered = self.host.catalog.offered

    def catch_up(self) -> None:
        self.stored.clear()
        self.host.upkeep.catch_up(self.engine)

    def examine(self, attempt: Attempt) -> Examination:
        access = self.host.view.snapshot()
        return examination_of(self.host.catalog, self.host.evaluator, access, self.engine, attempt)

    def create_key(self, consumer: str, environment: str = "test") -> None:
        key = api_keys.create_key(self.engine, "test", consumer, environment)
        self.secrets[key.id] = key.key

    def keys(self, consumer: str, environment: str) -> list[PresentedKey]:
        place = consumer, environment
        if place not in self.stored:
            found = keys_of(self.engine, consumer, environment)
            self.stored[place] = [presented(key) for key in found]
        return self.stored[place]

    def answer(self, attempt: Attempt) -> Answer:
        """Send a call with the credentials of an attempt, and return its answer."""
        status: list[str] = []
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "POST" if attempt.pipeline.endswith("nightly") else "GET",
            "PATH_INFO": f"/{attempt.pipeline}/",
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": attempt.address,
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            **({INTERNAL: True} if attempt.internal else {}),
            **self.credentials(attempt),
        }
        body = b"".join(
            self.runtime.application(environ, lambda line, headers: status.append(line))
        )
        document = json.loads(body) if body else {}
        return Answer(
            int(status[0][:3]),
            document.get("type", "accepted"),
            document.get("detail", ""),
            document.get("run", ""),
        )

    def credentials(self, attempt: Attempt) -> dict[str, str]:
        sent = {}
        if attempt.key is not None:
            sent["HTTP_X_API_KEY"] = self.secrets.get(attempt.key.id, WRONG_KEY)
        if attempt.token is not Token.NONE:
            sent["HTTP_AUTHORIZATION"] = f"Bearer {self.token(attempt)}"
        if attempt.others:
            sent["HTTP_X_BADGE"] = attempt.consumer or ""
        return sent

    def token(self, attempt: Attempt) -> str:
        if attempt.token is Token.INVALID or attempt.consumer is None:
            return BAD_TOKEN
        of = f"not {attempt.consumer}" if attempt.token is Token.OTHER else attempt.consumer
        if (of, attempt.scopes) not in self.tokens:
            issuers, access = self.host.catalog.plugins.issuers, self.runtime.access
            self.tokens[of, attempt.scopes] = issue_token(
                issuers, access, of, subject="ann", scopes=attempt.scopes
            )
        return self.tokens[of, attempt.scopes]

    def break_something(self) -> None:
        """Withdraw something at random from a consumer, a pipeline or the environment."""
        engine, chance = self.engine, self.chance
        who, pipeline = chance.choice(NAMES), f"v1/{chance.choice(CALLED)}"
        network = chance.choice(("10.9.0.0/16", "192.0.2.0/24", "10.0.0.0/8"))

        def each_key(change: Callable[[str], object]) -> None:
            for key in self.keys(who, "test"):
                if key.state == "usable":
                    change(key.id)

        actions: tuple[Callable[[], object], ...] = (
            lambda: consumers.set_consumer_enabled(engine, "test", who, enabled=False),
            lambda: consumers.dissociate(engine, "test", who, [pipeline], "test"),
            lambda: consumers.dissociate(engine, "test", who, [pipeline], "test"),
            lambda: pipelines.set_pipeline_enabled(
                engine, "test", "test", pipeline, self.offered, enabled=False
            ),
            lambda: pipelines.set_login_flow(
                engine, "test", "test", "v1/login", self.offered, designated=False
            ),
            lambda: each_key(
                lambda key: api_keys.set_key_enabled(engine, "test", key, enabled=False)
            ),
            lambda: each_key(lambda key: api_keys.revoke_key(engine, "test", key)),
            lambda: limits.set_networks(
                engine, "test", who, "test", [network], allowed=chance.random() < 0.5
            ),
            lambda: variables.unset_variable(engine, "test", "test", "shop_url"),
            lambda: variables.set_secret(
                engine,
                "test",
                "test",
                "shop_token",
                "v",
                self.box,
                pipelines=["v1/both"],
                offered=self.offered,
            ),
            lambda: policies.set_policy(
                engine, "test", "test", chance.choice(POLICIES), served={}, stopping=()
            ),
            lambda: policies.set_policy(
                engine,
                "test",
                "test",
                chance.choice(POLICIES),
                served={},
                stopping=(),
                internal=True,
            ),
        )
        with suppress(UsageError):  # it was withdrawn already
            chance.choice(actions)()
        self.catch_up()

    def attempt(self) -> Attempt:
        """Return a call at random: known and unknown callers, keys and tokens in all states."""
        chance = self.chance
        consumer = chance.choice((*NAMES, *NAMES, None))
        keys: list[PresentedKey | None] = [None, UNKNOWN_KEY]
        if consumer is not None:
            keys += self.keys(consumer, "test") * 3 + self.keys(consumer, "prod")
        pipeline = chance.choice(CALLED)
        return Attempt(
            f"v1/{pipeline}",
            consumer,
            chance.choice(keys),
            chance.choice(list(Token)),
            frozenset(scope for scope in SCOPES if chance.random() < 0.5),
            chance.choice(ADDRESSES),
            frozenset({"basic"} if consumer is not None and chance.random() < 0.3 else ()),
            internal=pipeline in {"inner", "shared"} and chance.random() < 0.5,
        )

    def apply(self, change: Change, attempt: Attempt) -> None:
        """Make a change of an operator by its function."""
        engine, consumer, name = self.engine, attempt.consumer or "", change.name
        pipeline, offered, here = attempt.pipeline, self.offered, (engine, "test", "test")
        functions: Mapping[ChangeKind, Callable[[], object]] = {
            ChangeKind.ENABLE_PIPELINE: lambda: pipelines.set_pipeline_enabled(
                *here, pipeline, offered, enabled=True
            ),
            ChangeKind.DESIGNATE: lambda: pipelines.set_login_flow(
                *here, pipeline, offered, designated=True
            ),
            ChangeKind.SET_VARIABLE: lambda: variables.set_variable(*here, name, "v"),
            ChangeKind.SET_SECRET: lambda: variables.set_secret(
                *here, name, "v", self.box, pipelines=["v1/both", pipeline], offered=offered
            ),
            ChangeKind.ENABLE_CONSUMER: lambda: consumers.set_consumer_enabled(
                engine, "test", consumer, enabled=True
            ),
            ChangeKind.GRANT: lambda: consumers.associate(
                engine, "test", consumer, [pipeline], "test", offered
            ),
            ChangeKind.ENABLE_KEY: lambda: api_keys.set_key_enabled(
                engine, "test", name, enabled=True
            ),
            ChangeKind.CREATE_KEY: lambda: self.create_key(consumer),
            ChangeKind.ALLOW_ADDRESS: lambda: limits.set_networks(
                engine, "test", consumer, "test", [name], allowed=True
            ),
            ChangeKind.REMOVE_NETWORK: lambda: limits.remove_networks(
                engine, "test", consumer, "test", [name]
            ),
        }
        if change.kind in functions:
            functions[change.kind]()
            self.catch_up()

    def operate(self, change: Change) -> None:
        """Make a change by its command."""
        self.stored.clear()
        output = self.runtime.operate(*shlex.split(change.command)[1:], given="value")
        if change.kind is ChangeKind.CREATE_KEY:
            (created,) = re.findall(r"pk_test_\w+", output)
            newest, _ = keys_of(self.engine, change.name, "test")[0]
            self.secrets[newest.id] = created

    def sent(self, change: Change, attempt: Attempt) -> Attempt:
        """Return a call after a change by its caller."""
        if change.kind is ChangeKind.SEND_KEY:
            if attempt.consumer is None:  # a caller with access
                attempt = replace(attempt, consumer=self.caller_of(attempt.pipeline))
            usable = {"usable", "consumer disabled"}
            keys = self.keys(attempt.consumer or "", "test")
            key = next(key for key in keys if key.state in usable)
            return replace(attempt, key=key)
        if change.kind is ChangeKind.SEND_TOKEN:
            scopes = attempt.scopes | frozenset(change.name.split())
            return replace(attempt, token=Token.VALID, scopes=scopes)
        if change.kind is ChangeKind.DROP_TOKEN:
            return replace(attempt, token=Token.NONE)
        if change.kind is ChangeKind.SEND_OTHER:
            return replace(attempt, others=attempt.others | {change.name})
        return attempt

    def caller_of(self, pipeline: str) -> str:
        """Return a consumer with access to a pipeline, from every address."""
        name = "hooli"
        consumers.associate(self.engine, "test", name, [pipeline], "test", self.offered)
        self.catch_up()
        return name


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for plugins on a busy machine too: one that is late closes gates for a moment."""
    monkeypatch.setattr(evaluation, "MAX_LIVE_ROUND_S", 60.0)
    monkeypatch.setattr(evaluation, "CLOSE_AFTER_S", 60.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("explained")
    with Runtime(
        folder,
        Shop(),
        policy="any",
        plugins_deny=frozenset({"penstock_basic"}),
        log_calls="none",
    ) as runtime:
        world = World(runtime, random.Random(16))
        create_environment(world.engine, "test", "prod", world.box)
        for name in (*NAMES, "hooli"):
            consumers.create_consumer(world.engine, "test", name)
            consumers.associate(world.engine, "test", name, world.offered, "test", world.offered)
            for environment in ("test", "prod"):
                world.create_key(name, environment)
        world.catch_up()
        yield world


def smaller_than(changes: tuple[Change, ...]) -> Iterator[tuple[Change, ...]]:
    """Yield all parts of a few changes; of many, those that lack one: effects only add up."""
    sizes = range(len(changes)) if len(changes) <= 3 else [len(changes) - 1]
    for size in sizes:
        yield from combinations(changes, size)


def test_the_record_of_a_rejected_call_is_explained_as_answered(world: World) -> None:
    """Each call of a known consumer is examined from its record as from its credentials."""
    seen = Counter[str]()
    for number in range(150):
        if number % 5 == 0:
            world.break_something()
        attempt = world.attempt()
        answer = world.answer(attempt)
        if answer.problem not in DECIDED_BY_GATE or seen[answer.problem] >= 3:
            continue
        world.runtime.flush()
        with suppress(UsageError):  # of an unknown caller, and not sampled
            call = find_rejected(world.engine, answer.run)
            seen[answer.problem] += 1
            explained = explain_call(
                world.host.catalog, world.host.evaluator, world.engine, world.box, call
            )
            assert explained.now is not None
            assert explained.now.decision.problem == answer.problem, attempt

    assert len(seen) >= 4


def test_thousand_rejections_are_explained_as_answered_and_pass_after_the_smallest_change(
    world: World,
) -> None:
    rejected, kinds, by_command = 0, Counter[ChangeKind](), Counter[ChangeKind]()
    while rejected < REJECTIONS:
        if rejected % 4 == 0:
            world.break_something()
        attempt = world.attempt()
        examination = world.examine(attempt)
        explanation = explain(examination)

        answer = world.answer(attempt)
        assert answer[:3] == Answer.expected(explanation.decision)[:3], (attempt, answer)
        changes = explanation.changes
        if explanation.decision.accepted:
            assert changes == ()
            continue
        rejected += 1
        kinds.update(change.kind for change in changes)
        if not explanation.complete:
            assert changes[-1].kind is ChangeKind.OTHER, (attempt, changes)
            continue
        for smaller in smaller_than(changes):
            assert not examination.decide(smaller).accepted, (smaller, changes)
        for change in changes:
            if change.command and by_command[change.kind] < 2:
                by_command[change.kind] += 1
                world.operate(change)
            else:
                world.apply(change, attempt)
            attempt = world.sent(change, attempt)
        declared = [change for change in changes if change.actor is Actor.DEVELOPER]
        if declared:  # a test can't edit a plugin
            assert world.examine(attempt).decide(declared).accepted, (attempt, changes)
        else:
            assert world.answer(attempt).problem == "accepted", (attempt, changes)

    assert set(kinds) == set(ChangeKind)
    assert len(by_command) == 10
