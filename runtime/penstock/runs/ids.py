"""Run ids: UUIDv7 (RFC 9562), so that they sort by time."""

from __future__ import annotations

import random
import re
import time

WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{8,128}", re.ASCII)


def new_run_id() -> str:
    """Return a new id; unique, but no secret.

    Not from `os.urandom`: that lets go of the interpreter's lock in every call, and so hands a busy worker to another thread.
    """
    value = (time.time_ns() // 1_000_000) << 80 | random.getrandbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
