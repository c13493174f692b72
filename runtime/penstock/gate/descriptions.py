"""Describe a gate to readers, and write a call that it accepts as a curl command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from penstock.contracts.registered import RegisteredAuthenticator
from penstock.gate.compliance import Evaluation, State

Scheme = Mapping[str, object]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def describe_gate(evaluated: Evaluation, authenticators: Iterable[RegisteredAuthenticator]) -> str:
    """Return what a call must present, or why no call is accepted, in a sentence."""
    if evaluated.state is State.BLOCKED:
        return "No call is accepted: the pipeline is blocked."
    if evaluated.state is State.DISABLED:
        return "No call is accepted: an operator has disabled the pipeline."
    if evaluated.state is State.INTERNAL:
        return "No call is accepted: the pipeline is not for this listener."
    nouns = {item.name: item.noun for item in authenticators}
    parts: list[str] = []
    for name in sorted(evaluated.requires):
        noun = nouns.get(name, name)
        part = f"{'an' if noun[0] in 'AEIOaeio' else 'a'} {noun}"
        if not parts:
            part += " of an associated consumer"
        scopes = sorted(evaluated.pipeline.trigger.scopes) if name == "jwt" else []
        if scopes:
            part += f" with {'scope' if len(scopes) == 1 else 'scopes'} {' '.join(scopes)}"
        parts.append(part)
    sentence = (
        f"A call needs {_listed(parts)}."
        if parts
        else "A call needs no credentials: anyone may call."
    )
    return (
        f"{sentence} Its handlers get the token itself."
        if evaluated.pipeline.trigger.forward_token
        else sentence
    )


def curl_line(
    method: str,
    url: str,
    evaluated: Evaluation,
    schemes: Mapping[str, Scheme],
    *,
    media: str | None,
    body: str,
) -> str:
    """Return a call as a shell command, with shell variables in place of credentials."""
    return curl_command(method, url, evaluated.requires, schemes, media=media, body=body)


def curl_command(
    method: str,
    url: str,
    requires: Iterable[str],
    schemes: Mapping[str, Scheme],
    *,
    media: str | None,
    body: str,
) -> str:
    """Return a call as a shell command, by the names of the credentials that it must present."""
    words = ["curl", *(["-X", method] if method != "GET" else []), shlex.quote(url)]
    for name in sorted(requires):
        words += _credential(name, schemes.get(name, {}))
    if media:
        words += ["-H", shlex.quote(f"Content-Type: {media}"), "--data-binary", shlex.quote(body)]
    return " ".join(words)


def _credential(name: str, scheme: Scheme) -> list[str]:
    kind, where = scheme.get("type"), str(scheme.get("name", ""))
    if kind == "apiKey" and scheme.get("in") == "header":
        return ["-H", f'"{where}: ${name.upper()}"']
    if kind == "http" and str(scheme.get("scheme")).lower() == "basic":
        return ["-u", '"$USER_NAME:$PASSWORD"']
    if kind == "mutualTLS":
        return ["--cert", '"$CERTIFICATE"', "--key", '"$CERTIFICATE_KEY"']
    return ["-H", '"Authorization: Bearer $TOKEN"']
