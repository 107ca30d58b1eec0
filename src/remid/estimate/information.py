"""Mutual information between inputs and responses by CLUB, and differences of it, item by item.

All of it works on PairScores: S[i, i] and m negatives per input. Source: docs/theory.md, "CLUB".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from remid.estimate.additive import fit_additive
from remid.types import FloatArray, IntArray, PairScores

#: nats/token and nats/byte rescale each response's scores. The result is no log-density: no bound holds in it.
Unit = Literal["nats/response", "nats/token", "nats/byte"]
UNITS: tuple[Unit, ...] = ("nats/response", "nats/token", "nats/byte")


@dataclass(frozen=True, slots=True, eq=False)
class Influence:
    """An estimate that is a mean over items, with what each item contributes.

    phi_B: (B,), unit of the value; nanmean(phi_B) == value, NaN where the item was left out. n: items used.
    n_missing: items left out. stratum_B: (B,) which subset an item belongs to (zeros unless pooled). Per stratum,
    noise_excess_S: the part of var(phi) that is noise of the negatives and that the mean does not carry, and
    noise_floor_S: what the variance cannot fall below (unit squared, both 0 where they cannot be told: conservative);
    weight_S: what its contributions were multiplied by (`at_full_shares`).
    """

    value: float
    phi_B: FloatArray
    n: int
    n_missing: int
    unit: str
    stratum_B: IntArray
    noise_excess_S: FloatArray = field(default_factory=lambda: np.zeros(1))
    noise_floor_S: FloatArray = field(default_factory=lambda: np.zeros(1))
    weight_S: FloatArray = field(default_factory=lambda: np.ones(1))


def in_unit(scores: PairScores, unit: str) -> PairScores:
    """Divide every log-likelihood of y_j (nats per response) by the length of y_j in the unit's denominator.

    A length that is NaN or not positive makes all pairs of that response NaN. Raises ValueError for an unknown unit.
    """
    if unit == "nats/response":
        return scores
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; one of {', '.join(UNITS)}")
    length_B = scores.tokens_B if unit == "nats/token" else scores.bytes_B
    length_B = np.where(length_B > 0, length_B, np.nan)
    return replace(
        scores,
        positive_B=scores.positive_B / length_B,
        negative_Bm=scores.negative_Bm / length_B[scores.design.negatives_Bm],
    )


def club(scores: PairScores, unit: str = "nats/response") -> Influence:
    """CLUB: mean of the positives minus mean of the negatives. Source: Cheng et al. 2020 (2006.12013), equation 6.

    With the exact conditional as q it is, in expectation, I(X;Y) plus the reverse divergence KL(p(x)p(y) || p(x,y)).
    Pairs that are NaN are left out. An item without a positive, or without any pair, is left out as an input and as a
    response. phi: S_ii less the item's row and column effects, weighted by its share of the pairs where some miss.
    """
    scaled = in_unit(scores, unit)
    return _influence(scaled.positive_B, scaled.negative_Bm, scores.design.negatives_Bm, unit)


def remi(policy: PairScores, reference: PairScores, unit: str = "nats/response") -> Influence:
    """R-EMI = I(X_R; Y_theta) - I(X_R; Y), paired over the same inputs and the same negatives (paper, section 3).

    Pairs that are missing in either are left out of both. The reference against itself is exactly 0.
    Raises ValueError if the two were not scored on the same design.
    """
    _require_same_design(policy, reference)
    ours, theirs = in_unit(policy, unit), in_unit(reference, unit)
    positive_B = ours.positive_B - theirs.positive_B
    return _influence(positive_B, ours.negative_Bm - theirs.negative_Bm, policy.design.negatives_Bm, unit)


def contrast_scores(
    policy: PairScores, versus: PairScores, reference: PairScores, unit: str = "nats/response"
) -> Influence:
    """R-EMI of one policy minus R-EMI of another over the pairs that all three have.

    The reference's scores cancel; it only says which pairs both R-EMIs may use, so that the contrast equals the
    difference of the two recomputed on their common pairs. Raises ValueError if the designs differ.
    """
    _require_same_design(policy, reference)
    has_positive_B = np.isfinite(in_unit(reference, unit).positive_B)
    has_negative_Bm = np.isfinite(in_unit(reference, unit).negative_Bm)
    masked = replace(
        policy,
        positive_B=np.where(has_positive_B, policy.positive_B, np.nan),
        negative_Bm=np.where(has_negative_Bm, policy.negative_Bm, np.nan),
    )
    return remi(masked, versus, unit)


def _require_same_design(a: PairScores, b: PairScores) -> None:
    if not np.array_equal(a.design.negatives_Bm, b.design.negatives_Bm):
        raise ValueError("both must be scored on the same design: a paired contrast needs the same negatives")


def _influence(positive_B: FloatArray, negative_Bm: FloatArray, negatives_Bm: IntArray, unit: str) -> Influence:
    """CLUB of complete-case pairs; n = 0 and value NaN where no item has both a positive and negatives."""
    used_B, used_Bm = _usable(positive_B, negative_Bm, negatives_Bm)
    n, total = int(used_B.sum()), positive_B.size
    phi_B = np.full(total, np.nan)
    stratum_B = np.zeros(total, dtype=np.int64)
    if n == 0:
        return Influence(float("nan"), phi_B, 0, total, unit, stratum_B)
    rank_B = np.cumsum(used_B) - 1
    row_E, column_E = rank_B[np.nonzero(used_Bm)[0]], rank_B[negatives_Bm[used_Bm]]
    score_E = negative_Bm[used_Bm]
    value = float(positive_B[used_B].mean() - score_E.mean())
    fit = fit_additive(positive_B[used_B], row_E, column_E, score_E)
    # Contributions average to the value by construction; this takes off rounding, and the little that items without
    # identified effects leave. The last line makes nanmean(phi) and the value the same float.
    phi_B[used_B] = fit.contribution_B + (value - fit.contribution_B.mean())
    excess_S, floor_S = np.array([fit.noise_excess]), np.array([fit.noise_floor])
    return Influence(float(np.nanmean(phi_B)), phi_B, n, total - n, unit, stratum_B, excess_S, floor_S)


def _usable(
    positive_B: FloatArray, negative_Bm: FloatArray, negatives_Bm: IntArray
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], np.ndarray[tuple[int, int], np.dtype[np.bool_]]]:
    """Items and pairs to use: items with a positive and at least one pair, and all pairs between such items.

    An item that has lost its row or its column stays. Leaving it out as well would take its pairs from its neighbours
    on the circle, and with m = 2 two neighbours without a response would then take all others with them.
    """
    scored_B = np.isfinite(positive_B)
    used_Bm = np.isfinite(negative_Bm) & scored_B[:, None] & scored_B[negatives_Bm]
    as_response_B = np.bincount(negatives_Bm[used_Bm], minlength=scored_B.size) > 0
    return used_Bm.any(axis=1) | as_response_B, used_Bm
