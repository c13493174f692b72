"""The external access policy: the table of the access rules, written down a second time, and
what developers read."""

from __future__ import annotations

from itertools import product

import pytest

from penstock import AccessPolicy, Candidate, EnvironmentFacts, HttpTrigger, PluginSetup, Verdict
from penstock_access_policy import ExternalAccess, penstock_policies

POLICIES = ("api-key", "jwt-api-key", "any")
BOOLEANS = (False, True)
DEMANDS = {
    "api-key": frozenset({"api_key"}),
    "jwt-api-key": frozenset({"api_key", "jwt"}),
    "any": frozenset[str](),
}
TABLE = {  # by (api_key, jwt)
    "api-key": {
        (False, False): "blocked",
        (True, False): "loads",
        (False, True): "blocked",
        (True, True): "loads",
    },
    "jwt-api-key": {
        (False, False): "blocked",
        (True, False): "blocked",
        (False, True): "blocked",
        (True, True): "loads",
    },
    "any": {
        (False, False): "warns",
        (True, False): "loads",
        (False, True): "warns",
        (True, True): "loads",
    },
}
CASES = list(product(POLICIES, BOOLEANS, BOOLEANS))


def heard(
    policy: str,
    *,
    api_key: bool = False,
    jwt: bool = False,
    login: bool = False,
    designated: bool = False,
) -> Verdict | None:
    environment = EnvironmentFacts(
        3, "prod", policy, 1, token_lifetime=3600, keys_in_query=False, algorithm="EdDSA"
    )
    trigger = HttpTrigger(api_key=api_key, jwt=jwt, login=login)
    return ExternalAccess().judge(Candidate("orders", "1.0.0", trigger, designated), environment)


def evaluated(policy: str, **candidate: bool) -> Verdict:
    verdict = heard(policy, **candidate)
    assert verdict is not None
    return verdict


def outcome(verdict: Verdict) -> str:
    if verdict.violations:
        return "blocked"
    return "warns" if verdict.warnings else "loads"


@pytest.mark.parametrize(("policy", "api_key", "jwt"), CASES)
def test_a_pipeline_loads_or_not_as_the_table_says(policy: str, api_key: bool, jwt: bool) -> None:
    assert outcome(evaluated(policy, api_key=api_key, jwt=jwt)) == TABLE[policy][api_key, jwt]


@pytest.mark.parametrize(("policy", "api_key", "jwt"), CASES)
def test_calls_must_present_what_the_policy_demands_with_any_toggles(
    policy: str, api_key: bool, jwt: bool
) -> None:
    assert evaluated(policy, api_key=api_key, jwt=jwt).requires == DEMANDS[policy]


@pytest.mark.parametrize(("policy", "api_key", "jwt"), CASES)
def test_each_missing_toggle_is_one_violation_with_its_name_and_fix(
    policy: str, api_key: bool, jwt: bool
) -> None:
    off = {name for name, on in {"api_key": api_key, "jwt": jwt}.items() if not on}

    reported = [
        (violation.reason, violation.fix)
        for violation in evaluated(policy, api_key=api_key, jwt=jwt).violations
    ]

    assert reported == [
        (
            f"the policy {policy!r} of environment 'prod' requires {name}=True, which is off",
            f"set {name}=True on its HttpTrigger",
        )
        for name in sorted(DEMANDS[policy] & off)
    ]


@pytest.mark.parametrize(("policy", "api_key", "jwt"), CASES)
@pytest.mark.parametrize(("login", "designated"), [(False, False), (True, False), (False, True)])
def test_no_one_alone_exempts_a_pipeline_from_a_policy(
    policy: str, api_key: bool, jwt: bool, login: bool, designated: bool
) -> None:
    verdict = evaluated(policy, api_key=api_key, jwt=jwt, login=login, designated=designated)

    assert (outcome(verdict), verdict.requires) == (TABLE[policy][api_key, jwt], DEMANDS[policy])


@pytest.mark.parametrize(("policy", "api_key", "jwt"), CASES)
def test_a_designated_login_flow_needs_no_token_but_its_key_all_the_same(
    policy: str, api_key: bool, jwt: bool
) -> None:
    verdict = evaluated(policy, api_key=api_key, jwt=jwt, login=True, designated=True)

    as_if = "api-key" if policy == "jwt-api-key" else policy
    assert (outcome(verdict), verdict.requires) == (TABLE[as_if][api_key, jwt], DEMANDS[as_if])


def test_a_login_flow_without_jwt_names_the_command_that_designates_it() -> None:
    (violation,) = evaluated("jwt-api-key", api_key=True, login=True).violations

    assert violation.fix == "designate it: `penstock login-flow designate v1/orders --env prod`"


def test_a_login_flow_without_both_toggles_has_both_violations() -> None:
    fixes = [violation.fix for violation in evaluated("jwt-api-key", login=True).violations]

    assert fixes == [
        "set api_key=True on its HttpTrigger",
        "designate it: `penstock login-flow designate v1/orders --env prod`",
    ]


def test_a_designated_login_flow_without_api_key_has_that_violation() -> None:
    fixes = [
        violation.fix
        for violation in evaluated("jwt-api-key", login=True, designated=True).violations
    ]

    assert fixes == ["set api_key=True on its HttpTrigger"]


def test_designating_what_is_no_login_flow_does_not_spare_it_the_token() -> None:
    fixes = [
        violation.fix
        for violation in evaluated("jwt-api-key", api_key=True, designated=True).violations
    ]

    assert fixes == ["set jwt=True on its HttpTrigger"]


@pytest.mark.parametrize("login", BOOLEANS)
def test_one_login_flow_loosens_the_policy_for_no_other_pipeline(login: bool) -> None:
    evaluated("jwt-api-key", api_key=True, login=True, designated=True)

    assert evaluated("jwt-api-key", api_key=True, login=login).requires == {"api_key", "jwt"}


def test_a_pipeline_that_is_open_to_anyone_is_warned_of() -> None:
    assert evaluated("any").warnings == (
        "open to anyone: set api_key=True, or a stricter policy, to change that",
    )


@pytest.mark.parametrize("designated", BOOLEANS)
def test_a_login_flow_that_is_open_to_anyone_is_warned_of_as_well(designated: bool) -> None:
    assert evaluated("any", login=True, designated=designated).warnings == evaluated("any").warnings


def test_a_token_alone_is_warned_to_ask_for_a_key_too() -> None:
    (warning,) = evaluated("any", jwt=True).warnings

    assert warning.startswith("jwt=True alone")
    assert "calls need both" in warning


@pytest.mark.parametrize("policy", ["api-key", "jwt-api-key"])
def test_what_is_refused_is_not_warned_of_besides(policy: str) -> None:
    assert evaluated(policy, jwt=True).warnings == ()
    assert evaluated(policy).warnings == ()


@pytest.mark.parametrize(
    "policy", ["", "none", "ANY", "any ", "api_key", "jwt", "API-KEY", "jwt-api-key,any", "mtls"]
)
@pytest.mark.parametrize("toggle", BOOLEANS)
def test_on_an_unknown_policy_it_has_no_opinion(policy: str, toggle: bool) -> None:
    assert heard(policy, api_key=toggle, jwt=toggle, login=toggle, designated=toggle) is None


def test_the_plugin_offers_this_policy_with_its_three_options() -> None:
    (policy,) = penstock_policies(PluginSetup("prod", "penstock", ("X-API-Key",)))

    assert isinstance(policy, AccessPolicy)
    assert isinstance(policy, ExternalAccess)
    assert sorted(policy.options) == sorted(POLICIES)
