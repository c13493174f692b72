"""Find things by the names operators use, or say what was meant."""

from __future__ import annotations

from penstock.db.rows import Reader, Row
from penstock.errors import Unknown


def named(reader: Reader, kind: str, name: str) -> Row:
    """Return the environment or consumer of that name; raise Unknown with the nearest right one."""
    row = reader.find(f"{kind}s", name=name)
    if row is None:
        raise Unknown(kind, name, reader.names(f"{kind}s"), mend=f"`penstock {'env' if kind == 'environment' else kind} create {name}` makes it")
    return row


def environment_row(reader: Reader, name: str) -> Row:
    """Return the environment of that name; raise Unknown."""
    return named(reader, "environment", name)


def consumer_in(reader: Reader, consumer: str, environment: str) -> dict[str, int]:
    """Return the ids that name a consumer in an environment; raise Unknown."""
    return {"environment_id": environment_row(reader, environment)["id"], "consumer_id": named(reader, "consumer", consumer)["id"]}
