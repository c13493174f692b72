"""Every hook there is: when it is called, what to return, and what silence means.

An implementation may take fewer arguments than its hook; arguments are added over time, never
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

    Called once, when the process loads its plugins. Silence offers none. An id (`v1/orders`) that
    is offered twice is served for neither, and a name that two plugins share refuses the pipelines
    of both.
    """


@hookspec
def penstock_policies(setup: PluginSetup) -> Iterable[AccessPolicy]:  # type: ignore[empty-body]  # a hook has no body
    """Offer access policies.

    Called once, at load. All policies of all plugins must agree on a pipeline; silence of all
    refuses every external one. So does a hook that raises or returns anything but `AccessPolicy`
    values: nobody knows what those policies would refuse.
    """


@hookspec
def penstock_authenticators(setup: PluginSetup) -> Iterable[Authenticator]:  # type: ignore[empty-body]  # a hook has no body
    """Offer authenticators.

    Called once, at load. A pipeline whose gate needs one that nobody offers, or that two plugins
    offer, is refused.
    """


@hookspec
def penstock_token_issuers(setup: PluginSetup) -> Iterable[TokenIssuer]:  # type: ignore[empty-body]  # a hook has no body
    """Offer the token issuer of login flows.

    Called once, at load. Without exactly one, `call.issue_token` raises.
    """


@hookspec
def penstock_documents(setup: PluginSetup) -> Iterable[Document]:  # type: ignore[empty-body]  # a hook has no body
    """Offer public documents below `/.well-known/`.

    Called once, at load. Silence offers none; a path that two plugins offer is served by neither.
    """


@hookspec
def penstock_response_policy(access: AccessView) -> ResponsePolicy | None:
    """Set headers and CORS for the replies of all pipelines of an environment.

    Called when a process starts, and whenever policies or variables of its environment change.
    Silence sets none; several add up, the later plugin by name winning. CORS stands in place of
    what handlers say of it themselves. What it raises, or what makes no sense, refuses every
    pipeline, with the reason, until it is mended.
    """


@hookspec
def penstock_openapi(document: dict[str, object]) -> None:
    """Add to the OpenAPI document of an environment, or change it.

    Called whenever the document is made, with the document so far; what it raises is logged, and
    the document goes out without it.
    """


@hookspec
def penstock_commands() -> Iterable[Command]:  # type: ignore[empty-body]  # a hook has no body
    """Add subcommands to the command line.

    Called once, at load. A name that is one of ours, or another plugin's, is a fault of the plugin
    and adds nothing.
    """


@hookspec
def penstock_call_started(call: Call) -> None:
    """Observe a call that the gate has let through, before its handler runs.

    Called in the call's own thread; what it raises is logged and changes nothing. Silence costs
    nothing.
    """


@hookspec
def penstock_call_finished(call: Call, status: int, seconds: float) -> None:
    """Observe a call's end: the status sent and the seconds since it passed the gate.

    Called in the call's own thread after the reply was made; what it raises is logged and changes
    nothing.
    """
