"""A real nginx in front that takes a path prefix off: `location /api/ { proxy_pass http://…/;
}`. Every URL still leads where it should."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import CI
from playwright.sync_api import Browser, expect
from support.console import PASSWORD, create_users
from support.place import ROOT, Place, Server, wait_for
from support.services import free_port

Serve = Callable[..., Server]
CONFIGURATION = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /api/ {{
      proxy_pass http://127.0.0.1:{upstream}/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
    }}
  }}
}}
"""
PLUGIN = (ROOT / "tests" / "generators" / "hard.py").read_text(encoding="utf-8")


@pytest.fixture
def served(sqlite_place: Place, serve: Serve, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A server behind nginx: the URL that its callers use, and a key of one."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        _ = (
            pytest.fail("nginx is missing, and CI must not skip")
            if CI
            else pytest.skip("nginx is not installed")
        )
    port = free_port()
    base = f"http://127.0.0.1:{port}/api"
    sqlite_place.policy("api-key")
    sqlite_place.plugin("hard", PLUGIN)
    sqlite_place.consumer("acme", "jobs", "orders", "v2/orders")
    key = sqlite_place.key("acme").key
    create_users(sqlite_place.engine)
    server = serve(sqlite_place, worker=1, PENSTOCK_URL=f"{base}/", PENSTOCK_CONSOLE="true")
    user = "user root;" if Path.home() == Path("/root") else ""
    (tmp_path / "nginx.conf").write_text(
        CONFIGURATION.format(folder=tmp_path, port=port, upstream=server.port, user=user),
        encoding="utf-8",
    )
    nginx = subprocess.Popen(
        [program, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"]
    )
    try:
        wait_for(f"{base}/-/health", nginx)
        yield base, key
    finally:
        nginx.terminate()
        nginx.wait(10)


def test_calls_and_runs_work_by_the_urls_that_replies_hold(
    served: tuple[str, str], sqlite_place: Place
) -> None:
    base, key = served
    order = {"reference": "a", "quantity": 2}
    with httpx.Client(headers={"X-API-Key": key}, timeout=20) as client:
        accepted = client.post(f"{base}/v1/jobs", json=order)
        run = client.get(accepted.headers["Location"], headers={"Prefer": "wait=20"})
        replaced = client.put(f"{base}/v2/orders/00000000-0000-7000-8000-000000000000", json=order)

    assert accepted.status_code == 202
    assert (run.status_code, run.json()["status"]) == (200, "succeeded")
    assert replaced.headers["Location"] == f"{base}/v2/orders/00000000-0000-7000-8000-000000000000"
    printed = json.loads(sqlite_place.run("openapi", "--env", "test", PENSTOCK_URL=base).stdout)
    assert printed["servers"] == [{"url": base}]


def test_the_console_and_the_docs_page_work_in_a_browser(
    served: tuple[str, str], sqlite_place: Place, browser: Browser
) -> None:
    (base, key), token = served, sqlite_place.token("acme", scopes=frozenset({"read", "write"}))
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on(
        "response", lambda received: failed.append(received.url) if received.status >= 400 else None
    )

    page.goto(f"{base}/-/docs")  # for users of the console: sign in first
    page.get_by_label("User").fill("vic")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{base}/-/docs")
    page.get_by_label("X-API-Key").fill(key)
    page.get_by_label("Token Authorization").fill(token)
    page.locator(".operation summary").filter(has_text="GET /v2/orders").first.click()
    page.get_by_role("button", name="Send call: GET /v2/orders").first.click()
    expect(page.locator(".reply p", has_text="200")).to_be_visible()
    page.get_by_role("link", name="Console").click()
    page.wait_for_url(f"{base}/-/console/")

    page.goto(f"{base}/-/console/pipelines/v2/orders/routes?env=test")
    expect(page.locator("body")).to_contain_text(f"curl -X POST {base}/v2/orders/")
    for entry in ("Overview", "Runs", "Audit"):
        page.get_by_role("link", name=entry, exact=True).first.click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    time.sleep(0.2)
    context.close()

    assert {urlsplit(url).path.split("/")[1] for url in asked if not url.startswith("data:")} == {
        "api"
    }
    assert failed == []
