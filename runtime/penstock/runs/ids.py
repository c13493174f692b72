"""Run ids: UUIDv7 (RFC 9562), so that they sort by time."""

from __future__ import annotations

import random
import re
from hashlib import sha256

from penstock import clock

RUN_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII
)
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,128}", re.ASCII)


def new_run_id() -> str:
    """Return a new id; it is unique, but no secret.

    `os.urandom` is not used: it releases the interpreter lock in every call, which would switch the
    thread of a busy worker.
    """
    return _uuid7(int(clock.now() * 1000), random.getrandbits(80))


def derived_run_id(millis: int, *parts: object) -> str:
    """Return the id of a run at a moment, in milliseconds since the epoch.

    The same parts give the same id, so that accepting twice creates one run.
    """
    return _uuid7(
        millis,
        int.from_bytes(sha256("\0".join(str(part) for part in parts).encode()).digest()[:10]),
    )


def millis_of(run: str) -> int:
    """Return when the call of a run was received, in milliseconds since the epoch."""
    return int(run[:8] + run[9:13], 16)


def _uuid7(millis: int, bits: int) -> str:
    variant = bits >> 48 & 0x3FFF | 0x8000
    return (
        f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7{bits >> 64 & 0xFFF:03x}-{variant:04x}"
        f"-{bits & 0xFFFFFFFFFFFF:012x}"
    )


def is_run_id(text: str) -> bool:
    """Return whether a text is the id of a run."""
    return RUN_ID.fullmatch(text) is not None


def first_id(moment: float) -> str:
    """Return the lowest id of a run that was received at a moment or later.

    The moment is in seconds since the epoch.
    """
    text = f"{max(0, int(moment * 1000)):012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"
