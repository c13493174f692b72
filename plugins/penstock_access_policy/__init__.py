"""The external access policy: what `api-key`, `jwt-api-key` and `any` require of a pipeline."""

from __future__ import annotations

from penstock import (
    AccessPolicy,
    Candidate,
    EnvironmentFacts,
    PluginSetup,
    Verdict,
    Violation,
    hookimpl,
)

API_KEY = "api-key"
JWT_API_KEY = "jwt-api-key"
ANY = "any"
MEANINGS = {
    API_KEY: (
        "Each call carries an API key of an associated consumer. Pipelines without api_key=True are"
        " blocked."
    ),
    JWT_API_KEY: (
        "Each call carries an API key and a token of the same consumer. Pipelines without"
        " api_key=True and jwt=True are blocked; a designated login flow needs no token."
    ),
    ANY: (
        "Each pipeline decides for itself what its calls carry. One that requires nothing is open"
        " to anyone."
    ),
}
DEMANDS = {
    API_KEY: frozenset({"api_key"}),
    JWT_API_KEY: frozenset({"api_key", "jwt"}),
    ANY: frozenset[str](),
}


class ExternalAccess(AccessPolicy):
    """Blocks a pipeline whose toggles require less than the environment's policy."""

    name = "external access"
    options = tuple(DEMANDS)
    meanings = MEANINGS

    def judge(self, candidate: Candidate, environment: EnvironmentFacts) -> Verdict | None:
        """Return a violation for each toggle that is missing; None for an unknown policy.

        A designated login flow requires no token, because it issues them.
        """
        demands = DEMANDS.get(environment.policy)
        if demands is None:
            return None
        trigger = candidate.trigger
        if trigger.login and candidate.designated:
            demands -= {"jwt"}
        violations = tuple(
            self._violation(name, candidate, environment)
            for name in sorted(demands - trigger.toggles)
        )
        warnings: tuple[str, ...] = ()
        if not demands and not trigger.toggles:
            warnings = ("open to anyone: set api_key=True, or a stricter policy, to change that",)
        elif trigger.jwt and not trigger.api_key and not violations:
            warnings = (
                (
                    "jwt=True alone: a token is usable only together with an API key of its"
                    " consumer, so calls need both"
                ),
            )
        return Verdict(demands, violations, warnings)

    @staticmethod
    def _violation(toggle: str, candidate: Candidate, environment: EnvironmentFacts) -> Violation:
        fix = f"set {toggle}=True on its HttpTrigger"
        if toggle == "jwt" and candidate.trigger.login:
            fix = (
                f"designate it: `penstock login-flow designate {candidate.id} --env"
                f" {environment.name}`"
            )
        which = "internal policy" if candidate.internal else "policy"
        return Violation(
            f"the {which} {environment.policy!r} of environment {environment.name!r} requires"
            f" {toggle}=True, which is off",
            fix,
        )


@hookimpl
def penstock_policies(setup: PluginSetup) -> list[AccessPolicy]:  # noqa: ARG001  the hook's argument
    """Offer the external access policy."""
    return [ExternalAccess()]
