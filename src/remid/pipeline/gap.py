"""Rows of the gap: how far each policy is from the reference, how a shift changes it, and who is closer. Pure.

What the gap is stands in estimate/gap.py; the files' format in docs/result.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from zlib import crc32

import numpy as np

from remid.estimate import (
    Gap,
    Paired,
    draw_contexts,
    estimate,
    gap_bound,
    gap_difference,
    gap_estimate,
    mean_length,
    measure_gap,
    paired,
    part_estimate,
    together,
)
from remid.pipeline.measure import Row, SubsetScores, adjust, cells, id_cell, mean_influence, number, numbers, place
from remid.pipeline.policies import CONTROLS, REFERENCE, Texts
from remid.pipeline.told import AllTold
from remid.types import ID, FloatArray

_ENDS = ("value", "ci_low", "ci_high")


@dataclass(frozen=True, slots=True, eq=False)
class GapCell:
    """A subset, or all subsets of a shift (subset None): every policy against the reference, on the same resamples.

    seed: what these were drawn with.
    """

    subset: str | None
    shift: str
    pairs: Mapping[str, Paired]
    gaps: Mapping[str, Gap]
    seed: int


def gap_cells(subsets: Sequence[SubsetScores], told: AllTold, confidence: float, seed: int) -> list[GapCell]:
    """One cell per subset, then one per shift, in the order of `measure.cells`."""
    single = {
        s.subset: {
            policy: paired(found, told[s.subset][REFERENCE], s.clusters) for policy, found in told[s.subset].items()
        }
        for s in subsets
    }
    made = [_cell(s.subset, s.shift, single[s.subset], confidence, seed) for s in subsets]
    for shift in dict.fromkeys(s.shift for s in subsets):
        parts = [s for s in subsets if s.shift == shift]
        whole = [s.whole for s in parts if s.whole is not None]
        labels = [label for s in parts for label in s.clusters or ()] or None
        pooled = {
            policy: together([single[s.subset][policy] for s in parts], whole or None, labels)
            for policy in subsets[0].scores
        }
        made.append(_cell(None, shift, pooled, confidence, seed))
    return made


def _cell(subset: str | None, shift: str, pairs: Mapping[str, Paired], confidence: float, seed: int) -> GapCell:
    # Cells are of different contexts, so each is drawn with a seed of its own; policies of a cell share theirs.
    own = int(np.random.SeedSequence([seed, crc32(f"{subset}\n{shift}".encode())]).generate_state(1)[0])
    draws_RB = draw_contexts(next(iter(pairs.values())), seed=own)
    gaps = {policy: measure_gap(pair, draws_RB, confidence=confidence) for policy, pair in pairs.items()}
    return GapCell(subset, shift, pairs, gaps, own)


def gap_rows(
    gap_list: Sequence[GapCell],
    subsets: Sequence[SubsetScores],
    told: AllTold,
    answers: Mapping[str, Mapping[str, Texts]],
    confidence: float,
) -> list[Row]:
    """Rows of `gap`: every policy but the reference, per subset and pooled per shift, with what it is made of."""
    rows = []
    for policy in (name for name in subsets[0].scores if name != REFERENCE):
        means = {name: _means(subsets, told, policy, name, confidence) for name in _MEANS}
        for k, cell in enumerate(gap_list):
            gap = cell.gaps[policy]
            made = numbers(gap_estimate(gap, confidence))
            del made["p_value"]  # it cannot lie below 0
            parts = {part: _ends(numbers(part_estimate(gap, part, confidence))) for part in ("missing", "excess")}
            texts = [
                t
                for s in subsets
                if cell.subset in (None, s.subset)
                if s.shift == cell.shift
                for t in answers[s.subset][policy]
                if t is not None
            ]
            row = {
                **place(policy, cell.subset, cell.shift),
                **made,
                **parts,
                **{name: found[k] for name, found in means.items()},
                "n_distinct": len(set(texts)),
            }
            rows.append({**row, "reading": _reading(row)})
    return rows


def change_rows(gap_list: Sequence[GapCell], bounds: Sequence[Row], confidence: float) -> list[Row]:
    """Rows of `gap_change`: gap under a shift less gap on all of ID, as R-EMID of the gap. Positive: the policy loses.

    bounds: rows of `bound`, whose t (share of inputs that the shift moves) bounds the change.
    """
    base = id_cell(gap_list)
    if base is None:
        return []
    moved = {(r["subset"], r["shift"], r["policy"]): r["ingredients"]["t"] for r in bounds}
    rows: list[Row] = []
    for cell in (cell for cell in gap_list if cell.shift != ID):
        for policy in (name for name in cell.gaps if name != REFERENCE):
            ours, before = cell.gaps[policy], base.gaps[policy]
            made = numbers(gap_difference(ours, before, confidence))
            del made["n"]
            t = moved.get((cell.subset, cell.shift, policy))
            length = mean_length(cell.pairs[policy])
            bound = gap_bound(base.pairs[policy], length, float("nan") if t is None else t)
            rows.append(
                {
                    **place(policy, cell.subset, cell.shift),
                    **made,
                    "n_id": before.n,
                    "n_ood": ours.n,
                    "t": t,
                    "bound": number(bound),
                }
            )
    adjust(rows, confidence, family=lambda row: (row["subset"] is None, row["policy"] in CONTROLS))
    return rows


def gap_contrast_rows(gap_list: Sequence[GapCell], policies: Sequence[str], confidence: float) -> list[Row]:
    """Rows of `gap_contrasts`: gap of one policy less another's on the contexts that both have, pooled shifts."""
    rows: list[Row] = []
    for cell in (cell for cell in gap_list if cell.subset is None):
        here = {policy: np.isfinite(cell.pairs[policy].short_B) for policy in policies}
        alike = len({here_B.tobytes() for here_B in here.values()}) < 2
        draws_RB = None if alike else draw_contexts(cell.pairs[policies[0]], seed=cell.seed)
        for names in combinations(policies, 2):
            ours, theirs = (cell.gaps[name] for name in names)
            if draws_RB is not None:
                both_B = np.logical_and(*(here[name] for name in names))
                pairs = (cell.pairs[name] for name in names)
                common = (replace(pair, short_B=np.where(both_B, pair.short_B, np.nan)) for pair in pairs)
                ours, theirs = (measure_gap(pair, draws_RB, confidence=confidence) for pair in common)
            made = numbers(gap_difference(ours, theirs, confidence))
            del made["n_missing"]
            rows.append({**place(names[0], None, cell.shift), **made, "versus": names[1], "n": ours.n})
    adjust(rows, confidence, family=lambda row: row["shift"])
    return rows


#: What a gap is made of: name, unit, and whether it is per token. The reference's own and the difference stand beside.
_MEANS = {
    "earned": ("nats/response", False),
    "repeated": ("nats/token", True),
    "blind": ("nats/token", True),
}


def _means(subsets: Sequence[SubsetScores], told: AllTold, policy: str, name: str, confidence: float) -> list[Row]:
    """Per cell the mean of a quantity over responses, the reference's over the same contexts, and their difference."""
    unit, per_token = _MEANS[name]

    def values(s: SubsetScores, who: str) -> FloatArray:
        found, other = told[s.subset][who], told[s.subset][policy]
        value_B = getattr(found, f"{name}_B")
        value_B = value_B / found.tokens_B if per_token else value_B
        return np.where(np.isfinite(other.earned_B) & np.isfinite(told[s.subset][REFERENCE].earned_B), value_B, np.nan)

    own = cells(subsets, lambda s: mean_influence(values(s, policy), unit))
    theirs = cells(subsets, lambda s: mean_influence(values(s, REFERENCE), unit))
    apart = cells(subsets, lambda s: mean_influence(values(s, policy) - values(s, REFERENCE), unit))
    rows = []
    for ours, reference, less in zip(own, theirs, apart, strict=True):
        made, over = (
            _ends(numbers(estimate(c.influence, confidence=confidence, clusters=c.clusters))) for c in (ours, less)
        )
        rows.append({**made, "reference": number(reference.influence.value), "over_reference": over, "unit": unit})
    return rows


def _ends(made: Row) -> Row:
    return {key: made[key] for key in _ENDS}


#: Below this share of what the reference earns a policy is said to tell nothing of its input.
_NOTHING = 0.25


def _reading(row: Row) -> str | None:
    """What the numbers say of a policy, as a word that the page spells out; None where nothing was measured.

    repeats: more repetition than the reference's. generic, elsewhere: it tells (next to) nothing of its input, in words
    that anybody would expect or that belong to another input. misses: it earns less. like-reference: neither is seen.
    """
    missing, excess, earned, blind = row["missing"], row["excess"], row["earned"], row["blind"]
    if missing["ci_low"] is None or excess["ci_low"] is None:
        return None
    lacks, repeats = missing["ci_low"] > 0, excess["ci_low"] > 0
    if repeats and (not lacks or excess["value"] >= missing["value"]):
        return "repeats"
    if not lacks:
        return "like-reference"
    if earned["reference"] > 0 and earned["value"] < _NOTHING * earned["reference"]:
        expected = blind["over_reference"]["ci_high"]
        return "generic" if expected is not None and expected < 0 else "elsewhere"
    return "misses"
