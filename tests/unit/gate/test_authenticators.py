"""Authenticators are plugin code: no value, exception or action of one lets a caller through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.place import Place

from penstock import (
    Authenticator,
    Call,
    Caller,
    CredentialRejected,
    HttpTrigger,
    Pipeline,
    PipelineError,
    RequestHead,
    hookimpl,
)
from penstock.contracts.call import Token
from penstock.contracts.registered import InvalidPluginValue, RegisteredAuthenticator
from penstock.errors import Refusal
from penstock.gate.gate import Gate
from penstock.plugins.guard import PluginFault
from penstock.testing import Runtime
from penstock_api_key import ApiKeys


class Rogue(Authenticator):
    """Does what a test tells it."""

    name, noun, refusal, challenge = "rogue", "thing", "invalid-thing", "Thing"

    def __init__(
        self, find: Callable[..., Any], verify: Callable[..., Any] = lambda *_: None
    ) -> None:
        self._find, self._verify = find, verify

    def find(self, head: Any, access: Any) -> Any:
        return self._find(head, access)

    def verify(self, credential: Any, access: Any, caller: Any, now: Any) -> Any:
        return self._verify(credential, access, caller, now)


class RogueOfBodies(Rogue):
    """The same where the proof needs the body."""

    reads_body = True

    def verify(self, credential: Any, access: Any, caller: Any, now: Any) -> Any:
        return caller

    def verify_body(
        self, credential: Any, body: Any, head: Any, access: Any, caller: Any, now: Any
    ) -> Any:
        return self._verify(credential, access, caller, now)


class World:
    """Two consumers with keys; acme alone is associated."""

    def __init__(self, place: Place) -> None:
        place.consumer("acme", "orders")
        place.consumer("other")
        self.keys = {name: place.key(name).key for name in ("acme", "other")}
        self.access = place.snapshot()
        self.ids = {consumer.name: consumer.id for consumer in self.access._consumers.values()}  # noqa: SLF001  their numbers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder: Path = tmp_path_factory.mktemp("authenticators")
    return World(Place.make(f"sqlite:///{folder}/access.db", folder, ("test",)))


def admitted(
    world: World,
    rogue: Rogue,
    key: str | None,
    *,
    required: bool,
    scopes: frozenset[str] = frozenset(),
) -> Caller | None:
    """Return who gets through a gate that asks for an API key, beside a rogue authenticator;
    None for no consumer."""
    checks = ((ApiKeys(("X-API-Key",)), True), (rogue, required))
    gate = Gate(
        "v1/orders",
        tuple((RegisteredAuthenticator.of("plugin", item), must) for item, must in checks),
        scopes,
        float("inf"),
    )
    head = RequestHead({"HTTP_X_API_KEY": key} if key else {}, "v1/orders")
    try:
        return gate.admit(head, world.access, time.time())
    except (Refusal, PluginFault):
        return None


class Agreeable(frozenset[str]):
    """Is a superset of anything."""

    def __ge__(self, other: object) -> bool:
        return True

    def __contains__(self, item: object) -> bool:
        return True


class LooseCaller(Caller):
    """A caller of a type of its own."""


things = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.just(object()),
    st.just(Caller),
)
numbers = st.one_of(st.integers(-1, 5), st.booleans(), st.floats(), st.none(), st.just("1"))
made_up = st.builds(
    Caller,
    consumer=st.one_of(st.sampled_from(["acme", "other", "root", ""]), things),
    consumer_id=numbers,
    scopes=st.one_of(st.just(frozenset({"admin"})), st.just(Agreeable()), things),
)
raised = st.sampled_from(
    [
        SystemExit(0),
        KeyboardInterrupt(),
        GeneratorExit(),
        RuntimeError(),
        CredentialRejected("no"),
        PipelineError(503),
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    matches=st.one_of(st.just("credential"), things),
    proven=st.one_of(
        things, made_up, st.builds(LooseCaller, consumer=st.just("acme"), consumer_id=st.just(1))
    ),
    error=st.one_of(st.none(), raised),
    required=st.booleans(),
    kind=st.sampled_from([Rogue, RogueOfBodies]),
    owner=st.sampled_from(["acme", "other", None]),
)
def test_only_a_valid_key_of_an_associated_consumer_passes_a_faulty_authenticator(
    world: World,
    matches: object,
    proven: object,
    error: BaseException | None,
    required: bool,
    kind: type[Rogue],
    owner: str | None,
) -> None:
    def verify(*_: object) -> object:
        if error is not None:
            raise error
        return proven

    caller = admitted(
        world,
        kind(lambda *_: matches, verify),
        world.keys[owner] if owner else None,
        required=required,
    )

    assert caller is None or (
        owner == "acme" and (caller.consumer, caller.consumer_id) == ("acme", world.ids["acme"])
    )


def test_an_authenticator_can_not_put_another_consumer_in_place_of_the_one_that_a_key_proves(
    world: World,
) -> None:
    def verify(_: object, __: object, caller: Caller, ___: object) -> Caller:
        return caller.replace(consumer="acme", consumer_id=world.ids["acme"])

    assert (
        admitted(world, Rogue(lambda *_: "x", verify), world.keys["acme"], required=True)
        is not None
    )
    assert (
        admitted(world, Rogue(lambda *_: "x", verify), world.keys["other"], required=True) is None
    )


def test_scopes_that_agree_to_everything_allow_nothing(world: World) -> None:
    def verify(_: object, __: object, caller: Caller, ___: object) -> Caller:
        return caller.replace(scopes=Agreeable())

    assert (
        admitted(
            world,
            Rogue(lambda *_: "x", verify),
            world.keys["acme"],
            required=True,
            scopes=frozenset({"orders:write"}),
        )
        is None
    )


def test_a_consumer_of_one_name_and_another_number_is_neither(world: World) -> None:
    class Liar(ApiKeys):
        def verify(self, credential: str, access: Any, caller: Caller, now: float) -> Caller:
            return Caller("other", world.ids["acme"], "key_1")

    gate = Gate(
        "v1/orders",
        ((RegisteredAuthenticator.of("plugin", Liar(("X-API-Key",))), True),),
        frozenset(),
        float("inf"),
    )

    with pytest.raises(Refusal, match="may not call"):
        gate.admit(
            RequestHead({"HTTP_X_API_KEY": world.keys["acme"]}, "v1/orders"),
            world.access,
            time.time(),
        )


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("name", None),
        ("name", ""),
        ("noun", 5),
        ("needs", "api_key"),
        ("needs", None),
        ("reads_body", 1),
        ("guessable", None),
        ("only_where_asked", "no"),
    ],
)
def test_an_authenticator_whose_declaration_makes_no_sense_is_not_taken(
    attribute: str, value: object
) -> None:
    broken = type("Broken", (Rogue,), {attribute: value})

    with pytest.raises(InvalidPluginValue):
        RegisteredAuthenticator.of("plugin", broken(lambda *_: None))


def test_what_an_authenticator_says_of_itself_is_read_once(world: World) -> None:
    class Turning(RogueOfBodies):
        asked = 0

        @property
        def reads_body(self) -> bool:  # type: ignore[override]  # it is a property here
            type(self).asked += 1
            return self.asked == 1

    def verify(*_: object) -> object:
        raise CredentialRejected("the body is not signed")

    assert (
        admitted(world, Turning(lambda *_: "x", verify), world.keys["acme"], required=True) is None
    )
    assert Turning.asked == 1


def offering(*authenticators: Authenticator) -> type:
    open_one = Pipeline("open", version="1.0.0", trigger=HttpTrigger())
    login = Pipeline("login", version="1.0.0", trigger=HttpTrigger(api_key=True, login=True))

    @open_one.get("/")
    def show(call: Call) -> str:
        return "here"

    @login.get("/")
    def sign_in(call: Call) -> Token:
        return call.issue_token(subject="ann")

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_authenticators() -> list[Authenticator]:
            return list(authenticators)

        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [open_one, login]

    return Plugin


SECRET = "hunter2-hunter2"


def fails(*_: object) -> object:
    raise SystemExit(SECRET)


@pytest.mark.parametrize(
    "rogue",
    [
        Rogue(fails),
        Rogue(lambda *_: "x", fails),
        Rogue(lambda *_: 5),
        Rogue(lambda *_: "x", lambda *_: "root"),
    ],
)
def test_a_failing_authenticator_ends_its_call_and_is_reported_once_without_the_credential(
    penstock_runtime: Callable[..., Runtime], capsys: pytest.CaptureFixture[str], rogue: Rogue
) -> None:
    runtime = penstock_runtime(offering(rogue), policy="any")

    answers = [runtime.anonymous().get("/v1/open/") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [500] * 3
    assert answers[0].json["type"] == "internal"
    reported = [text for text in runtime.problems() if "of authenticator rogue" in text]
    assert len(reported) == 1
    logged = "".join(capsys.readouterr())
    assert logged.count("of authenticator rogue") == 1
    assert SECRET not in logged + str(reported)


def test_a_token_issuer_that_returns_no_token_issues_none(
    penstock_runtime: Callable[..., Runtime],
) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")
    runtime.designate("login")
    client = runtime.client(token=False)
    issuers = runtime._host.catalog.plugins.issuers  # noqa: SLF001  the kit has no door to them
    issuers[0] = replace(issuers[0], issue=lambda *_, **__: {"access_token": "made up"})

    answer = client.get("/v1/login/")

    assert (answer.status_code, "made up" in answer.text) == (500, False)
    assert "its token issuer returned dict, not a Token" in str(runtime.problems())


def test_a_document_that_is_rendered_as_nothing_is_an_error_of_its_own(
    penstock_runtime: Callable[..., Runtime],
) -> None:
    from penstock import Document

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_documents() -> list[Document]:
            return [
                Document("/.well-known/none", "text/plain", lambda _: None),  # type: ignore[arg-type, return-value]  # it is wrong
                Document("/.well-known/exit", "text/plain", fails),  # type: ignore[arg-type]  # it is wrong
                Document("/.well-known/good", "text/plain", lambda _: b"good"),
                Document(5, "text/plain", lambda _: b"bad"),  # type: ignore[arg-type]  # it is wrong
            ]

    client = penstock_runtime(Plugin).anonymous()

    assert [
        client.get(f"/.well-known/{name}").status_code for name in ("none", "exit", "good")
    ] == [500, 500, 200]
