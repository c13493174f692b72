"""All hooks: when each is called, what it returns, and what happens without an answer.

An implementation may take fewer arguments than its hook. Arguments are added over time, and never
renamed or removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from penstock.contracts.access import AccessView, PluginSetup
    from penstock.contracts.authenticators import Authenticator
    from penstock.contracts.call import Call
    from penstock.contracts.extensions import Command, Document, TokenIssuer
    from penstock.contracts.pipeline import Pipeline
    from penstock.contracts.policies import AccessPolicy
    from penstock.contracts.responses import ResponsePolicy

PROJECT = "penstock"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def penstock_pipelines() -> Iterable[Pipeline]:  # type: ignore[empty-body]  # a hook has no body
    """Offer pipelines.

    Called once, when the process loads its plugins. Without an answer it offers none. Two pipelines
    of one id (`v1/orders`) are both blocked, and so are those of two plugins that share a name.
    """


@hookspec
def penstock_policies(setup: PluginSetup) -> Iterable[AccessPolicy]:  # type: ignore[empty-body]  # a hook has no body
    """Offer access policies.

    Called once, at load. All policies of all plugins must agree on a pipeline. If none of them has
    an opinion, the pipeline is blocked. A hook that raises, or returns other values than
    `AccessPolicy`, blocks every pipeline: its policies may have blocked any of them.
    """


@hookspec
def penstock_authenticators(setup: PluginSetup) -> Iterable[Authenticator]:  # type: ignore[empty-body]  # a hook has no body
    """Offer authenticators.

    Called once, at load. A pipeline is blocked if its gate needs an authenticator that no plugin
    offers, or that two plugins offer.
    """


@hookspec
def penstock_token_issuers(setup: PluginSetup) -> Iterable[TokenIssuer]:  # type: ignore[empty-body]  # a hook has no body
    """Offer the token issuer of login flows.

    Called once, at load. Without exactly one, `call.issue_token` raises.
    """


@hookspec
def penstock_documents(setup: PluginSetup) -> Iterable[Document]:  # type: ignore[empty-body]  # a hook has no body
    """Offer public documents below `/.well-known/`.

    Called once, at load. Without an answer it offers none. A path that two plugins offer is not
    served.
    """


@hookspec
def penstock_response_policy(access: AccessView) -> ResponsePolicy | None:
    """Set headers and CORS for the replies of all pipelines of an environment.

    Called when a process starts, and whenever policies or variables of its environment change.
    Without an answer it sets none. Several answers add up; the later plugin by name wins. CORS
    replaces the CORS headers of handlers. A hook that raises, or returns a policy that is not
    valid, blocks every pipeline until it is fixed.
    """


@hookspec
def penstock_openapi(document: dict[str, object]) -> None:
    """Add to the OpenAPI document of an environment, or change it.

    Called whenever the document is built, with the document so far. An exception is logged, and the
    document is sent without the change.
    """


@hookspec
def penstock_commands() -> Iterable[Command]:  # type: ignore[empty-body]  # a hook has no body
    """Add subcommands to the command line.

    Called once, at load. A command that has the name of a core command or of another plugin's is a
    fault of its plugin, and is not added.
    """


@hookspec
def penstock_call_started(call: Call) -> None:
    """Observe an accepted call before its handler runs.

    Called in the call's own thread. An exception is logged and changes nothing.
    """


@hookspec
def penstock_call_finished(call: Call, status: int, seconds: float) -> None:
    """Observe the end of a call: the status sent, and the seconds since the gate accepted it.

    Called in the call's own thread after the reply was built. An exception is logged and changes
    nothing.
    """
