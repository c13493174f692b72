"""Store what runs were given and what steps returned encrypted, as MessagePack."""

from __future__ import annotations

from typing import Any

import msgspec
from dbos import (
    Serializer,
)

from penstock.access.encryption import SecretBox, UnknownKey
from penstock.contracts.sanitize import as_msgpack
from penstock.durable.engine import (
    Undecryptable,
)
from penstock.runs.steps import describe_error

RAISED = "__raised__"


class UndecryptableCall(Undecryptable):
    """What we have no key for, also as the call of a run.

    The engine gives us its arguments then, and ends a run for good where it can't.
    """

    def __getitem__(self, name: str) -> object:
        """Return the arguments of a call, of which this is the only one."""
        return (self,) if name == "args" else {}


class EncryptedSerializer(Serializer):
    """Keeps what runs were given and what steps left sealed, as MessagePack.

    It is customers' data, and never a pickle.
    """

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    def serialize(self, data: Any) -> str:  # noqa: ANN401  the engine's type
        """Return a value as the engine keeps it.

        Raises Undecryptable: a schedule of which we have no key is for workers that have it.
        """
        for argument in data["args"] if isinstance(data, dict) and "args" in data else ():
            if isinstance(argument, Undecryptable):
                raise argument
        return self._box.encrypt(
            as_msgpack({RAISED: describe_error(data)} if isinstance(data, BaseException) else data)
        ).decode("ascii")

    def deserialize(self, serialized_data: str) -> Any:  # noqa: ANN401  the engine's type
        """Return a value as it was, exceptions as errors that say the same.

        An UndecryptableCall where we have no key.
        """
        try:
            value = msgspec.msgpack.decode(self._box.decrypt(serialized_data.encode("ascii")))
        except UnknownKey as error:
            return UndecryptableCall(str(error))
        return RuntimeError(value[RAISED]) if isinstance(value, dict) and RAISED in value else value

    def name(self) -> str:
        """Name the format."""
        return "penstock"
