"""How numbers and foreign text are written, in the page's static parts and in the terminal.

templates/core.js holds the same rules for the parts drawn in the browser; tests/report/test_browser.py compares both.
"""

from __future__ import annotations

import math
import re
from typing import Any

#: Plain dicts as read from result.json.
Row = dict[str, Any]

#: The unit that the verdict speaks in: the only one of the three in which CLUB and the bound are in real nats.
MAIN_UNIT = "nats/response"
UNITS = (MAIN_UNIT, "nats/token", "nats/byte")

# C0 and C1 controls except newline and tab, the marks that reorder text, and lone surrogates (not valid in UTF-8).
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text with every control and reordering mark replaced by a placeholder such as ⟨U+202E⟩.

    The marks are shown and not dropped: a reader must see that a response holds them.
    """
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def short(text: str, limit: int) -> str:
    """At most `limit` characters of the text, the last of them an ellipsis if any were cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def decimals(scale: float | None) -> int:
    """Decimal places that show two significant digits of `scale` (the half-width of an interval, or the value)."""
    if scale is None or scale == 0:
        return 2
    return min(6, max(0, 1 - math.floor(math.log10(abs(scale)))))


def number(value: float | None, places: int | None = None, sign: bool = True) -> str:
    """A number with a true minus sign; "n/a" for None, which means "could not be estimated" and never zero."""
    if value is None:
        return "n/a"
    text = f"{abs(value):.{decimals(value) if places is None else places}f}"
    if float(text) == 0:
        return text
    return ("−" if value < 0 else "+" if sign else "") + text


def half_width(row: Row) -> float | None:
    """Half the width of the row's interval; None where it has none."""
    low, high = row.get("ci_low"), row.get("ci_high")
    return None if low is None or high is None else abs(float(high) - float(low)) / 2


def interval(row: Row) -> str:
    """The row's interval as "−1.2 to +3.4", or "no interval"."""
    half = half_width(row)
    if half is None:
        return "no interval"
    places = decimals(half)
    return f"{number(row['ci_low'], places)} to {number(row['ci_high'], places)}"


def estimate(row: Row) -> str:
    """The row's value, rounded as its interval allows."""
    half = half_width(row)
    return number(row.get("value"), None if half is None else decimals(half))


def p_text(value: float | None, name: str = "p") -> str:
    """A p-value as "p = 0.034" or "p < 0.001"."""
    if value is None:
        return f"{name} n/a"
    if value < 0.001:
        return f"{name} < 0.001"
    return f"{name} = {value:.2g}" if value < 0.1 else f"{name} = {value:.2f}"


def level_of(result: Row) -> float:
    """The level of the result's intervals, 0.95 unless the configuration says otherwise."""
    level = result["manifest"]["config"].get("confidence", 0.95)
    return float(level) if isinstance(level, (int, float)) else 0.95


def percent(level: float) -> str:
    """0.95 as "95%"."""
    return f"{100 * level:.3g}%"
