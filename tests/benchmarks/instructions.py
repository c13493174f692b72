"""`make bench-check`: how many instructions a call and its parts take, held against what they took
when that was last written down.

Instructions, for time is another on each machine and at each moment; as ratios to what a bare Flask
view takes, for another build of Python takes others for everything. Counted by valgrind's
callgrind, which knows neither gunicorn's parser in C (its SSE 4.2) nor threads that wait for one
another: what the server does is counted with gunicorn's parser in Python.
"""

# ruff: noqa: T201  the result

from __future__ import annotations

import ctypes
import gc
import io
import json
import mmap
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

KEPT = Path(__file__).with_suffix(".json")
TOLERANCE = 0.10
TIMES, BEFORE = 300, 100
REFERENCE = "a bare Flask view"
# valgrind.h's client request for amd64: eight instructions that do nothing, unless valgrind is
# there to see them
REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
DUMP = (ord("C") << 24 | ord("T") << 16) + 0  # callgrind.h: CALLGRIND_DUMP_STATS


def dumping() -> Callable[[], object]:
    """Return what has callgrind write down what was counted since the last time."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(REQUEST)
    call = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(
        ctypes.addressof(ctypes.c_char.from_buffer(page))
    )
    arguments = (ctypes.c_size_t * 6)(DUMP, 0, 0, 0, 0, 0)

    def dump() -> object:
        # The page lives as long as this does.
        return None if page.closed else call(ctypes.addressof(arguments))

    return dump


def parts(folder: Path) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return what is counted: how many calls each runs, and how it is run."""
    from benchmarks.hot_path import BODY, PLUGIN
    from benchmarks.peers import bare_flask, bare_wsgi
    from gunicorn.config import Config
    from support.place import Place

    from penstock.contracts.authenticators import RequestHead
    from penstock.host import upkeep
    from penstock.host.host import Host
    from penstock.runs import recorder
    from penstock.server.connection import Connection
    from penstock.server.worker import Worker
    from penstock.settings import Settings
    from penstock.web.app import create_app

    # The threads behind a call are not to be counted with it.
    upkeep.POLL_S = recorder.BATCH_INTERVAL_S = 86_400.0
    place = Place.make(f"sqlite:///{folder}/bench.db", folder)
    place.plugin("echo", PLUGIN)
    place.consumer("acme", "echo")
    sent = {
        "HTTP_X_API_KEY": place.key("acme").key,
        "HTTP_AUTHORIZATION": "Bearer " + place.token("acme", scopes=frozenset({"echo"})),
    }
    wrong = sent | {
        "HTTP_X_API_KEY": (
            sent["HTTP_X_API_KEY"][:-1] + ("0" if sent["HTTP_X_API_KEY"][-1] != "0" else "1")
        )
    }
    forged = sent | {"HTTP_AUTHORIZATION": sent["HTTP_AUTHORIZATION"][:-6] + "AAAAAA"}
    host = Host(
        Settings.from_env(
            place.environ(
                PENSTOCK_LOG_CALLS="none", PENSTOCK_MAX_STALENESS="3600", PENSTOCK_METRICS="off"
            )
        )
    )
    app = create_app(host)
    host.start()
    body = BODY.encode()
    ours, theirs = socket.socketpair()

    def environ(path: str, credentials: dict[str, str]) -> dict[str, Any]:
        return {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "gunicorn.socket": ours,
            **credentials,
        }

    def answered(
        application: Any, path: str, credentials: dict[str, str], status: str
    ) -> Callable[[], object]:
        def start_response(line: str, _: object, __: object = None) -> None:
            if not line.startswith(status):
                raise AssertionError(line)

        return lambda: b"".join(application(environ(path, credentials), start_response))

    def admitted() -> object:
        head = RequestHead(environ("/v1/echo/", sent), "v1/echo")
        return (
            host.view.evaluated.external["v1/echo"].gate.admit(head, host.view.access, time.time())
            if host.view.access is not None
            else None
        )

    config = Config()
    for name, value in {
        "http_parser": "python",
        "forwarder_headers": "",
        "forwarded_allow_ips": "",
    }.items():
        config.set(name, value)
    worker = Worker(0, 0, [], None, 30, config, SimpleNamespace(access_log_enabled=False))
    worker.wsgi = bare_wsgi.app
    worker.prepare()
    connection = Connection(ours, ("127.0.0.1", 1), ("127.0.0.1", 80))
    coroutine = worker.http.serve(connection)
    next(coroutine)
    fields = "".join(f"{name[5:].replace('_', '-')}: {value}\r\n" for name, value in sent.items())
    request = (
        "POST /v1/echo/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length:"
        f" {len(body)}\r\n{fields}\r\n{BODY}".encode()
    )

    def served() -> object:
        theirs.sendall(request)
        next(coroutine)
        return theirs.recv(65536)

    call = answered(app, "/v1/echo/", sent, "200")

    def written() -> object:
        return host.services.recorder.flush() if host.services is not None else None

    return {
        REFERENCE: (TIMES, answered(bare_flask.app, "/", {}, "200")),
        "a protected call": (TIMES, call),
        "its gate": (TIMES, admitted),
        "its record, written": (0, written),
        "a call with a wrong key": (TIMES, answered(app, "/v1/echo/", wrong, "401")),
        "a call with a forged token": (TIMES, answered(app, "/v1/echo/", forged, "401")),
        "the server's part of a request": (TIMES, served),
    }


def count() -> None:
    """Run each part, and have callgrind dump before and after it. This is what runs within
    valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        dump = dumping()
        made = parts(Path(folder))
        call = made["a protected call"][1]
        gc.collect()
        # As each worker does after its start: what is loaded is none of the calls' garbage.
        gc.freeze()
        for times, run in made.values():
            if times:
                for _ in range(BEFORE):
                    run()
            else:  # what the calls before left is written once, and then as many again
                run()
                for _ in range(TIMES):
                    call()
            dump()
            for _ in range(times or 1):
                run()
            dump()
        print(json.dumps(list(made)), flush=True)
        os._exit(0)  # no clean-up is needed


def counted() -> dict[str, int]:
    """Return the instructions of one call, by part."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/out",
            sys.executable,
            "-m",
            "benchmarks.instructions",
            "--count",
        ]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"bench-check: {done.stderr[-1500:]}")
        names = json.loads(done.stdout.splitlines()[-1])
        found = (
            re.search(
                r"(?m)^totals: (\d+)",
                Path(f"{folder}/out.{2 * number}").read_text(encoding="utf-8"),
            )
            for number in range(1, len(names) + 1)
        )
        return {
            name: int(total[1]) // TIMES if total else 0
            for name, total in zip(names, found, strict=True)
        }


def main() -> None:
    """Count, print, and end with 1 where something takes more than it did; `--update` writes
    down what it takes now."""
    if "--count" in sys.argv:
        count()
    if shutil.which("valgrind") is None:
        sys.exit("bench-check: valgrind is not installed (Debian: apt install valgrind)")
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    now = counted()
    ratios = {name: round(number / now[REFERENCE], 3) for name, number in now.items()}
    worse = [
        name for name, ratio in ratios.items() if ratio > kept.get(name, 0.0) * (1 + TOLERANCE)
    ]
    print(f"{'':34}{'instructions':>14}{'ratio':>8}{'was':>8}")
    for name, number in now.items():
        note = "  MORE THAN BEFORE" if name in worse else ""
        print(f"{name:34}{number:14,}{ratios[name]:8.3f}{kept.get(name, 0.0):8.3f}{note}")
    if "--update" in sys.argv:
        KEPT.write_text(json.dumps(ratios, indent=2) + "\n", encoding="utf-8")
    elif worse:
        sys.exit(
            f"bench-check: more than {TOLERANCE:.0%} over what is written down in {KEPT.name}:"
            f" {', '.join(worse)}"
        )


if __name__ == "__main__":
    main()
