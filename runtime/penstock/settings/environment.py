"""Read declared settings from the environment variables of a process."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from penstock.errors import BadSetting
from penstock.settings.declaration import PREFIX, Declaration, Setting


def reject_unknown(env: Mapping[str, str], settings: Iterable[Setting]) -> None:
    """Raise BadSetting for a variable that looks like a setting of Penstock and is none."""
    names = sorted(
        {row.name for row in settings} | {f"{row.name}_FILE" for row in settings if row.secret}
    )
    for name in sorted(env):
        if name.startswith(PREFIX) and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `penstock settings` lists them"
            raise BadSetting(f"{name} is no setting of Penstock{hint}")


def read(env: Mapping[str, str], declaration: Declaration) -> Any:  # noqa: ANN401  the setting's type
    """Return the value of a setting. Raises BadSetting."""
    row = declaration.row
    text = _text(env, row)
    try:
        if text is None:
            return declaration.parse_default(row.default)
        return declaration.parse(text)
    except ValueError as error:
        raise BadSetting(f"{row.name} {error}") from None


def source(env: Mapping[str, str], name: str) -> str:
    """Return the name of the variable that sets a secret setting, or an empty text."""
    return next(
        (variable for variable in (f"{name}_FILE", name) if env.get(variable, "").strip()), ""
    )


def _text(env: Mapping[str, str], row: Setting) -> str | None:
    """Return the text of a setting, or None if it is not set."""
    file = env.get(f"{row.name}_FILE") if row.secret else None
    if not file:
        return env.get(row.name, "").strip() or None
    if env.get(row.name):
        raise BadSetting(f"{row.name} and {row.name}_FILE are both set; remove one of them")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(
            f"{row.name}_FILE: can't read {file}: {error.__class__.__name__}"
        ) from None
