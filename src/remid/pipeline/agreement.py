"""What other estimators of the same information say, and where they disagree with CLUB. Pure: no store, no model.

CLUB stays the headline. A disagreement is of sign (of R-EMI or R-EMID) or of order (of two models, by the sign of their
difference), and has a level:

- "point": only the two values differ in sign; by chance this happens wherever the truth is near 0.
- "interval": the other estimator's interval excludes 0 on the other side from CLUB's value.
- "opposed": CLUB's own interval excludes 0 as well. Both are sure, and of the opposite.

Near its ceiling an estimator's interval does not cover, nor does NWJ's where it has run away below 0 (docs/theory.md),
nor retrieval's difference where every or no response of a side is retrieved, which shows no spread. Such numbers are
called doubtful, and the level stays "point".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from remid.estimate import (
    UNITS,
    Influence,
    ceiling,
    club,
    infonce,
    infonce_tempered,
    interpolated,
    l1out,
    nwj,
    remi,
    retrieval,
    share_interval,
    smile,
)
from remid.estimate.estimators import ALPHA
from remid.pipeline.measure import (
    Cell,
    Row,
    SubsetScores,
    cells,
    contrasted,
    estimate_of,
    id_cell,
    number,
    numbers,
    place,
    remid_of,
    with_pooled,
)
from remid.pipeline.policies import CONTROLS, REFERENCE
from remid.types import ID, Estimate, PairScores

CLUB = "club"
#: Has no finite variance worth the name where scores differ by many nats; a value below 0 shows it.
_RUNS_AWAY = "nwj"
#: A share: its own interval is Wilson's, and at 0 as at its ceiling it shows no spread.
_SHARE = "retrieval"

#: What is shown of CLUB beside another estimator.
_SHOWN = ("value", "ci_low", "ci_high")

#: How close to its ceiling an information may lie before its interval is not believed.
_NEAR = 0.9


def _club(policy: PairScores, reference: PairScores | None = None) -> Influence:
    return club(policy) if reference is None else remi(policy, reference)


def _one(scores: PairScores) -> float:
    """Retrieval's ceiling."""
    return 1.0


Measure = Callable[[PairScores, PairScores | None], Influence]
Ceiling = Callable[[PairScores], float]

#: Name of an estimator in result.json: what measures it, and the most that it can be (None: no ceiling).
ESTIMATORS: Mapping[str, tuple[Measure, Ceiling | None]] = {
    CLUB: (_club, None),
    "l1out": (l1out, None),
    "infonce": (infonce, ceiling),
    "infonce_tempered": (infonce_tempered, ceiling),
    "nwj": (nwj, None),
    "interpolated": (interpolated, partial(ceiling, alpha=ALPHA)),
    "smile": (smile, None),
    "retrieval": (retrieval, _one),
}


@dataclass(frozen=True, slots=True)
class Gain:
    """R-EMI of one policy by one estimator: its cells, and per (subset, shift) whether a side of it is doubtful."""

    cells: tuple[Cell, ...]
    doubtful: Mapping[tuple[str | None, str], bool]


def estimator_rows(subsets: Sequence[SubsetScores], confidence: float) -> tuple[list[Row], dict[tuple[str, str], Gain]]:
    """Rows of `estimators` (docs/result.md), and R-EMI by (estimator, policy) for `agreement_rows`.

    Information, R-EMI and R-EMID by every estimator, per subset and pooled, nats/response (retrieval: share).
    """
    rows: list[Row] = []
    gains: dict[tuple[str, str], Gain] = {}
    for name, (measure, most) in ESTIMATORS.items():
        doubtful: dict[str, dict[tuple[str | None, str], bool]] = {}
        for policy in subsets[0].scores:
            tops = _ceilings(subsets, policy, most)
            doubtful[policy] = {}
            for cell in cells(subsets, lambda s, p=policy, f=measure: f(s.scores[p], None)):  # type: ignore[misc]
                made, top = estimate_of(cell, confidence), tops[_key(cell)]
                at_top = bool(made.value > _NEAR * top)  # False where either is NaN
                doubtful[policy][_key(cell)] = at_top or _at_bottom(name, made.value)
                if name == _SHARE:
                    made = share_interval(made, confidence)
                rows.append(
                    _row(
                        name, policy, "information", cell, made, doubtful=doubtful[policy][_key(cell)], top=number(top)
                    )
                )
        for policy in subsets[0].scores:
            if policy == REFERENCE:
                continue
            made_cells = cells(subsets, lambda s, p=policy, f=measure: f(s.scores[p], s.scores[REFERENCE]))  # type: ignore[misc]
            either = {key: doubtful[policy][key] or doubtful[REFERENCE][key] for key in doubtful[policy]}
            gains[name, policy] = Gain(tuple(made_cells), either)
            base = id_cell(made_cells)
            for cell in made_cells:
                made = estimate_of(cell, confidence)
                rows.append(_row(name, policy, "remi", cell, made, doubtful=either[_key(cell)]))
                if base is not None and cell.shift != ID:
                    made = remid_of(base, cell, confidence)
                    rows.append(
                        _row(name, policy, "remid", cell, made, doubtful=either[_key(cell)] or either[None, ID])
                    )
    return rows, gains


def _at_bottom(name: str, value: float) -> bool:
    """Whether an information is so low that its spread says too little; NaN is not."""
    return bool((name == _RUNS_AWAY and value < 0) or (name == _SHARE and value <= 0))


def agreement_rows(
    rows: Sequence[Row], gains: Mapping[tuple[str, str], Gain], contrasts: Sequence[Row], confidence: float
) -> tuple[list[Row], list[Row]]:
    """Rows of `agreement` (counts per estimator, each cell at its highest level) and of `disagreements` (the cells of
    level "interval" and "opposed", the latter first). contrasts: CLUB's, as in the result.

    Sign: every policy but the reference. Order: every two models, pooled cells. A subset that is its shift's only one
    counts once, as its shift.
    """
    alone = _only_subsets(rows)
    signs = [row for row in rows if row["quantity"] != "information" and (row["subset"], row["shift"]) not in alone]
    by_club = {_where(row): row for row in signs if row["estimator"] == CLUB}
    pairs = [("sign", None, row, by_club[_where(row)]) for row in signs if row["estimator"] != CLUB]
    ordered = {_pair(row): row for row in contrasts if row["unit"] == UNITS[0]}
    for row in _order_rows(gains, confidence):
        if _pair(row) in ordered:
            pairs.append(("order", row["versus"], row, ordered[_pair(row)]))
    counts: dict[tuple[str, str, str], Row] = {}
    found: list[Row] = []
    for about, versus, row, theirs in pairs:
        head = {"estimator": row["estimator"], "about": about, "quantity": row["quantity"]}
        zero = {"n_cells": 0, "n_point": 0, "n_interval": 0, "n_opposed": 0}
        count = counts.setdefault((row["estimator"], about, row["quantity"]), {**head, **zero})
        if row["value"] is None or theirs["value"] is None:
            continue
        count["n_cells"] += 1
        level = _level(row, theirs)
        if level is None:
            continue
        count[f"n_{level}"] += 1
        if level != "point":
            where = {**place(row["policy"], row["subset"], row["shift"]), "versus": versus, "level": level}
            mine = {key: row[key] for key in ("value", "ci_low", "ci_high", "n", "unit")}
            found.append({**head, **where, **mine, **{f"club_{key}": theirs[key] for key in mine if key in _SHOWN}})
    return list(counts.values()), sorted(found, key=lambda row: row["level"] != "opposed")


def _level(row: Row, theirs: Row) -> str | None:
    """How the two disagree; None if they do not. A value of exactly 0 disagrees with nothing."""
    if row["value"] * theirs["value"] >= 0:
        return None
    if row["doubtful"] or not _excludes_zero(row):
        return "point"
    return "opposed" if _excludes_zero(theirs) else "interval"


def _excludes_zero(row: Row) -> bool:
    low, high = row["ci_low"], row["ci_high"]
    return low is not None and high is not None and bool(low > 0 or high < 0)


def _order_rows(gains: Mapping[tuple[str, str], Gain], confidence: float) -> list[Row]:
    """Differences of two models' R-EMI and R-EMID, pooled cells, by every estimator but CLUB."""
    models = list(dict.fromkeys(policy for _, policy in gains if policy not in CONTROLS))
    rows = []
    for name in (name for name in ESTIMATORS if name != CLUB):
        for policy, versus in combinations(models, 2):
            ours, theirs = gains[name, policy], gains[name, versus]
            single = [contrasted(a, b) for a, b in zip(ours.cells, theirs.cells, strict=True) if a.subset is not None]
            pooled = [cell for cell in with_pooled(single) if cell.subset is None]
            doubtful = {key: ours.doubtful[key] or theirs.doubtful[key] for key in ours.doubtful}
            base = id_cell(pooled)
            for cell in pooled:
                made = estimate_of(cell, confidence)
                row = _row(name, policy, "remi", cell, made, doubtful=doubtful[_key(cell)])
                rows.append({**row, "versus": versus})
                if base is not None and cell.shift != ID:
                    made = remid_of(base, cell, confidence)
                    row = _row(name, policy, "remid", cell, made, doubtful=doubtful[_key(cell)] or doubtful[None, ID])
                    rows.append({**row, "versus": versus})
    return rows


def _ceilings(
    subsets: Sequence[SubsetScores], policy: str, most: Ceiling | None
) -> dict[tuple[str | None, str], float]:
    """The ceiling per (subset, shift); pooled, the mean over the responses that were scored. NaN: there is none."""
    made: dict[tuple[str | None, str], float] = {}
    weighed: dict[str, list[tuple[float, float]]] = {}
    for s in subsets:
        top = float("nan") if most is None else most(s.scores[policy])
        made[s.subset, s.shift] = top
        if np.isfinite(top):
            n = float(np.isfinite(s.scores[policy].positive_B).sum())
            weighed.setdefault(s.shift, []).append((top * n, n))
    for shift in dict.fromkeys(s.shift for s in subsets):
        total = sum(n for _, n in weighed.get(shift, []))
        made[None, shift] = sum(part for part, _ in weighed[shift]) / total if total else float("nan")
    return made


def _only_subsets(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """(subset, shift) of subsets that are the only one of their shift: the pooled row is the same."""
    known = {(row["subset"], row["shift"]) for row in rows if row["subset"] is not None}
    return {(subset, shift) for subset, shift in known if sum(other == shift for _, other in known) == 1}


def _row(
    name: str, policy: str, quantity: str, cell: Cell, made: Estimate, *, doubtful: bool, top: float | None = None
) -> Row:
    values = numbers(made)
    del values["p_value"]  # information is not tested against 0; for the rest the interval is what is compared
    head = {"estimator": name, "quantity": quantity, **place(policy, cell.subset, cell.shift)}
    return {**head, **values, "saturation": top, "doubtful": doubtful}


def _key(cell: Cell) -> tuple[str | None, str]:
    return cell.subset, cell.shift


def _where(row: Row) -> tuple[str | None, ...]:
    return row["quantity"], row["policy"], row["subset"], row["shift"]


def _pair(row: Row) -> tuple[str | None, ...]:
    return row["quantity"], row["policy"], row["versus"], row["subset"], row["shift"]
