"""Encryption of everything that the engine stores: inputs of runs and outputs of steps."""

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
from penstock.runs.step_records import describe_error

RAISED = "__raised__"


class UndecryptableCall(Undecryptable):
    """A value that can't be decrypted, in a form that the engine also accepts as a run's input.

    The engine then calls the workflow, which defers the run. An exception here would end it.
    """

    def __getitem__(self, name: str) -> object:
        """Return the arguments of the workflow: this value as the only one."""
        return (self,) if name == "args" else {}


class EncryptedSerializer(Serializer):
    """Stores values as encrypted MessagePack, never as a pickle: they are data of customers."""

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    def serialize(self, data: Any) -> str:  # noqa: ANN401  the engine's type
        """Return the text that the engine stores.

        Raises Undecryptable for a tick whose context has none: another worker must take it.
        """
        for argument in data["args"] if isinstance(data, dict) and "args" in data else ():
            if isinstance(argument, Undecryptable):
                raise argument
        return self._box.encrypt(
            as_msgpack({RAISED: describe_error(data)} if isinstance(data, BaseException) else data)
        ).decode("ascii")

    def deserialize(self, serialized_data: str) -> Any:  # noqa: ANN401  the engine's type
        """Return the value, an error with the same text for an exception.

        Return an UndecryptableCall where this process has no key for it.
        """
        try:
            value = msgspec.msgpack.decode(self._box.decrypt(serialized_data.encode("ascii")))
        except UnknownKey as error:
            return UndecryptableCall(str(error))
        return RuntimeError(value[RAISED]) if isinstance(value, dict) and RAISED in value else value

    def name(self) -> str:
        """Return the name of the format."""
        return "penstock"
