"""The question before an act that can't easily be undone.

A view that acts is a POST. Registered with `confirm=`, its path answers GET with a page that asks
the question; scripts show the same page as a dialog. The question is built on the server from the
path, so no link can put other words above the button.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A question with two answers.

    `sentence` names the object and the environment. `verb` is the button that acts ("Revoke key"),
    `other` the one that doesn't ("Keep key"); `back` is the address of the page to return to.
    `fields` are values that the POST gets.
    """

    sentence: str
    verb: str
    other: str
    back: str
    fields: Mapping[str, str] = field(default_factory=dict)
    danger: bool = True

    def __post_init__(self) -> None:
        if self.verb == self.other:
            raise ValueError(f"Both answers are “{self.verb}”")


# Builds the question from the arguments of the view.
Confirm = Callable[..., Confirmation]
