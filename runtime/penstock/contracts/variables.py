"""What a pipeline needs from its environment.

Plain variables, and secrets that never show themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

Value = TypeVar("Value")
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class Secret:
    """A secret's value: `reveal()` is the only way to it.

    It has no place in a repr, a log, a reply or a pickle.
    """

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self._value = value

    def reveal(self) -> str:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        """Name it."""
        return f"<Secret {self.name}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a secret can't be pickled; reveal() it where it is used")


class NotSet(KeyError):
    """A variable or secret that a pipeline asked for is not there; the text says how to set it."""

    def __str__(self) -> str:
        """Return the text, without the quotes of a KeyError."""
        return str(self.args[0])


class Named(dict[str, Value]):
    """Variables or secrets by name.

    Asking for one that is not there raises NotSet, which says where and how to set it.
    """

    def __init__(
        self,
        kind: str,
        environment: str,
        values: Mapping[str, Value] | Iterable[tuple[str, Value]] = (),
    ) -> None:
        super().__init__(values)
        self._kind, self._environment = kind, environment

    def __missing__(self, name: str) -> NoReturn:
        secret = self._kind == "secret"
        why = "is not set, has expired or is kept for other pipelines" if secret else "is not set"
        command = (
            f"penstock {self._kind} set {name}{'' if secret else ' VALUE'} --env"
            f" {self._environment}"
        )
        need = f'secret("{name}")' if secret else f'"{name}"'
        raise NotSet(
            f"the {self._kind} {name!r} {why} in environment {self._environment!r}; set it:"
            f" `{command}`, and name it in the pipeline's needs={{{need}}}, so that `penstock"
            " check` tells before a call does"
        )


@dataclass(frozen=True, slots=True)
class SecretNeed:
    """A need for a secret of that name; made by `secret`."""

    name: str

    def __str__(self) -> str:
        """Name it as messages do."""
        return f"the secret {self.name!r}"


def secret(name: str) -> SecretNeed:
    """Name a secret among the needs of a pipeline."""
    return SecretNeed(name)


def problems_of(needs: Iterable[object]) -> Iterable[tuple[str, str]]:
    """Yield what makes no sense about a pipeline's needs, each with its mend."""
    for need in needs:
        name = need.name if isinstance(need, SecretNeed) else need
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield (
                f"it needs {name!r}, which can't be a name",
                "use lower-case letters, digits and underscores, a letter first, 64 at most",
            )
