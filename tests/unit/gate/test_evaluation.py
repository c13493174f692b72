"""No value, exception or action of a policy lowers what calls must present."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pluggy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import (
    AccessPolicy,
    Call,
    EnvironmentFacts,
    HttpTrigger,
    Pipeline,
    Verdict,
    Violation,
    hookimpl,
    hookspecs,
)
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.snapshot import Snapshot
from penstock.contracts.registered import RegisteredAuthenticator, RegisteredPolicy
from penstock.gate import verdicts
from penstock.gate.compliance import Evaluation, PipelineEvaluator, State
from penstock.gate.evaluation import BoundedEvaluator, EvaluatedPipelines
from penstock.gate.gate import CLOSED
from penstock.host.compilation import LoadedPipeline
from penstock.plugins.folders import PluginFolders
from penstock.plugins.offers import Plugins
from penstock.testing import Runtime
from penstock_access_policy import ExternalAccess
from penstock_api_key import ApiKeys
from penstock_jwt.tokens import Tokens

POLICIES = ("api-key", "jwt-api-key", "any")
TOGGLES = {
    "none": {},
    "key": {"api_key": True},
    "jwt": {"jwt": True},
    "both": {"api_key": True, "jwt": True},
}
DEMANDS = {"api-key": {"api_key"}, "jwt-api-key": {"api_key", "jwt"}, "any": set()}


def a_pipeline(name: str, **trigger: Any) -> Pipeline:
    pipeline_of_it = Pipeline(name, version="1.0.0", trigger=HttpTrigger(**trigger))
    pipeline_of_it.get("/")(lambda: "here")
    return pipeline_of_it


def a_view(policy: str) -> Snapshot:
    access = Snapshot("test", SecretBox((make_secret_key(),)))
    access._environment = EnvironmentFacts(  # noqa: SLF001  no database is needed
        1, "test", policy, 1, 3600, keys_in_query=False, algorithm="EdDSA"
    )
    return access


class Rogue(AccessPolicy):
    """A policy that does what a test tells it."""

    name = "rogue"

    def __init__(self, act: Callable[[Any, Any], Any]) -> None:
        self.act = act

    def judge(self, candidate: Any, environment: Any) -> Any:
        return self.act(candidate, environment)


def judging_beside(act: Callable[[Any, Any], Any]) -> BoundedEvaluator:
    """Return what judges a pipeline of each kind by the policy that ships, and around it by one
    that does anything."""
    manager = pluggy.PluginManager("penstock")
    manager.add_hookspecs(hookspecs)
    rogue = RegisteredPolicy.of("other", Rogue(act))
    # It is asked before and after.
    policies = [rogue, RegisteredPolicy.of("penstock_access_policy", ExternalAccess()), rogue]
    proofs = [
        RegisteredAuthenticator.of("penstock_api_key", ApiKeys(("X-API-Key",))),
        RegisteredAuthenticator.of("penstock_jwt", Tokens("penstock")),
    ]
    loaded = {
        f"v1/{name}": LoadedPipeline("mine", a_pipeline(name, **trigger), ())
        for name, trigger in TOGGLES.items()
    }
    return BoundedEvaluator(
        Plugins(manager, PluginFolders(())), PipelineEvaluator(policies, proofs), loaded
    )


def judged_beside(act: Callable[[Any, Any], Any], policy: str, **more: Any) -> EvaluatedPipelines:
    return judging_beside(act).evaluate_all(a_view(policy), **more)


def opened(evaluated: Evaluation) -> frozenset[str] | None:
    """Return what a gate asks for, or None where it lets nothing through."""
    if evaluated.gate is CLOSED:
        return None
    return frozenset(check.name for check, required in evaluated.gate._checks if required)  # noqa: SLF001  what is compiled is what counts


def at_least(judgement: EvaluatedPipelines, policy: str) -> None:
    """Assert that no gate asks for less than the table of the access rules says."""
    for identifier, evaluated in judgement.external.items():
        toggles = set(TOGGLES[identifier.removeprefix("v1/")])
        asked = opened(evaluated)
        if DEMANDS[policy] - toggles:
            assert asked is None, (policy, identifier)
        if asked is not None:
            assert asked >= DEMANDS[policy] | toggles, (policy, identifier)
        assert (evaluated.state is State.SERVED) is (asked is not None)


class Weird:
    """Agrees to anything that it is asked."""

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __or__(self, other: object) -> frozenset[str]:
        return frozenset()

    __ror__ = __radd__ = __or__

    def __getattr__(self, name: str) -> Any:
        return frozenset()


class LooseVerdict(Verdict):
    """A verdict of a type of its own."""


def widen(candidate: Any, environment: Any) -> Verdict:
    """Try to change what is judged, and by what."""
    for name, value in (("api_key", False), ("jwt", False), ("login", True), ("external", True)):
        object.__setattr__(candidate.trigger, name, value)
    object.__setattr__(environment, "policy", "any")
    object.__setattr__(candidate, "designated", True)
    return Verdict()


class Raises(Exception):
    """Can't even be shown."""

    def __str__(self) -> str:
        raise SystemExit(0)


garbage = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.binary(),
    st.dictionaries(st.text(), st.text()), st.lists(st.text()),
    st.sampled_from([
        Weird(), Violation("a", "b"), Verdict, object(), LooseVerdict(), {"requires": []}, ...,
        NotImplemented,
    ]),
)  # fmt: skip
names = st.sampled_from(["api_key", "jwt", "basic", "nothing", "", "API_KEY"])
answers = st.one_of(
    garbage,
    st.builds(
        Verdict,
        requires=st.one_of(st.frozensets(names), garbage),
        violations=st.one_of(
            st.just(()), garbage, st.tuples(st.builds(Violation, reason=garbage, fix=garbage))
        ),
        warnings=st.one_of(st.just(()), garbage),
    ),
)
ends = st.sampled_from(
    [
        SystemExit(0),
        SystemExit("text"),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(),
        MemoryError(),
        RecursionError(),
        Raises(),
        OSError("x"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(policy=st.sampled_from(POLICIES), answer=answers)
def test_no_value_of_a_policy_lowers_what_a_gate_requires(policy: str, answer: object) -> None:
    at_least(judged_beside(lambda *_: answer, policy), policy)


@settings(max_examples=60, deadline=None)
@given(policy=st.sampled_from(POLICIES), error=ends, live=st.booleans())
def test_any_exception_of_a_policy_closes_every_gate(
    policy: str, error: BaseException, live: bool
) -> None:
    def act(*_: object) -> object:
        raise error

    judgement = judged_beside(act, policy, **({"live": bool} if live else {}))

    assert {opened(item) for item in judgement.external.values()} == {None}
    assert [fault.plugin for fault in judgement.faults] == ["other"]
    assert (
        "plugin other: the policy rogue raised "
        in judgement.external["v1/both"].violations[-1].reason
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_can_not_change_what_the_others_judge_now_or_the_next_time(policy: str) -> None:
    judging = judging_beside(widen)

    for _ in range(2):
        at_least(judging.evaluate_all(a_view(policy)), policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_that_answers_differently_each_time_widens_nothing(policy: str) -> None:
    turns = itertools.cycle([Verdict(), Verdict(requires=frozenset({"jwt"})), None, "yes"])

    at_least(judged_beside(lambda *_: next(turns), policy), policy)


def test_what_a_policy_requires_beyond_the_toggles_is_asked_for() -> None:
    judgement = judged_beside(lambda *_: Verdict(requires=frozenset({"jwt"})), "api-key")

    assert opened(judgement.external["v1/key"]) == {"api_key", "jwt"}


def test_what_a_policy_requires_and_no_authenticator_proves_closes() -> None:
    judgement = judged_beside(lambda *_: Verdict(requires=frozenset({"retina"})), "any")

    assert {opened(item) for item in judgement.external.values()} == {None}
    assert (
        "no authenticator for 'retina' is loaded"
        in judgement.external["v1/key"].violations[0].reason
    )


@pytest.mark.parametrize(
    ("answer", "reason_value"),
    [
        ("yes", "it returned str, not a Verdict or None"),
        (True, "it returned bool, not a Verdict or None"),
        (Verdict(requires=["x", 1]), "an item of what its Verdict requires is no text"),  # type: ignore[list-item, arg-type]  # it is wrong
        (Verdict(requires="api_key"), "what its Verdict requires is no list of texts"),  # type: ignore[arg-type]  # the same
        (
            Verdict(violations=None),
            "the violations of its Verdict are no tuple of Violation values",
        ),  # type: ignore[arg-type]  # the same
        (
            Verdict(violations=("no",)),
            "the violations of its Verdict are no tuple of Violation values",
        ),  # type: ignore[arg-type]  # the same
        (Verdict(warnings=None), "the warnings of its Verdict is no list of texts"),  # type: ignore[arg-type]  # the same
    ],
)
def test_operators_see_which_plugin_returned_an_invalid_value(
    answer: object, reason_value: str
) -> None:
    judgement = judged_beside(lambda *_: answer, "any")

    assert {opened(item) for item in judgement.external.values()} == {None}
    assert (
        judgement.external["v1/key"].violations[0].reason
        == f"plugin other: the policy rogue: {reason_value}"
    )
    assert judgement.external["v1/key"].reevaluate_at is not None


def test_what_a_policy_says_is_one_line() -> None:
    forged = Verdict(violations=(Violation("a\nserved: all\x1b[2J", "b\r\nc"),), warnings=("d\ne",))

    evaluated = judged_beside(lambda *_: forged, "any").external[f"v1/{next(iter(TOGGLES))}"]

    assert "a served: all [2J" in [item.reason for item in evaluated.violations]
    assert all(
        text.isprintable() for item in evaluated.violations for text in (item.reason, item.fix)
    )
    assert all(text.isprintable() for text in evaluated.warnings)


HANGS_S = 600


class TestNoEnd:
    """A policy that does not return."""

    # It hangs for longer than a test may take.

    def test_closes_what_it_did_not_judge(self) -> None:
        hang = threading.Event()

        judgement = judged_beside(lambda *_: hang.wait(HANGS_S), "any")

        assert {opened(item) for item in judgement.external.values()} == {None}
        assert "plugin other: took too long" in judgement.external["v1/key"].violations[0].reason
        hang.set()

    def test_closes_all_gates_once_while_it_hangs_and_calls_are_answered(self) -> None:
        hang, closed = threading.Event(), list[bool]()

        judged_beside(
            lambda *_: hang.wait(HANGS_S), "any", live=lambda: closed.append(hang.is_set())
        )

        assert closed == [False]
        hang.set()

    def test_is_not_asked_again_before_it_has_returned(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verdicts, "MAX_ANSWER_S", 0.2)
        hang, asked = threading.Event(), list[int]()

        def act(*_: object) -> Verdict:
            asked.append(1)
            hang.wait(20)
            return Verdict()

        manager = pluggy.PluginManager("penstock")
        manager.add_hookspecs(hookspecs)
        judge = PipelineEvaluator(
            [
                RegisteredPolicy.of("penstock_access_policy", ExternalAccess()),
                RegisteredPolicy.of("other", Rogue(act)),
            ],
            [],
        )
        judging = BoundedEvaluator(
            Plugins(manager, PluginFolders(())),
            judge,
            {"v1/open": LoadedPipeline("mine", a_pipeline("open"), ())},
        )
        states = [judging.evaluate_all(a_view("any")).external["v1/open"].state for _ in range(3)]
        waited_for = len(asked)
        hang.set()
        for _ in range(100):
            if judging.evaluate_all(a_view("any")).external["v1/open"].state is State.SERVED:
                break
            time.sleep(0.05)

        assert states == [State.BLOCKED] * 3
        assert waited_for == 1
        assert judging.evaluate_all(a_view("any")).external["v1/open"].state is State.SERVED


def offering(act: Callable[[Any, Any], Any], **more: Any) -> type:
    """Return a plugin with a policy that does anything, and a pipeline."""
    orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @orders.get("/")
    def show(call: Call) -> str:
        return "here"

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_policies() -> list[AccessPolicy]:
            return [Rogue(act)]

        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [orders]

    return Plugin


@pytest.mark.parametrize(
    "act", ["yes", None, SystemExit(0), KeyboardInterrupt(), Verdict(violations=None)], ids=repr
)  # type: ignore[arg-type]  # it is wrong
def test_a_stricter_policy_closes_a_running_process_also_where_a_plugin_misbehaves_then(
    penstock_runtime: Callable[..., Runtime], act: object
) -> None:
    def judge(_: object, environment: EnvironmentFacts) -> object:
        if environment.policy == "api-key":
            return Verdict()
        if isinstance(act, BaseException):
            raise act
        return act

    runtime = penstock_runtime(offering(judge), policy="api-key")
    client = runtime.client(token=False)
    assert client.get("/v1/orders/").status_code == 200

    runtime.policy("jwt-api-key")

    assert client.get("/v1/orders/").status_code == 503
    runtime.policy("api-key")
    assert client.get("/v1/orders/").status_code == 200


def test_a_policy_that_recovers_is_heard_again_by_itself(
    penstock_runtime: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.gate.compliance.RETRY_FAULTY_S", 0.1)
    broken = [True]

    def judge(*_: object) -> object:
        return "garbage" if broken else Verdict()

    runtime = penstock_runtime(offering(judge), policy="api-key")
    client = runtime.client(token=False)
    assert client.get("/v1/orders/").status_code == 503
    assert "plugin other" not in str(runtime.problems())
    assert "the policy rogue: it returned str" in str(runtime.problems())

    broken.clear()
    for _ in range(100):
        if client.get("/v1/orders/").status_code == 200:
            break
        time.sleep(0.05)

    assert client.get("/v1/orders/").status_code == 200


class Hooks:
    """Plugins whose hook of access itself misbehaves: no one knows what their policies would
    refuse."""

    class Raising:
        @staticmethod
        @hookimpl
        def penstock_policies() -> object:
            raise SystemExit(0)

    class Garbage:
        @staticmethod
        @hookimpl
        def penstock_policies() -> object:
            return [Rogue(lambda *_: None), "policy"]

    class Scalar:
        @staticmethod
        @hookimpl
        def penstock_policies() -> object:
            return 5

    class Misspelt:
        @staticmethod
        @hookimpl
        def penstock_policies(flask: object) -> object:
            return [flask]

    class Unnamed:
        @staticmethod
        @hookimpl
        def penstock_policies() -> object:
            policy = Rogue(lambda *_: None)
            policy.options = "any"  # type: ignore[assignment, misc]  # a text is no list
            return [policy]


@pytest.mark.parametrize(
    "plugin", [Hooks.Raising, Hooks.Garbage, Hooks.Scalar, Hooks.Misspelt, Hooks.Unnamed]
)
def test_policies_that_can_not_be_asked_for_refuse_everything(
    penstock_runtime: Callable[..., Runtime], plugin: type
) -> None:
    class Plain:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [a_pipeline("orders", api_key=True)]

    runtime = penstock_runtime(Plain, plugin, policy="api-key")

    assert runtime.client(token=False).get("/v1/orders/").status_code == 503
    assert f"the access policies of plugin {plugin.__name__} can't be asked" in str(
        runtime.blocked()["v1/orders"]
    )
