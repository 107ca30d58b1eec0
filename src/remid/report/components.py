"""Which part of its input each policy uses and which it ignores, for the page.

Runs without `--components` have no such section. What is called ignored was decided when the run was measured; here it
is put into words, and what cannot be told is said so.
"""

from __future__ import annotations

from dataclasses import dataclass

from remid.report.sentence import Line, Name, Part, Stat, shift_name
from remid.report.surface import percent_of
from remid.report.text import Row, estimate, interval, level_of, p_text, percent
from remid.report.verdict import confidence

PARTS = ("user", "character", "dialogue")


@dataclass(frozen=True, slots=True)
class Cell:
    """One component of one policy: what it takes from it, and the share of the reference's ("" where there is none)."""

    value: str
    interval: str
    n: int
    kept: str
    kept_interval: str
    ignored: bool
    p: str


@dataclass(frozen=True, slots=True)
class Table:
    """One pooled shift. rows: (policy, kind, cells in the order of PARTS); shapley: the same for shares, None without.

    lines: one sentence per model. n: samples of the shift.
    """

    shift: str
    name: tuple[Part, ...]
    n: int
    rows: tuple[tuple[str, str, tuple[Cell | None, ...]], ...]
    shapley: tuple[tuple[str, str, tuple[Cell | None, ...]], ...] | None
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class View:
    """tables: ID data first. removed: whether parts are left out, instead of replaced by those of `partners` other
    samples. chance: how often a policy that uses all its input is told to ignore some of it."""

    tables: tuple[Table, ...]
    removed: bool
    partners: int
    chance: str


def components_view(result: Row) -> View | None:
    """The section's content; None if the run has none."""
    rows = [row for row in result.get("components", []) if row["subset"] is None]
    if not rows:
        return None
    shifts = sorted(dict.fromkeys(row["shift"] for row in rows), key=lambda shift: shift != "id")
    chance = percent(round(1 - level_of(result), 6))
    partners = result["manifest"]["config"].get("component_partners", 1)
    single = "remove" if any(row["quantity"] == "remove" for row in rows) else "replace"
    tables = tuple(_table(result, rows, shift, single) for shift in shifts)
    return View(tables, single == "remove", partners, chance)


def _table(result: Row, rows: list[Row], shift: str, single: str) -> Table:
    here = [row for row in rows if row["shift"] == shift]
    kinds = {row["policy"]: row["kind"] for row in result["policies"]}
    order = sorted(kinds, key=lambda policy: (policy != "reference", kinds[policy] != "model"))
    found = {(row["quantity"], row["policy"], row["component"]): row for row in here}

    def cells(quantity: str, parts: tuple[str, ...]) -> tuple[tuple[str, str, tuple[Cell | None, ...]], ...]:
        return tuple(
            (policy, kinds[policy], tuple(_cell(found.get((quantity, policy, part))) for part in parts))
            for policy in order
        )

    shapley = cells("shapley", (*PARTS, "all")) if any(row["quantity"] == "shapley" for row in here) else None
    lines = tuple(
        _line(result, policy, {part: found.get((single, policy, part)) for part in PARTS}, shift)
        for policy in order
        if kinds[policy] == "model"
    )
    name: tuple[Part, ...] = ("ID data",) if shift == "id" else shift_name(shift)
    n = max((row["n"] + row["n_missing"] for row in here), default=0)
    return Table(shift, name, n, cells(single, PARTS), shapley, lines)


def _cell(row: Row | None) -> Cell | None:
    if row is None or row["value"] is None:
        return None
    kept = row["kept"] or {}
    share = kept.get("value")
    return Cell(
        estimate(row),
        interval(row),
        row["n"],
        "" if share is None else _percent(share),
        "" if share is None else _between(kept),
        bool(row["ignored"]),
        p_text(row["p_adjusted"], "adjusted p") if row["p_adjusted"] is not None else "",
    )


def _line(result: Row, policy: str, rows: dict[str, Row | None], shift: str) -> Line:
    """What the policy ignores by name, or what kept us from telling."""
    ignored = {part: row for part, row in rows.items() if row is not None and row["ignored"]}
    where: tuple[Part, ...] = () if shift == "id" else (" under ", *shift_name(shift))
    if ignored:
        said: list[Part] = [Name(policy), " ignores ", _and(list(ignored)), *where, ": it keeps "]
        for number, (part, row) in enumerate(ignored.items()):
            kept = row["kept"]
            figures = f"{_percent(kept['value'])} ({confidence(result)} interval {_between(kept)}, n {row['n']})"
            said += ["; " if number else "", Stat(figures), f" of what the reference takes from the {part}"]
        return Line("warning", "ignored", (*said, "."))
    blank = [part for part, row in rows.items() if row is None or row["ignored"] is None]
    if len(blank) == len(PARTS):
        text = " cannot be told: the reference's own use of no part can be told from 0 here."
        return Line("unknown", "untold", ("Which part ", Name(policy), " ignores", *where, text))
    seen = [part for part in PARTS if part not in blank]
    text = f" is not found to ignore {_and(seen, 'or')}"
    rest = f"; of {_and(blank)} nothing can be told, for the reference's own use is not there to see" if blank else ""
    return Line("calm", "uses", (Name(policy), text, *where, f"{rest}."))


def _and(parts: list[str], word: str = "and") -> str:
    named = [f"the {part}" for part in parts]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} {word} {named[-1]}"


def _between(kept: Row) -> str:
    if kept.get("ci_low") is None or kept.get("ci_high") is None:
        return "without bounds"
    return f"{_percent(kept['ci_low'])} to {_percent(kept['ci_high'])}"


def _percent(share: float) -> str:
    text = percent_of(abs(share))
    return f"−{text}" if share < 0 and text != "0%" else text
