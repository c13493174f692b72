"""Issue access tokens in login flows, through the token issuer that a plugin offers."""

from __future__ import annotations

import time

from penstock.contracts.call import Caller, Token
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.registered import is_valid_token
from penstock.errors import TokenNotIssued
from penstock.host.catalog import Catalog
from penstock.host.view import CurrentView
from penstock.plugins.guard import PluginFault


def issue_token(
    catalog: Catalog, view: CurrentView, pipeline: Pipeline, caller: Caller, **options: object
) -> Token:
    """Return a token for the consumer that calls a designated login flow.

    `options` go to the issuer: subject, scopes, lifetime, claims. Raises TokenNotIssued.
    """
    access = view.snapshot()
    environment = access.environment.name
    issuers = catalog.plugins.issuers
    if not pipeline.trigger.login or not access.pipeline(pipeline.id).login_flow:
        raise TokenNotIssued(
            f"{pipeline.id} is no login flow of {environment}: its trigger must say login=True, and"
            f" an operator must designate it (`penstock login-flow designate {pipeline.id} --env"
            f" {environment}`)"
        )
    if caller.consumer is None:
        raise TokenNotIssued(
            f"{pipeline.id} does not know its consumer: set api_key=True on its trigger"
        )
    if len(issuers) != 1:
        raise TokenNotIssued(
            f"{len(issuers)} token issuers are loaded, there must be one (penstock_jwt)"
        )
    issuer = issuers[0]
    token = issuer.issue(access, caller.consumer, now=time.time(), **options)
    if not is_valid_token(token):
        problem = f"its token issuer returned {type(token).__name__}, not a Token"
        catalog.report_fault(PluginFault(issuer.plugin, problem))
        raise TokenNotIssued("the token issuer made no token; the log says which plugin it is of")
    return token
