"""Variables and secrets of an environment, as pipelines declare and read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from penstock.contracts.options import Problem
from penstock.errors import quoted

Value = TypeVar("Value")
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class Secret:
    """A secret of the environment. `reveal()` returns its value.

    Example: `call.secrets["erp_token"].reveal()`. The value is not in its repr, and it can't be
    pickled or sent in a reply.
    """

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self._value = value

    def reveal(self) -> str:
        """Return the secret's value."""
        return self._value

    def __repr__(self) -> str:
        """Return the name of the secret, never its value."""
        return f"<Secret {self.name}>"

    def __reduce__(self) -> NoReturn:
        """Raise TypeError: a secret can't be pickled or copied."""
        raise TypeError("a secret can't be pickled; reveal() it where it is used")


class NotSet(KeyError):
    """Raised for a variable or secret that is not set; its text shows the command to set it."""

    def __str__(self) -> str:
        """Return the text without the quotes that KeyError adds."""
        return str(self.args[0])


class NamedValues(dict[str, Value]):
    """Variables or secrets by name. Reading one that is not set raises NotSet."""

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
        why = "is not set, has expired or is limited to other pipelines" if secret else "is not set"
        command = (
            f"penstock {self._kind} set {name}{'' if secret else ' VALUE'} --env"
            f" {self._environment}"
        )
        need = f'secret("{name}")' if secret else f'"{name}"'
        raise NotSet(
            f"the {self._kind} {quoted(name)} {why} in environment {quoted(self._environment)};"
            f" set it: `{command}`, and declare needs={{{need}}} on the pipeline, so that"
            " `penstock check` reports it before a call fails"
        )


@dataclass(frozen=True, slots=True)
class SecretNeed:
    """A required secret; `secret` returns it."""

    name: str

    def __str__(self) -> str:
        """Return the name as messages contain it."""
        return f"the secret {quoted(self.name)}"


def secret(name: str) -> SecretNeed:
    """Return a required secret, for the `needs` of a pipeline: `needs={secret("erp_token")}`."""
    return SecretNeed(name)


def problems_of_needs(needs: Iterable[object]) -> Iterable[Problem]:
    """Yield what is wrong with the needs of a pipeline, each with its fix."""
    for need in needs:
        name = need.name if isinstance(need, SecretNeed) else need
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield (
                f"it needs {quoted(name)}, which can't be a name",
                "use lower-case letters, digits and underscores, a letter first, 64 at most",
            )
