"""Every page in a real browser: usable by everybody, no wider than its window, and free of markup
from the values that users, clients and operators entered."""

from __future__ import annotations

import pytest
from support.console import EVIL, ConsoleServer, accessible, wait_for_charts

PAGES = (
    "/", "/?from=now-7d&env=prod", "/overview/attention", "/e/test/usage?by=key",
    "/users", "/users/new", "/users/ann", "/account", "/pipelines",
    "/pipelines/v1/orders?env=test", "/pipelines/v1/status?env=test", "/consumers",
    "/new-consumer", "/consumers/acme", "/consumers/acme/pipelines", "/policies",
    "/e/test/policy", "/e/test/policy/change?policy=api-key", "/e/test/runs", "/e/test/rejected",
    "/e/test/schedules", "/e/test/queue", "/audit",
    "/audit/1", "/deployments", "/deployments/processes",
    "/pipelines/exposure", "/pipelines/exposure?show=all", "/keys", "/keys?show=expiring",
    "/e/test/tokens", "/e/test/tokens/issuers/new", "/e/test/limits",
    "/e/test/limits/new", "/e/test/limits/networks/new", "/e/test/settings",
    "/e/test/settings/environment", "/e/test/settings/variables/new",
    "/e/test/settings/secrets/new", "/e/test/settings/callbacks/new",
)  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_is_accessible_and_escapes_values(
    furnished_console: ConsoleServer, width: int, scheme: str
) -> None:
    console = furnished_console
    attacker = console.client()
    attacker.http.headers["User-Agent"] = EVIL  # the sessions of ann name the browser
    assert attacker.sign_in("ann").status_code == 303
    page = console.page(width=width, scheme=scheme)
    page.goto(f"{console.url}/sign-in")
    findings = {"/sign-in": accessible(page)}
    page = console.page("ann", width=width, scheme=scheme)
    for path in PAGES:
        response = page.goto(console.url + path)
        assert response is not None
        assert response.status == 200, path
        wait_for_charts(page)
        findings[path] = accessible(page)
        assert page.evaluate("window.owned") is None, path
        assert page.locator("img").count() == 0, path

    assert {path: faults for path, faults in findings.items() if faults} == {}
    assert console.complaints == []


def test_rejected_values_are_escaped(furnished_console: ConsoleServer) -> None:
    ann = furnished_console.client("ann")
    pages = [
        furnished_console.client().post("/sign-in", name=EVIL, password="x").text,
        ann.post("/users/new", name=EVIL, role=EVIL, how=EVIL).text,
        ann.get(f"/users/{EVIL}").text,
        ann.get("/", env=EVIL, span=EVIL).text,
    ]

    assert not any("<script>window" in text or "<img" in text for text in pages)
