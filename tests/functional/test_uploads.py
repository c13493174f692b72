"""Large forms: they go to disk as they arrive, not into the worker's memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.place import Place, Server

Serve = Callable[..., Server]

PLUGIN = """
import hashlib, os
from dataclasses import dataclass
from typing import Annotated
from penstock import Call, Form, HttpTrigger, Pipeline, Upload, hookimpl

uploads = Pipeline("uploads", version="1.0.0", trigger=HttpTrigger(max_body=64 * 1024 * 1024))

@dataclass
class Film:
    title: str
    film: Upload

def memory(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what)) * 1024

@uploads.get("/")
def pid(call: Call): return {"resident": memory("VmRSS")}

@uploads.post("/")
def take(call: Call, form: Annotated[Film, Form()]):
    digest = hashlib.sha256()
    while chunk := form.film.read(65536):
        digest.update(chunk)
    return {"title": form.title, "sha256": digest.hexdigest(), "size": form.film.size, "resident": memory("VmRSS"), "peak": memory("VmHWM")}

@hookimpl
def penstock_pipelines(): return [uploads]
"""  # noqa: E501  text as it is
SIZE = 50 * 1024 * 1024
PART = os.urandom(1024 * 1024)


def multipart() -> Iterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nUs\r\n'
    yield (
        b'--x\r\nContent-Disposition: form-data; name="film"; filename="us.mp4"\r\nContent-Type:'
        b" video/mp4\r\n\r\n"
    )
    for _ in range(SIZE // len(PART)):
        yield PART
    yield b"\r\n--x--\r\n"


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc"
)
def test_an_upload_of_50_mib_costs_the_worker_less_than_10_mib(
    sqlite_place: Place, serve: Serve
) -> None:
    sqlite_place.policy("any")
    sqlite_place.plugin("uploads", PLUGIN)
    server = serve(sqlite_place, PENSTOCK_WORKERS="1")
    digest = hashlib.sha256()
    for _ in range(SIZE // len(PART)):
        digest.update(PART)
    before = server.client.get("/v1/uploads/").json()["resident"]
    length = str(sum(len(part) for part in multipart()))

    for headers in ({"Content-Length": length}, {}):  # framed by its length, and in chunks
        answered = server.client.post(
            "/v1/uploads/",
            content=multipart(),
            headers={"Content-Type": "multipart/form-data; boundary=x", **headers},
            timeout=60,
        )

        found = answered.json()
        assert (found["title"], found["size"], found["sha256"]) == ("Us", SIZE, digest.hexdigest())
        assert found["peak"] - before < 10 * 1024 * 1024
