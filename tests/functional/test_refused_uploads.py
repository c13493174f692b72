"""A client whose large upload is rejected reads why, with each client, directly and
through a proxy."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import requests
from support.place import ROOT, Place, Server, wait_for
from support.services import free_port

LARGE = 8_000_000
PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

small = Pipeline("small", version="1.0.0", trigger=HttpTrigger(max_body=1000))
keyed = Pipeline("keyed", version="1.0.0", trigger=HttpTrigger(api_key=True, max_body=100_000_000))

@small.post("/")
def take(call: Call, body: bytes): return {}

@small.post("/json")
def json(call: Call, body: dict): return {}

@small.post("/none")
def none(call: Call): return {"none": True}

@keyed.post("/")
def keyed_take(call: Call, body: bytes): return {}

@keyed.get("/get")
def get(call: Call): return {}

@hookimpl
def penstock_pipelines(): return [small, keyed]
"""
PATHS = {
    "/v1/small/": 413,
    "/v1/small/none": 200,
    "/v1/keyed/": 401,
    "/v1/keyed/get": 405,
    "/v1/nowhere/": 404,
    "/-/health": 405,
    "/-/console/x": 404,
}
CI = os.environ.get("CI") == "true"


def needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        if CI:
            pytest.fail(f"{program} is missing, and CI must not skip")
        pytest.skip(f"{program} is not installed")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upgraded_file: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("uploads")
    (folder / "a.db").write_bytes(upgraded_file.read_bytes())
    place = Place.make(f"sqlite:///{folder}/a.db", folder)
    place.policy("any")
    place.plugin("small", PLUGIN)
    with Server(place) as started:
        yield started
    place.engine.dispose()


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """nginx as the how-to page has it, but for TLS."""
    program, folder, port = needed("nginx"), tmp_path_factory.mktemp("nginx"), free_port()
    page = (ROOT / "docs" / "how-to" / "put-a-proxy-in-front.md").read_text(encoding="utf-8")
    block = page[page.index("  location / {") :]
    location = block[: block.index("  }") + 3].replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    (folder / "conf").write_text(
        f"""daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{ }}
        http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
        fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
        server {{ listen 127.0.0.1:{port}; client_max_body_size 0; {location} }} }}""",
        encoding="utf-8",
    )
    user = ["-g", "user root;"] if os.getuid() == 0 else []
    process = subprocess.Popen([program, "-c", folder / "conf", "-e", folder / "error.log", *user])
    wait_for(f"http://127.0.0.1:{port}/-/health", process)
    yield port
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def haproxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program, folder, port = needed("haproxy"), tmp_path_factory.mktemp("haproxy"), free_port()
    (folder / "conf").write_text(
        f"""defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  server one 127.0.0.1:{server.port}
""",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [program, "-f", folder / "conf", "-db"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(f"http://127.0.0.1:{port}/-/health", process)
    yield port
    process.terminate()
    process.wait()


def with_http_client(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(
        "POST", path, body=b"x" * LARGE, headers={"Content-Type": "application/octet-stream"}
    )
    answered = connection.getresponse()
    answered.read()
    connection.close()
    return answered.status


def with_httpx(port: int, path: str) -> int:
    return httpx.post(
        f"http://127.0.0.1:{port}{path}", content=b"x" * LARGE, timeout=20
    ).status_code


def with_chunks(port: int, path: str) -> int:
    return httpx.post(
        f"http://127.0.0.1:{port}{path}",
        content=(b"x" * 100_000 for _ in range(LARGE // 100_000)),
        timeout=20,
    ).status_code


def with_requests(port: int, path: str) -> int:
    with requests.Session() as session:
        return session.post(
            f"http://127.0.0.1:{port}{path}", data=b"x" * LARGE, timeout=20
        ).status_code


CLIENTS: dict[str, Callable[[int, str], int]] = {
    "http.client": with_http_client,
    "httpx": with_httpx,
    "httpx in chunks": with_chunks,
    "requests": with_requests,
}


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_the_refusal_reaches_its_sender(server: Server, client: Callable[[int, str], int]) -> None:
    assert {path: client(server.port, path) for path in PATHS} == PATHS


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_the_refusal_reaches_its_sender_through_nginx(
    nginx: int, client: Callable[[int, str], int]
) -> None:
    assert [{path: client(nginx, path) for path in PATHS} for _ in range(3)] == [PATHS] * 3


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_the_refusal_reaches_its_sender_through_haproxy(
    haproxy: int, client: Callable[[int, str], int]
) -> None:
    assert {path: client(haproxy, path) for path in PATHS} == PATHS


def test_curl_reads_the_refusal(server: Server, tmp_path: Path) -> None:
    curl = needed("curl")
    (tmp_path / "large").write_bytes(b"x" * LARGE)
    for expect in ("Expect:", "Expect: 100-continue"):
        command = [
            curl,
            "-s",
            "-o",
            "-",
            "-w",
            "%{http_code}",
            "--data-binary",
            f"@{tmp_path}/large",
            "-H",
            "Content-Type: text/plain",
            "-H",
            expect,
        ]
        for path, status in PATHS.items():
            done = subprocess.run(
                [*command, f"http://127.0.0.1:{server.port}{path}"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout[-3:]) == (0, str(status))


SCRIPT = """
const http = require("http"), [port, ...paths] = process.argv.slice(2), body = Buffer.alloc(%d, "x");
const plain = (path) => new Promise((resolve) => {
  const request = http.request({ port, path, method: "POST", headers: { "Content-Type": "application/octet-stream", "Content-Length": body.length } },
    (answer) => { answer.resume(); answer.on("end", () => resolve(answer.statusCode)); });
  request.on("error", (error) => resolve(error.code));
  request.end(body);
});
const fetched = (path) => fetch(`http://127.0.0.1:${port}${path}`, { method: "POST", body })
  .then((answer) => answer.status, (error) => error.cause.code);
(async () => {
  const found = {};
  for (const path of paths) found[path] = [await plain(path), await plain(path), await fetched(path), await fetched(path)];
  console.log(JSON.stringify(found));
})();
"""  # noqa: E501  text as it is


def test_node_reads_the_refusal(server: Server, tmp_path: Path) -> None:
    (tmp_path / "send.js").write_text(SCRIPT % LARGE)
    done = subprocess.run(
        [needed("node"), tmp_path / "send.js", str(server.port), *PATHS],
        capture_output=True,
        text=True,
        check=True,
    )

    assert {path: set(found) for path, found in json.loads(done.stdout).items()} == {
        path: {status} for path, status in PATHS.items()
    }
