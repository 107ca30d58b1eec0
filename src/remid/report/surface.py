"""What responses look like from outside, for the page: copying, length, repetition, language, beside R-EMI.

Runs made before this table existed have no such section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from remid.report.sentence import Part, shift_name
from remid.report.text import Row, decimals, estimate, half_width, interval, percent
from remid.report.verdict import id_row

#: (measure, source) of each column and its heading, in order.
COLUMNS = {
    ("words", None): "Words",
    ("brief", None): "Brief",
    ("copied", "last turn"): "Copied: last turn",
    ("copied", "earlier turns"): "earlier turns",
    ("copied", "character"): "character",
    ("copied", "user"): "user",
    ("copied", "input"): "any of these",
    ("run", "input"): "Longest run",
    ("repeated", None): "Repeats",
    ("language", None): "Same language",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """value: as shown. apart: "more" or "less" where it differs from the reference's beyond its interval, else "".

    counted: responses that it is a mean of ("n 5"), where that is not the table's n; else "".
    """

    value: str
    interval: str
    apart: str
    counted: str


@dataclass(frozen=True, slots=True)
class Table:
    """One pooled shift of n samples. rows: (policy, kind, (R-EMI, interval), cells in the order of COLUMNS), None where
    there is none; a cell says its own n where it is another."""

    shift: str
    name: tuple[Part, ...]
    n: int
    rows: tuple[tuple[str, str, tuple[str, str] | None, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class View:
    """headings: of the columns. tables: ID data first."""

    headings: tuple[str, ...]
    tables: tuple[Table, ...]


def surface_view(result: Row) -> View | None:
    """The section's content; None if the run has none."""
    rows = [row for row in result.get("surface", []) if row["subset"] is None]
    if not rows:
        return None
    shifts = sorted(dict.fromkeys(row["shift"] for row in rows), key=lambda shift: shift != "id")
    return View(tuple(COLUMNS.values()), tuple(_table(result, rows, shift) for shift in shifts))


def _table(result: Row, rows: list[Row], shift: str) -> Table:
    found = {(row["policy"], row["measure"], row["source"]): row for row in rows if row["shift"] == shift}
    kinds = {row["policy"]: row["kind"] for row in result["policies"]}
    order = sorted(kinds, key=lambda policy: (policy != "reference", kinds[policy] != "model"))
    n = max((row["n"] + row["n_missing"] for row in found.values()), default=0)
    made = []
    for policy in order:
        on_id = id_row(result, policy) if shift == "id" else None
        told = None if on_id is None or policy == "reference" else (estimate(on_id), interval(on_id))
        cells = tuple(_cell(found.get((policy, *column)), n) for column in COLUMNS)
        made.append((policy, kinds[policy], told, cells))
    name: tuple[Part, ...] = ("ID data",) if shift == "id" else shift_name(shift)
    return Table(shift, name, n, tuple(made))


def _cell(row: Row | None, n: int) -> Cell | None:
    if row is None or row["value"] is None:
        return None
    over: Any = row["over_reference"] or {}
    low, high = over.get("ci_low"), over.get("ci_high")
    known = low is not None and high is not None
    apart = "more" if known and low > 0 else "less" if known and high < 0 else ""
    low, high = row["ci_low"], row["ci_high"]
    counted = "" if row["n"] == n else f"n {row['n']}"
    if row["unit"] == "share":
        around = "" if low is None or high is None else f"{percent_of(low).removesuffix('%')} to {percent_of(high)}"
        return Cell(percent_of(row["value"]), around, apart, counted)
    half = half_width(row)
    places = min(1, decimals(half))
    around = "" if low is None or high is None else f"{max(low, 0):.{places}f} to {high:.{places}f}"
    return Cell(f"{row['value']:.{places}f}", around, apart, counted)


def percent_of(share: float) -> str:
    """0.213 as "21%", and small ones with a decimal."""
    return percent(round(share, 2 if share >= 0.1 else 3))
