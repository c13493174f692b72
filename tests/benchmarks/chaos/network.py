"""A network and mount namespace of the trial's own, in which packets are dropped and small disks
are mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.trial import NotPlayable

PRIVATE = "CHAOS_PRIVATE"  # set within the namespaces
TABLE = "chaos"
ESTABLISHED = "01"  # of /proc/net/tcp


def isolate(arguments: list[str]) -> None:
    """Begin again in namespaces of our own, where this user may; `make chaos` then changes
    nothing of this machine."""
    unshare = shutil.which("unshare")
    if PRIVATE in os.environ or os.getuid() != 0 or unshare is None:
        return
    if subprocess.run([unshare, "-n", "-m", "true"], check=False, capture_output=True).returncode:
        return
    command = [
        unshare,
        "-n",
        "-m",
        "sh",
        "-c",
        'ip link set lo up && exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "benchmarks.chaos",
        *arguments,
    ]
    os.execve(unshare, command, os.environ | {PRIVATE: "1"})  # noqa: S606  our own command, and what it was given


def _private() -> None:
    if PRIVATE not in os.environ:
        raise NotPlayable("it needs root, unshare and a network namespace")


@contextmanager
def _dropping(*rules: str) -> Iterator[None]:
    """Drop what comes in on the loopback interface and matches a rule: its sender believes that
    it was sent."""
    _private()
    if shutil.which("nft") is None:
        raise NotPlayable("nft is not installed")
    chain = [
        f"add table inet {TABLE}",
        f"add chain inet {TABLE} dropped {{ type filter hook input priority 0; }}",
    ]
    script = (
        "\n".join([*chain, *(f"add rule inet {TABLE} dropped {rule} drop" for rule in rules)])
        + "\n"
    )
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)


@contextmanager
def drop(address: str, port: int) -> Iterator[None]:
    """Cut off all that goes to an address and port, and comes from it."""
    with _dropping(f"ip daddr {address} tcp dport {port}", f"ip saddr {address} tcp sport {port}"):
        yield


@contextmanager
def drop_established(address: str, port: int) -> Iterator[None]:
    """Cut off the connections to an address and port that there are; new ones pass."""
    _private()
    ports = ", ".join(map(str, _clients(address, port)))
    with _dropping(
        f"ip daddr {address} tcp dport {port} tcp sport {{ {ports} }}",
        f"ip saddr {address} tcp sport {port} tcp dport {{ {ports} }}",
    ):
        yield


def _clients(address: str, port: int) -> list[int]:
    """Return the clients' ports of the established connections to an address and port."""
    server = "".join(f"{int(part):02X}" for part in reversed(address.split("."))) + f":{port:04X}"
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [
        int(line[1].split(":")[1], 16)
        for line in lines
        if line[2] == server and line[3] == ESTABLISHED
    ]


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a disk of so many kilobytes."""
    _private()
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "chaos", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
