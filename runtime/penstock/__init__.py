"""Penstock: HTTP-triggered pipelines as plugins, behind each environment's external access policy.

Plugins may use the names of this module, and `penstock.testing` in their tests. All other modules
may change without notice.
"""

from penstock.contracts.access import (
    AccessView,
    ApiKey,
    Consumer,
    Credential,
    EnvironmentFacts,
    PluginSetup,
    SigningKey,
    TrustedIssuer,
)
from penstock.contracts.authenticators import Authenticator, Once, RequestHead
from penstock.contracts.call import Call, Caller, Reply, Token
from penstock.contracts.cors import Cors
from penstock.contracts.extensions import Command, Document, TokenIssuer
from penstock.contracts.forms import Form, Header, Upload
from penstock.contracts.jwks import KeySet, PublicKey, read_key_set
from penstock.contracts.keys import make_api_key, parse_api_key
from penstock.contracts.pipeline import Durable, Pipeline
from penstock.contracts.policies import AccessPolicy, Candidate, Verdict, Violation
from penstock.contracts.rates import Rate
from penstock.contracts.responses import ResponseHeader, ResponsePolicy
from penstock.contracts.steps import Retry, Step, call_pipeline, gather, sleep, step
from penstock.contracts.triggers import HttpTrigger, Schedule
from penstock.contracts.variables import Secret, secret
from penstock.errors import (
    CredentialRejected,
    DeadlineExceeded,
    PipelineCallError,
    PipelineError,
    StepFailed,
    StepTimedOut,
    TokenNotIssued,
)
from penstock.header_fields import attachment
from penstock.hookspecs import hookimpl

__all__ = [
    "AccessPolicy",
    "AccessView",
    "ApiKey",
    "Authenticator",
    "Call",
    "Caller",
    "Candidate",
    "Command",
    "Consumer",
    "Cors",
    "Credential",
    "CredentialRejected",
    "DeadlineExceeded",
    "Document",
    "Durable",
    "EnvironmentFacts",
    "Form",
    "Header",
    "HttpTrigger",
    "KeySet",
    "Once",
    "Pipeline",
    "PipelineCallError",
    "PipelineError",
    "PluginSetup",
    "PublicKey",
    "Rate",
    "Reply",
    "RequestHead",
    "ResponseHeader",
    "ResponsePolicy",
    "Retry",
    "Schedule",
    "Secret",
    "SigningKey",
    "Step",
    "StepFailed",
    "StepTimedOut",
    "Token",
    "TokenIssuer",
    "TokenNotIssued",
    "TrustedIssuer",
    "Upload",
    "Verdict",
    "Violation",
    "attachment",
    "call_pipeline",
    "gather",
    "hookimpl",
    "make_api_key",
    "parse_api_key",
    "read_key_set",
    "secret",
    "sleep",
    "step",
]
