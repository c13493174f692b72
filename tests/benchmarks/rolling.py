"""`make rolling`: calls through nginx and HAProxy while two hosts are reloaded and restarted all
the time; none may fail.

The proxies run with docs/examples/nginx-two-hosts.conf and docs/examples/haproxy-two-hosts.cfg,
with other addresses and, unless a variant says so, without any retry: a call that fails once has
failed.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from benchmarks.calling import Calls
from support.place import ROOT, Place, Server
from support.services import Postgres, free_port, initdb

PLUGIN = """
import os, time
from penstock import Call, HttpTrigger, Pipeline, hookimpl

rolling = Pipeline("rolling", version="1.0.0", trigger=HttpTrigger(api_key=True, timeout=60))
DONE = os.open(os.environ["ROLLING_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@rolling.get("/{millis}")
def wait(call: Call, millis: int) -> dict:
    time.sleep(millis / 1000)
    return {"millis": millis}

@rolling.post("/{millis}")
def work(call: Call, millis: int, body: str) -> dict:
    os.write(DONE, body.encode() + b"\\n")
    time.sleep(millis / 1000)
    return {"done": body}

@hookimpl
def penstock_pipelines(): return [rolling]
"""
EXAMPLES = ROOT / "docs" / "examples"
RELOAD_S = 1.5  # between two reloads, of one host and the other in turn
DRAIN_S = 2  # longer than HAProxy's inter * fall + timeout check here


@dataclass(frozen=True)
class Variant:
    """A proxy and how it is run. `drained`: a host that is to stop is taken out of rotation by a
    reload of the proxy."""

    name: str
    proxy: str
    upstream_keep_alive: bool = True
    retries: bool = False
    drained: bool = False


VARIANTS = (
    Variant("nginx, upstream keep-alive, drained", "nginx", drained=True),
    Variant(
        "nginx, new upstream connections, drained", "nginx", upstream_keep_alive=False, drained=True
    ),
    Variant("nginx as in the example, not drained", "nginx", retries=True),
    Variant("HAProxy, upstream keep-alive", "haproxy"),
    Variant("HAProxy, new upstream connections", "haproxy", upstream_keep_alive=False),
)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """Return an example with regular expressions replaced; each must be there, or the trial is
    another one."""
    for old, new in changes:
        text, number = re.subn(old, new, text, flags=re.MULTILINE)
        assert number, f"the example has no {old}"
    return text


class Proxy:
    """A proxy in a process of its own, before hosts on loopback ports."""

    def __init__(self, variant: Variant, hosts: tuple[int, int], folder: Path) -> None:
        self.variant, self.hosts, self.folder = variant, hosts, folder
        self.port = free_port()
        self.config = folder / f"{variant.proxy}.conf"
        self.log = folder / f"{variant.proxy}.log"

    def addresses(self) -> list[tuple[str, str]]:
        """Return what replaces the hosts of the examples."""
        return [
            (rf"10\.0\.0\.{number}:8000", f"127.0.0.1:{port}")
            for number, port in zip((11, 12), self.hosts, strict=True)
        ]

    def start(self, *command: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(200):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/-/health", timeout=2):
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{self.variant.proxy} does not answer: {self.log.read_text()}")

    def down(self, host: int | None) -> None:
        """Take a host out of rotation, and all others into it, where the proxy does not see by
        itself which answer."""

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class Nginx(Proxy):
    """nginx with the example."""

    def __init__(self, variant: Variant, hosts: tuple[int, int], folder: Path) -> None:
        super().__init__(variant, hosts, folder)
        self.write(None)
        program = shutil.which("nginx")
        assert program is not None, "nginx is not installed"
        self.start(program, "-c", str(self.config), "-p", str(folder))

    def write(self, down: int | None) -> None:
        changes = [
            (r"^  listen 443 ssl;", f"  listen 127.0.0.1:{self.port} backlog=4096;"),
            (r"^  ssl_certificate.*\n", ""),
        ]
        if not self.variant.upstream_keep_alive:
            changes += [(r"^  keepalive.*\n", ""), (r'Connection ""', "Connection close")]
        if not self.variant.retries:
            changes += [(r"^    proxy_next_upstream error;", "    proxy_next_upstream off;")]
        if down is not None:
            changes += [(rf"({self.hosts[down]}) max_fails=0;", r"\1 max_fails=0 down;")]
        example = replaced(
            (EXAMPLES / "nginx-two-hosts.conf").read_text(), *self.addresses(), *changes
        )
        paths = "".join(
            f"  {name}_temp_path {self.folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.config.write_text(
            f"pid {self.folder}/nginx.pid;\nerror_log {self.folder}/nginx.log;\ndaemon"
            " off;\nworker_processes 2;\nevents { worker_connections 4096; }\nhttp {\n "
            f" access_log off;\n{paths}{example}}}\n"
        )

    def down(self, host: int | None) -> None:
        if not self.variant.drained:
            return
        self.write(host)
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)


class Haproxy(Proxy):
    """HAProxy with the example; it sees itself which hosts answer."""

    def __init__(self, variant: Variant, hosts: tuple[int, int], folder: Path) -> None:
        super().__init__(variant, hosts, folder)
        changes = [
            (r"bind :443 ssl crt \S+", f"bind 127.0.0.1:{self.port} backlog 4096"),
            ("inter 1s", "inter 200ms"),
        ]
        if not self.variant.upstream_keep_alive:
            changes += [(r"^  http-reuse safe", "  option http-server-close")]
        if not self.variant.retries:
            changes += [
                (
                    r"^  retries 2\n  option redispatch 1\n  retry-on conn-failure\n",
                    "  retries 0\n  no option redispatch\n",
                )
            ]
        self.config.write_text(
            replaced((EXAMPLES / "haproxy-two-hosts.cfg").read_text(), *self.addresses(), *changes)
        )
        program = shutil.which("haproxy")
        assert program is not None, "HAProxy is not installed"
        self.start(program, "-db", "-f", str(self.config))


class Hosts:
    """Two `penstock serve` that share a database."""

    def __init__(self, place: Place, done: Path, stack: ExitStack) -> None:
        self._place, self._done, self._stack = place, done, stack
        self.ports = (free_port(), free_port())
        self._servers: dict[int, Server] = {
            host: self._start(port) for host, port in enumerate(self.ports)
        }

    def _start(self, port: int) -> Server:
        more = {"PENSTOCK_DRAIN_DELAY": str(DRAIN_S), "ROLLING_LOG": str(self._done)}
        return self._stack.enter_context(Server(self._place, workers=2, port=port, **more))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell each host that runs to load its plugins anew, again and again."""
        done = threading.Event()

        def reload() -> None:
            for host in itertools.cycle((0, 1)):
                if done.wait(RELOAD_S):
                    return
                if (server := self._servers.get(host)) is not None:
                    server.process.send_signal(signal.SIGHUP)

        thread = threading.Thread(target=reload)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def restart(self, host: int) -> None:
        """Stop a host as systemd does, start it again, and wait until it is ready."""
        server = self._servers.pop(host)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        self._servers[host] = self._start(self.ports[host])
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with (
                suppress(OSError),
                urlopen(f"http://127.0.0.1:{self.ports[host]}/-/ready", timeout=20),
            ):
                return
        raise AssertionError("a host does not get ready")

    def reloads(self) -> int:
        """Return how often hosts have loaded their plugins anew."""
        logs = [
            log.read_text()
            for log in self._place.folder.glob("server-*.log")
            if log.stem.rpartition("-")[2] in map(str, self.ports)
        ]
        return sum(log.count("Handling signal: hup") for log in logs)


@dataclass
class Result:
    """What came of a trial. `wait` is the longest time that a call took beyond what its handler
    did, in seconds."""

    calls: int
    failed: Counter[str]
    wait: float
    reloads: int
    restarts: int

    def row(self, name: str) -> str:
        failed = ", ".join(f"{number} {kind}" for kind, number in self.failed.items()) or "0"
        figures = f"{self.calls:7,} calls  failed {failed}  longest wait {self.wait:.2f} s"
        return f"{name:42} {figures}  {self.reloads} reloads, {self.restarts} restarts"


@contextmanager
def running(
    place: Place, variants: Sequence[Variant], folder: Path
) -> Iterator[tuple[Hosts, list[Proxy], Path]]:
    """Run two hosts, and proxies before them."""
    folder.mkdir()
    done = folder / "done.log"
    with ExitStack() as stack:
        hosts = Hosts(place, done, stack)
        proxies: list[Proxy] = []
        for variant in variants:
            proxies.append(
                (Nginx if variant.proxy == "nginx" else Haproxy)(variant, hosts.ports, folder)
            )
            stack.callback(proxies[-1].stop)
        yield hosts, proxies, done


def prepared(place: Place) -> str:
    """Return a key that may call the pipeline."""
    place.policy("api-key")
    place.plugin("rolling", PLUGIN)
    place.consumer("acme", "rolling")
    return place.key("acme").key


def trial(
    place: Place,
    key: str,
    variants: Sequence[Variant],
    *,
    calls: int,
    restarts: int,
    between: float = 3.0,
    pause: float = 0.0,
) -> list[Result]:
    """Send at least that many calls through each variant, while one host after the other is
    restarted at least that often in all."""
    with running(place, variants, place.folder / f"trial-{time.time_ns()}") as (
        hosts,
        proxies,
        done,
    ):
        # A reload of nginx ends the connections of its clients.
        loads = [
            Calls(proxy.port, key, keep_alive=not proxy.variant.drained, pause=pause)
            for proxy in proxies
        ]
        for load in loads:
            load.start()
        restarted = 0
        with hosts.reloading():
            while (min(load.sent for load in loads) < calls or restarted < restarts) and not any(
                load.hopeless() for load in loads
            ):
                time.sleep(between)
                for proxy in proxies:
                    proxy.down(restarted % 2)
                hosts.restart(restarted % 2)
                for proxy in proxies:
                    proxy.down(None)
                time.sleep(1.0)
                restarted += 1
        for load in loads:
            load.stop()
        performed = Counter(done.read_text().split())
        results = [
            Result(load.sent, load.failed, load.wait, hosts.reloads(), restarted) for load in loads
        ]
    for load, result in zip(loads, results, strict=True):
        lost = [name for name in load.posted if not performed[name]]
        twice = [name for name in load.posted if performed[name] > 1]
        result.failed += Counter({"POST lost": len(lost), "POST performed twice": len(twice)})
    return results


def main() -> None:
    """Run all variants and print what came of each; exit code 1 where a call failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a PostgreSQL database; by default a server of its own")
    parser.add_argument("--calls", type=int, default=12_000, help="of each variant, at least")
    parser.add_argument(
        "--restarts", type=int, default=3, help="of each host in each variant, at least"
    )
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="penstock-rolling-"))
    with ExitStack() as stack:
        url = chosen.url
        if not url:
            programs = initdb()
            assert programs is not None, "PostgreSQL is not installed"
            postgres = Postgres(programs)
            stack.callback(postgres.remove)
            postgres.start()
            postgres.run("CREATE DATABASE penstock")
            url = f"{postgres.url}/penstock"
        place = Place.make(url, folder)
        key = prepared(place)
        results = []
        for variant in VARIANTS:
            if chosen.only in variant.name:
                results += trial(
                    place, key, [variant], calls=chosen.calls, restarts=2 * chosen.restarts
                )
                print(results[-1].row(variant.name), flush=True)  # noqa: T201
        place.engine.dispose()
    print(  # noqa: T201
        f"{sum(result.calls for result in results):,} calls,"
        f" {sum(result.failed.total() for result in results)} failed; see {folder}"
    )
    sys.exit(any(result.failed for result in results))


if __name__ == "__main__":
    main()
