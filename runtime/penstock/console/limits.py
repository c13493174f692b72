"""Limits: how often consumers may call, and from where."""

from __future__ import annotations

from flask import Response, request

from penstock.access import limits as access_limits
from penstock.access.pipelines import in_order
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import Form, done, environment, filters, page, show_form, user
from penstock.contracts.rates import Rate
from penstock.db.consumer_settings import NamedAddressRuleRow, NamedLimitRow

PER_PAGE = 50


def _after(name: str) -> int | None:
    text = request.args.get(name, "")
    return int(text[:18]) if text.isascii() and text.isdigit() else None


def _show(form: Form) -> Response:
    here, name, chosen = (
        console_context(),
        environment(),
        request.args.get("consumer", "").strip() or None,
    )
    limits, networks = list[NamedLimitRow](), list[NamedAddressRuleRow]()
    with form.blaming("consumer"):
        limits = access_limits.list_limits(
            here.engine,
            environment=name,
            consumer=chosen,
            after=_after("limits_after"),
            limit=PER_PAGE + 1,
        )
        networks = access_limits.list_networks(
            here.engine,
            environment=name,
            consumer=chosen,
            after=_after("networks_after"),
            limit=PER_PAGE + 1,
        )
    return show_form(
        "limits.html",
        form,
        env=name,
        environments=here.environments(),
        kept={"consumer": chosen} if chosen else {},
        limits=limits[:PER_PAGE],
        limits_last=limits[PER_PAGE - 1]["id"] if len(limits) > PER_PAGE else None,
        limits_later="limits_after" in request.args,
        networks=networks[:PER_PAGE],
        networks_last=networks[PER_PAGE - 1]["id"] if len(networks) > PER_PAGE else None,
        networks_later="networks_after" in request.args,
    )


@page("/limits", needs=Role.VIEWER)
def limits() -> Response:
    """List rates and networks of consumers."""
    return _show(filters("consumer"))


@page("/limits/new", needs=Role.OPERATOR)
def limits_new() -> Response:
    """Show the form for a limit."""
    return _show_new(Form(consumer=request.args.get("consumer", ""), by="consumer"))


def _show_new(form: Form) -> Response:
    return show_form(
        "limit_new.html",
        form,
        env=environment(),
        pipelines=in_order(console_context().host.catalog.loaded),
        by=[(name, name) for name in access_limits.BY],
    )


@page("/limits/new", needs=Role.OPERATOR, method="POST")
def limits_set() -> Response:
    """Let a consumer call so often."""
    here, env, form = console_context(), environment(), Form()
    consumer, pipeline, rate = (
        form["consumer"].strip(),
        form["pipeline"].strip(),
        Rate.of(form["rate"].strip(), form["by"]),
    )
    with form.blaming("rate"):
        access_limits.check_rate(rate)
    if form.errors:
        return _show_new(form)
    with form.blaming("rate", consumer="consumer", pipeline="pipeline"):
        found = access_limits.set_limit(
            here.engine,
            user().name,
            consumer,
            env,
            rate,
            pipeline=pipeline,
            offered=here.host.catalog.offered,
        )
        own = [
            text for identifier in found for text in here.host.catalog.own_rates(identifier) or ()
        ]
        said = (
            f"{consumer} may call {', '.join(found) or 'all pipelines together'} {rate.text} by"
            f" {rate.by} in {env}."
        )
        return done(
            said + (f" That stands in for the rates of its own: {', '.join(own)}." if own else ""),
            "limits",
            env=env,
            consumer=consumer,
        )
    return _show_new(form)


@page("/limits/remove", needs=Role.OPERATOR, method="POST")
def limits_remove() -> Response:
    """Take away a consumer's limits at a pipeline, or over all of them."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("limits"):
        number = access_limits.remove_limits(
            here.engine, user().name, form["consumer"], env, pipeline=form["pipeline"]
        )
        return done(
            f"{number} limit{'s' if number > 1 else ''} of {form['consumer']} removed in {env}.",
            "limits",
            env=env,
        )
    return _show(form)


@page("/limits/networks/new", needs=Role.OPERATOR)
def limits_network_new() -> Response:
    """Show the form for networks."""
    return _show_network(Form(consumer=request.args.get("consumer", ""), allowed="yes"))


def _show_network(form: Form) -> Response:
    return show_form("network_new.html", form, env=environment())


@page("/limits/networks/new", needs=Role.OPERATOR, method="POST")
def limits_network_put() -> Response:
    """Take a consumer's calls from networks only, or never from them."""
    here, env, form = console_context(), environment(), Form()
    consumer, networks = form["consumer"].strip(), form["networks"].replace(",", " ").split()
    if form["allowed"] not in {"yes", "no"}:
        form.errors["allowed"] = "Say whether it may call from there, or may not."
    if not networks:
        form.errors["networks"] = "Name at least one network, such as 192.0.2.0/24."
    if form.errors:
        return _show_network(form)
    allowed = form["allowed"] == "yes"
    with form.blaming("networks"):
        access_limits.check_networks(networks)
    if form.errors:
        return _show_network(form)
    with form.blaming("consumer"):
        kept = access_limits.set_networks(
            here.engine, user().name, consumer, env, networks, allowed=allowed
        )
        said = f"{consumer} may {'' if allowed else 'not '}call from {', '.join(kept)} in {env}."
        return done(said, "limits", env=env, consumer=consumer)
    return _show_network(form)


@page("/limits/networks/remove", needs=Role.OPERATOR, method="POST")
def limits_network_remove() -> Response:
    """Take a network off a consumer's lists."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("networks"):
        access_limits.remove_networks(
            here.engine, user().name, form["consumer"], env, [form["network"]]
        )
        return done(
            f"{form['network']} is removed from the lists of {form['consumer']} in {env}.",
            "limits",
            env=env,
        )
    return _show(form)
