"""Text from hostile files: made safe to print, cut into words. Data may hold terminal commands and broken Unicode."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

#: Unicode categories that do something other than show a glyph: controls, formats (bidi marks, zero widths),
#: surrogates, private use, unassigned, line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

#: Zero-width (non-)joiners spell words in Persian and the Indic scripts and glue emoji; they cannot reorder a line.
_JOINERS = "\u200c\u200d"


#: Written without spaces: Thai to Khmer, kana, Han. A character says about half as much as a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


@cache
def word_pattern() -> re.Pattern[str]:
    """A word, with its apostrophes; in scripts without spaces a sign. Made when first wanted: it takes 25 ms."""
    # What belongs to the letter before it: combining marks (vowel signs of the Indic scripts, accents apart), joiners.
    marks = "".join(char for char in map(chr, range(0x300, 0x1F000)) if unicodedata.category(char)[0] == "M")
    letters = rf"(?:(?![{UNSPACED}])[^\W_][{_JOINERS}{marks}]*)+"
    return re.compile(rf"[{UNSPACED}]|{letters}(?:['’]{letters})*")


def shown(text: str, limit: int = 80) -> str:
    """`text` on one line of at most `limit` characters, fit for a terminal or a message.

    Line breaks, tabs and the wider kinds of space become spaces; what is invisible or could steer a terminal becomes
    its escape (\\x1b, \\u202e).
    """
    # Escapes make a text longer, never shorter, so looking at a little more than `limit` characters is enough.
    pieces = [_safe(char) for char in text[: limit + 1]]
    line = "".join(pieces)
    return line if len(line) <= limit else line[: max(0, limit - 3)] + "..."


def _safe(char: str) -> str:
    category = unicodedata.category(char)
    if char in "\n\r\t" or category == "Zs":
        return " "
    if char in _JOINERS or category not in _INVISIBLE:
        return char
    return char.encode("unicode_escape").decode("ascii")


def counted(n: int, noun: str) -> str:
    """Such as "1 policy" or "2 policies"."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n} {noun if n == 1 else many}"


def is_utf8(text: str) -> bool:
    """Whether `text` can be written as UTF-8, which lone surrogates cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def kind(value: Any) -> str:
    """What a value read from a file is, in the words of JSON, for messages such as "must be text, not a number"."""
    names = (
        (bool, "true or false"),
        (str, "text"),
        (int, "a number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "an object"),
    )
    if value is None:
        return "null"
    return next((name for type_, name in names if isinstance(value, type_)), type(value).__name__)
