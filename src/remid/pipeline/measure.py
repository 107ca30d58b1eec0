"""From pair scores to every row of result.json: information, R-EMI, R-EMID, contrasts. Pure: no store, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Protocol, TypeVar

import numpy as np

from remid.estimate import UNITS, Influence, club, contrast, contrast_scores, estimate, holm, in_unit, pool, remi, remid
from remid.estimate.sequential import at_full_shares, stopped
from remid.pipeline.policies import CONTROLS, REFERENCE
from remid.types import ID, Estimate, FloatArray, PairScores, Sample

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SubsetScores:
    """One subset with the PairScores of reference, controls and policies (all on one design).

    Where scoring went in rounds (docs/stopping.md), first: the same subset after the first round, and whole: its
    samples in the data, by which pooled cells weigh it.
    """

    subset: str
    shift: str
    samples: tuple[Sample, ...]
    scores: dict[str, PairScores]
    clusters: tuple[str, ...] | None
    first: SubsetScores | None = None
    whole: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A subset, or all subsets of a shift taken together (subset None), for one quantity of one policy.

    first: the same after the first round, where scoring went in rounds. whole: as in SubsetScores.
    """

    subset: str | None
    shift: str
    influence: Influence
    clusters: tuple[str, ...] | None
    first: Cell | None = None
    whole: int | None = None


def cells(subsets: Sequence[SubsetScores], quantity: Callable[[SubsetScores], Influence]) -> list[Cell]:
    """One cell per subset, then one per shift that pools its subsets; ID pooled first if it has several subsets."""
    return with_pooled([_of_subset(s, quantity) for s in subsets])


def _of_subset(s: SubsetScores, quantity: Callable[[SubsetScores], Influence]) -> Cell:
    first = None if s.first is None else _of_subset(s.first, quantity)
    return Cell(s.subset, s.shift, quantity(s), s.clusters, first, s.whole)


def with_pooled(single: Sequence[Cell]) -> list[Cell]:
    """Cells of subsets, and behind them one per shift that pools its subsets."""
    shifts = dict.fromkeys(cell.shift for cell in single)
    return [*single, *(_pooled([cell for cell in single if cell.shift == shift]) for shift in shifts)]


def _pooled(parts: Sequence[Cell]) -> Cell:
    labels = None if parts[0].clusters is None else tuple(c for part in parts for c in part.clusters or ())
    whole = [part.whole for part in parts if part.whole is not None]
    influences = [part.influence for part in parts]
    firsts = [part.first for part in parts if part.first is not None]
    influence = at_full_shares(influences, whole) if whole else pool(influences)
    return Cell(None, parts[0].shift, influence, labels, _pooled(firsts) if firsts else None)


def contrasted(ours: Cell, theirs: Cell) -> Cell:
    """One subset's cell less another policy's, on the items of both. Pooled cells carry weights: pool the contrasts."""
    first = None if ours.first is None or theirs.first is None else contrasted(ours.first, theirs.first)
    return replace(ours, influence=contrast(ours.influence, theirs.influence), first=first)


def estimate_of(cell: Cell, confidence: float) -> Estimate:
    """A cell's value with its interval, wide enough for a size that was chosen in rounds."""
    made = estimate(cell.influence, confidence=confidence, clusters=cell.clusters)
    return made if cell.first is None else stopped(made, estimate_of(cell.first, confidence).df, confidence)


def information_rows(subsets: Sequence[SubsetScores], confidence: float) -> list[Row]:
    """CLUB of every policy in every subset and unit."""
    rows = []
    for unit in UNITS:
        for policy in subsets[0].scores:
            per_subset = cells(subsets, lambda s, p=policy, u=unit: club(s.scores[p], u))  # type: ignore[misc]
            for s, cell in zip(subsets, per_subset, strict=False):  # the pooled cells come last
                influence, made = cell.influence, estimate_of(cell, confidence)
                # The negatives' mean is over the pairs that CLUB used, so that the two differ by the value.
                positive = _mean(in_unit(s.scores[policy], unit).positive_B[np.isfinite(influence.phi_B)])
                negative = None if positive is None else positive - influence.value
                means = {"positive_mean": positive, "negative_mean": negative}
                rows.append({**place(policy, s.subset, s.shift), **numbers(made), **means})
                del rows[-1]["p_value"]  # against 0, which CLUB as an upper bound cannot be tested for
    return rows


def remi_rows(subsets: Sequence[SubsetScores], confidence: float) -> list[Row]:
    """R-EMI of every policy, per subset and pooled per shift, in every unit."""
    rows = []
    for unit in UNITS:
        for policy in subsets[0].scores:
            for cell in _remi_cells(subsets, policy, unit):
                made = estimate_of(cell, confidence)
                rows.append({**place(policy, cell.subset, cell.shift), **numbers(made)})
    return rows


def remid_rows(subsets: Sequence[SubsetScores], confidence: float) -> list[Row]:
    """R-EMID of every policy against ID. Holm over the models' cells of one unit, subsets and pooled shifts apart.

    The controls' p-values are adjusted within their own family: they calibrate, and must not cost the models power.
    """
    rows: list[Row] = []
    for unit in UNITS:
        for policy in subsets[0].scores:
            row_cells = _remi_cells(subsets, policy, unit)
            base = id_cell(row_cells)
            for cell in row_cells:
                if base is None or cell.shift == ID:
                    continue
                made = remid_of(base, cell, confidence)
                counts = {"n_id": base.influence.n, "n_ood": cell.influence.n}
                rows.append({**place(policy, cell.subset, cell.shift), **numbers(made), **counts})
    adjust(rows, confidence, family=lambda row: (row["unit"], row["subset"] is None, row["policy"] in CONTROLS))
    for row in rows:
        del row["n"]
    return rows


def contrast_rows(subsets: Sequence[SubsetScores], policies: Sequence[str], confidence: float) -> list[Row]:
    """Every pair of policies: difference of R-EMI (ID and pooled shifts) and of R-EMID (pooled shifts)."""
    rows: list[Row] = []
    for unit in UNITS:
        for policy, versus in combinations(policies, 2):
            # lambda defaults bind the loop's values
            pair_cells = cells(
                subsets,
                lambda s, a=policy, b=versus, u=unit: contrast_scores(  # type: ignore[misc]
                    s.scores[a], s.scores[b], s.scores[REFERENCE], u
                ),
            )
            base = id_cell(pair_cells)
            for cell in (c for c in pair_cells if c.subset is None):
                made = estimate_of(cell, confidence)
                rows.append(_contrast_row(policy, versus, "remi", cell, made))
                if base is not None and cell.shift != ID:
                    rows.append(_contrast_row(policy, versus, "remid", cell, remid_of(base, cell, confidence)))
    adjust(rows, confidence, family=lambda row: (row["unit"], row["quantity"]))
    return rows


def worst_rows(remid_list: Sequence[Row], bound_list: Sequence[Row]) -> list[Row]:
    """Per policy the subset with the largest R-EMID (nats/response) and the one with the largest bound."""
    rows = []
    for policy in dict.fromkeys(row["policy"] for row in remid_list):
        mine = [r for r in remid_list if r["policy"] == policy and r["subset"] and r["unit"] == UNITS[0]]
        mine = [r for r in mine if r["value"] is not None]
        bounds = [r for r in bound_list if r["policy"] == policy and r["subset"] and r["value"] is not None]
        worst = max(mine, key=lambda r: r["value"], default=None)
        highest = max(bounds, key=lambda r: r["value"], default=None)
        by_remid = worst and {k: worst[k] for k in ("subset", "value", "ci_low", "ci_high", "p_adjusted")}
        by_bound = highest and {k: highest[k] for k in ("subset", "value")}
        rows.append({"policy": policy, "by_remid": by_remid, "by_bound": by_bound, "unit": UNITS[0]})
    return rows


def mean_influence(phi_B: FloatArray, unit: str) -> Influence:
    """The mean of one value per sample, NaN where it has none, as an Influence."""
    n = int(np.isfinite(phi_B).sum())
    value = float(np.nanmean(phi_B)) if n else float("nan")
    return Influence(value, phi_B, n, phi_B.size - n, unit, np.zeros(phi_B.size, dtype=np.int64))


def number(value: float) -> float | None:
    """A float for JSON: what is not finite is null."""
    return float(value) if np.isfinite(value) else None


def _remi_cells(subsets: Sequence[SubsetScores], policy: str, unit: str) -> list[Cell]:
    return cells(subsets, lambda s: remi(s.scores[policy], s.scores[REFERENCE], unit))


class Placed(Protocol):
    """What stands in a subset, or in all of a shift (subset None)."""

    @property
    def subset(self) -> str | None: ...

    @property
    def shift(self) -> str: ...


P = TypeVar("P", bound=Placed)


def id_cell(row_cells: Sequence[P]) -> P | None:
    """All of ID, or None where there is no ID data."""
    return next((cell for cell in row_cells if cell.shift == ID and cell.subset is None), None)


def remid_of(base: Cell, cell: Cell, confidence: float) -> Estimate:
    """R-EMID of a cell against all of ID."""
    made = remid(
        base.influence,
        cell.influence,
        confidence=confidence,
        clusters_id=base.clusters,
        clusters_ood=cell.clusters,
    )
    if base.first is None or cell.first is None:
        return made
    df = min(estimate_of(one, confidence).df for one in (base.first, cell.first))
    return stopped(made, df, confidence)


def place(policy: str, subset: str | None, shift: str) -> Row:
    """Where a row belongs."""
    return {"policy": policy, "subset": subset, "shift": shift}


def numbers(made: Estimate) -> Row:
    """The estimate as a row's values."""
    values = {key: number(getattr(made, key)) for key in ("value", "stderr", "ci_low", "ci_high", "p_value")}
    return {**values, "n": made.n, "n_missing": made.n_missing, "unit": made.unit}


def _contrast_row(policy: str, versus: str, quantity: str, cell: Cell, made: Estimate) -> Row:
    row = {**place(policy, cell.subset, cell.shift), **numbers(made), "versus": versus, "quantity": quantity}
    del row["n_missing"]
    return row


def adjust(rows: list[Row], confidence: float, *, family: Callable[[Row], Any]) -> None:
    """Add p_adjusted (Holm within the family) and significant to the rows."""
    for name in dict.fromkeys(map(family, rows)):
        members = [row for row in rows if family(row) == name]
        raw = np.array([np.nan if row["p_value"] is None else row["p_value"] for row in members])
        for row, adjusted in zip(members, holm(raw), strict=True):
            row["p_adjusted"] = number(float(adjusted))
            row["significant"] = bool(adjusted < 1 - confidence)


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None
