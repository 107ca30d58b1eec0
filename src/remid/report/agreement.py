"""What other estimators of the same information say, for the page: where they disagree with CLUB, and their numbers.

Everything here folds away on the page, save one line of the verdict where an interval disagrees. Runs made before these
tables existed have no such section.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from remid.report.sentence import Line, Name, Part, shift_name
from remid.report.text import Row, decimals, half_width, interval, level_of, number

#: Names of the estimators as shown, and what is known of each in expectation (docs/theory.md), in the order shown.
ESTIMATORS = {
    "club": ("CLUB", "the headline. Above the information if the scoring model were exact; else no bound"),
    "l1out": ("leave-one-out", "above the information if the scoring model were exact; else no bound"),
    "infonce": ("InfoNCE", "below the information whatever the scoring model; cannot exceed its ceiling"),
    "infonce_tempered": (
        "InfoNCE, tempered",
        "scores over the square root of the length in tokens; below the information, same ceiling",
    ),
    "nwj": ("NWJ", "below the information; on text mostly so far below that it says nothing"),
    "interpolated": ("I_alpha", "between NWJ and InfoNCE (alpha 0.5); below the information, has a ceiling"),
    "smile": ("SMILE", "clipped log-ratios; no bound"),
    "retrieval": ("retrieval", "share of responses likeliest under their own input; no information, for reading"),
}

_QUANTITY = {"remi": "R-EMI", "remid": "R-EMID"}
#: Beyond this, digits before the point tell nothing.
_HUGE = 1e5


@dataclass(frozen=True, slots=True)
class Cell:
    """One estimator's number. other_sign: it is not CLUB's. doubtful: its interval covers too little."""

    value: str
    interval: str
    other_sign: bool
    doubtful: bool


@dataclass(frozen=True, slots=True)
class View:
    """What the section shows.

    counts: (estimator's name, what it is, cells compared, differing in sign by value alone, by interval, by both
    intervals), sign and order together. named: a sentence per significant disagreement. rows: (policy, quantity,
    shift, a cell per estimator or None). limits: sentences on what these estimators can be on this run's pairs.
    by_chance: comparisons in a hundred.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[str, str, int, int, int, int], ...]
    named: tuple[Line, ...]
    rows: tuple[tuple[str, str, tuple[Part, ...], tuple[Cell | None, ...]], ...]
    limits: tuple[str, ...]
    n_cells: int
    n_significant: int
    n_opposed: int
    n_point: int
    by_chance: str


def estimator_view(result: Row) -> View | None:
    """The section's content; None if the run has no other estimators."""
    if not result.get("estimators"):
        return None
    counts = tuple(_count(result, name) for name in ESTIMATORS if name != "club")
    return View(
        names=tuple(label for label, _ in ESTIMATORS.values()),
        counts=counts,
        named=tuple(_sentence(row) for row in result["disagreements"]),
        rows=_rows(result),
        limits=_limits(result),
        n_cells=sum(row[2] for row in counts),
        n_significant=len(result["disagreements"]),
        n_opposed=sum(row[5] for row in counts),
        n_point=sum(row[3] for row in counts),
        by_chance=f"{100 * by_chance_in(result):.3g}",
    )


def disagreement_line(result: Row) -> Line | None:
    """One warning for the verdict if another estimator's interval lies on the other side of 0 from CLUB's value.

    None where that happens in no more cells than chance allows and CLUB's own interval never excludes 0 there.
    """
    found = result.get("disagreements")
    if not found:
        return None
    cells = sum(row["n_cells"] for row in result["agreement"])
    opposed = sum(row["level"] == "opposed" for row in found)
    by_chance = math.ceil(by_chance_in(result) * cells)
    if not opposed and len(found) <= by_chance:
        return None
    many = (
        f"In {len(found)} of {cells} compared cells another estimator's interval lies on the other side of 0 from CLUB"
    )
    both = (
        f"; in {opposed} of them CLUB's own interval excludes 0 too"
        if opposed
        else "; CLUB's own never excludes 0 there"
    )
    chance = f". Where the truth is 0, up to {by_chance} would do so by chance. First: "
    where = (f"{many}{both}{chance}", *_where(found[0]), ". See “Other estimators”.")
    return Line("warning", "estimators_disagree", where)


def by_chance_in(result: Row) -> float:
    """Share of comparisons whose interval lies on one side of 0 by chance, where the truth is 0."""
    return round((1 - level_of(result)) / 2, 9)  # 0.025, not a hair above it


def _count(result: Row, name: str) -> tuple[str, str, int, int, int, int]:
    rows = [row for row in result["agreement"] if row["estimator"] == name]
    n_cells, n_point, n_interval, n_opposed = (
        sum(row[key] for row in rows) for key in ("n_cells", "n_point", "n_interval", "n_opposed")
    )
    return (*ESTIMATORS[name], n_cells, n_point, n_interval, n_opposed)


def _where(row: Row) -> tuple[Part, ...]:
    """ "leave-one-out, R-EMID of “m”, subset “korean”" """
    label, _ = ESTIMATORS[row["estimator"]]
    versus: tuple[Part, ...] = ("” against “", Name(row["versus"])) if row["versus"] is not None else ()
    at: tuple[Part, ...] = shift_name(row["shift"]) if row["shift"] != "id" else ("ID data",)
    if row["subset"] is not None:
        at = ("subset “", Name(row["subset"]), "”")
    return (f"{label}, {_QUANTITY[row['quantity']]} of “", Name(row["policy"]), *versus, "”, ", *at)


def _sentence(row: Row) -> Line:
    club = {key: row[f"club_{key}"] for key in ("value", "ci_low", "ci_high")}
    numbers = (
        f": {_value(row)} {row['unit']} ({_interval(row)}), CLUB {_value(club)} nats/response ({_interval(club)})."
    )
    tail = " Both intervals exclude 0." if row["level"] == "opposed" else ""
    return Line("warning", row["level"], (*_where(row), numbers + tail))


def _rows(result: Row) -> tuple[tuple[str, str, tuple[Part, ...], tuple[Cell | None, ...]], ...]:
    """R-EMI on ID data and R-EMID per pooled shift, every policy but the reference."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in result["estimators"]:
        on_id = row["quantity"] == "remi" and row["shift"] == "id"
        if row["subset"] is None and (on_id or row["quantity"] == "remid"):
            found.setdefault((row["policy"], row["quantity"], row["shift"]), {})[row["estimator"]] = row
    return tuple(
        (
            policy,
            _QUANTITY[quantity],
            ("ID data",) if shift == "id" else shift_name(shift),
            tuple(_cell(by_name.get(name), by_name.get("club")) for name in ESTIMATORS),
        )
        for (policy, quantity, shift), by_name in found.items()
    )


def _cell(row: Row | None, club: Row | None) -> Cell | None:
    if row is None or row["value"] is None:
        return None
    known = club is not None and club["value"] is not None
    other = known and club is not None and row["value"] * club["value"] < 0
    return Cell(_value(row), _interval(row), bool(other), bool(row["doubtful"]))


def _limits(result: Row) -> tuple[str, ...]:
    """How few candidates there are, and how much of InfoNCE is at its ceiling: said plainly, with the numbers."""
    rows = [
        row
        for row in result["estimators"]
        if row["quantity"] == "information" and row["subset"] and row["value"] is not None
    ]
    contrastive = [row for row in rows if row["estimator"] == "infonce" and row["saturation"] is not None]
    if not contrastive:
        return ()
    tops = [row["saturation"] for row in contrastive]
    low, high = (f"{math.expm1(top):.3g}" for top in (min(tops), max(tops)))
    many = low if low == high else f"{low} to {high}"
    near = sum(row["doubtful"] for row in contrastive)
    lines = [
        f"Every response was held against {many} other inputs, so InfoNCE cannot exceed {max(tops):.2f} nats here, "
        f"however much information there is. {near} of {len(contrastive)} subsets and policies lie within 10% of that "
        "ceiling (†); differences there say little, and are never counted as more than a difference in value."
    ]
    if min(tops) < math.log(9):
        lines.append(
            "With fewer than 8 other inputs, leave-one-out is little more than CLUB against the best of a few, and "
            "InfoNCE is coarse and noisy. To use these estimators in earnest, run with more negatives."
        )
    vacuous = [row for row in rows if row["estimator"] == "nwj" and row["value"] < 0]
    if vacuous:
        total = sum(row["estimator"] == "nwj" for row in rows)
        lines.append(f"NWJ is below 0 in {len(vacuous)} of {total} subsets and policies: there it says nothing at all.")
    return tuple(lines)


def _value(row: Row) -> str:
    """As elsewhere, but short where a bound has run away."""
    if row["value"] is not None and abs(row["value"]) >= _HUGE:
        return _short(row["value"])
    half = half_width(row)
    return number(row["value"], None if half is None else decimals(half))


def _interval(row: Row) -> str:
    low, high = row["ci_low"], row["ci_high"]
    if low is not None and high is not None and max(abs(low), abs(high)) >= _HUGE:
        return f"{_short(low)} to {_short(high)}"
    return interval(row)


def _short(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.0e}".replace("e+0", "e").replace("e+", "e")
