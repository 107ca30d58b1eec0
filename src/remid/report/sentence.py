"""What a sentence on the page and in the terminal is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["loss", "gain", "calm", "unknown", "warning"]


@dataclass(frozen=True, slots=True)
class Name:
    """A piece of a sentence that came from the user's data, to be set apart (and isolated) when shown."""

    text: str


@dataclass(frozen=True, slots=True)
class Stat:
    """The numbers of a sentence, which a page may set apart from its words."""

    text: str


Part = str | Name | Stat


@dataclass(frozen=True, slots=True)
class Line:
    """One or two sentences. code: which rule made it, for tests and style sheets."""

    tone: Tone
    code: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The sentence as plain text, nothing marked."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def shift_name(shift: str) -> tuple[Part, ...]:
    """ "the user shift"; the user's own kinds of shift are set apart as foreign text."""
    if shift in {"user", "character", "dialogue"}:
        return (f"the {shift} shift",)
    return ("the shift “", Name(shift), "”")
