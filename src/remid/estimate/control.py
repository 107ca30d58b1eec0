"""Control variates: cheap scores of every pair make up for expensive scores of few.

S is known on the diagonal and on m negatives per item, a cheap stand-in C on all pairs. Where C sees the same
interactions, what the used negatives miss by chance shows in C, where it can be taken off:

    mean of S over the negatives - beta * (mean of C over the negatives - mean of C over all pairs i != j).

Effects of an input or of a response cancel from S by the balanced design, so they are taken out of C as well: only the
interactions of the two count. The estimand stays CLUB of S, whatever C is. Source: docs/stopping.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from remid.estimate.additive import _pattern
from remid.estimate.information import Influence, _influence, _require_same_design, _usable, in_unit
from remid.types import FloatArray, IntArray, PairScores

#: Residual degrees of freedom per item below which the pairs cannot tell a slope (m = 1 and 2). Plain deviations hold
#: the effects of inputs and responses, and slopes from them made estimates up to five times worse on real scores.
_DF_PER_ITEM = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Controlled:
    """influence: of the corrected estimate. slope_K: what each control was multiplied by. explained: share of the
    pairs' deviations that the controls explain in sample, 0 to 1."""

    influence: Influence
    slope_K: FloatArray
    explained: float


def club_controlled(
    scores: PairScores, C_KBB: FloatArray, unit: str = "nats/response", *, slope_K: FloatArray | None = None
) -> Controlled:
    """CLUB with K control matrices C_KBB[k, i, j] (any unit, finite off the diagonal), for response j under input i.

    slope_K: slopes known from other data. Without them they are estimated from the pairs' residuals, which takes
    m >= 3; with fewer negatives they are 0 and nothing is corrected.
    Raises ValueError for another shape or a value that is not finite.
    """
    scaled = in_unit(scores, unit)
    return _controlled(scaled.positive_B, scaled.negative_Bm, scores.design.negatives_Bm, C_KBB, unit, slope_K)


def remi_controlled(
    policy: PairScores,
    reference: PairScores,
    C_KBB: FloatArray,
    unit: str = "nats/response",
    *,
    slope_K: FloatArray | None = None,
) -> Controlled:
    """R-EMI with controls for the paired difference: C_KBB[k, i, j] is the cheap score of the policy's response j under
    input i, less that of the reference's. slope_K: as in `club_controlled`. Raises ValueError as that does, and if the
    designs differ.
    """
    _require_same_design(policy, reference)
    ours, theirs = in_unit(policy, unit), in_unit(reference, unit)
    positive_B, negative_Bm = ours.positive_B - theirs.positive_B, ours.negative_Bm - theirs.negative_Bm
    return _controlled(positive_B, negative_Bm, policy.design.negatives_Bm, C_KBB, unit, slope_K)


def interactions(C_BB: FloatArray) -> FloatArray:
    """C less the additive effects fitted to its off-diagonal pairs; rows and columns sum to 0, the diagonal is 0.

    Exactly 0 throughout where C has no interactions but for rounding.

    Raises ValueError for fewer than 3 items or another shape.
    """
    n = len(C_BB)
    if C_BB.shape != (n, n) or n < 3:
        raise ValueError(f"need a square matrix of at least 3 items, got shape {C_BB.shape}")
    off_BB = np.where(np.eye(n, dtype=bool), 0.0, C_BB)
    mean = float(off_BB.sum()) / (n * (n - 1))
    row_B, column_B = off_BB.sum(axis=1) - (n - 1) * mean, off_BB.sum(axis=0) - (n - 1) * mean
    # Normal equations of C_ij = mu + a_i + b_j over i != j: (n - 1) a - b = row, (n - 1) b - a = column.
    a_B, b_B = (((n - 1) * x + y) / (n * (n - 2)) for x, y in ((row_B, column_B), (column_B, row_B)))
    made_BB = off_BB - mean - a_B[:, None] - b_B
    np.fill_diagonal(made_BB, 0.0)
    if float(np.abs(made_BB).max()) <= 1e-12 * n * float(np.abs(off_BB).max()):
        return np.zeros((n, n))
    return np.asarray(made_BB, dtype=np.float64)


def interaction_r2(S_BB: FloatArray, C_KBB: FloatArray) -> float:
    """Share of the interactions' variance of S that K controls explain, over all pairs i != j; adjusted for K.

    That is the share of the negatives' noise that can be had for nothing. Can be slightly below 0; NaN where S has no
    interactions.
    """
    s_E = _off_diagonal(interactions(S_BB))
    c_EK = np.stack([_off_diagonal(interactions(C_BB)) for C_BB in C_KBB], axis=1)
    if not np.any(s_E):
        return float("nan")
    n, slope_K = len(S_BB), best_slopes(S_BB, C_KBB)
    df = n * (n - 1) - 2 * n + 1
    return float(1 - np.sum((s_E - c_EK @ slope_K) ** 2) / np.sum(s_E**2) * df / max(df - len(C_KBB), 1))


def best_slopes(S_BB: FloatArray, C_KBB: FloatArray) -> FloatArray:
    """(K,) slopes of S's interactions on the controls' over all pairs: what `slope_K` is at best."""
    c_EK = np.stack([_off_diagonal(interactions(C_BB)) for C_BB in C_KBB], axis=1)
    return np.asarray(np.linalg.lstsq(c_EK, _off_diagonal(interactions(S_BB)), rcond=None)[0], dtype=np.float64)


def _off_diagonal(C_BB: FloatArray) -> FloatArray:
    return C_BB[~np.eye(len(C_BB), dtype=bool)]


def _controlled(
    positive_B: FloatArray,
    negative_Bm: FloatArray,
    negatives_Bm: IntArray,
    C_KBB: FloatArray,
    unit: str,
    given_K: FloatArray | None,
) -> Controlled:
    """Subtract slope times interaction from every negative; positives stay. Then everything is as without controls.

    The slopes are estimated from the same pairs. Their error multiplies the mean of C's interactions over the used
    pairs, itself of order 1/sqrt(pairs), so it adds about K/pairs of the pair noise to the variance: left out.
    """
    n = positive_B.size
    if C_KBB.ndim != 3 or C_KBB.shape[1:] != (n, n) or (given_K is not None and given_K.shape != C_KBB.shape[:1]):
        raise ValueError(f"controls must have shape (controls, {n}, {n}) and a slope each, got {C_KBB.shape}")
    if not all(np.isfinite(_off_diagonal(C_BB)).all() for C_BB in C_KBB):
        raise ValueError("controls must be finite for every pair of two items")
    _, used_Bm = _usable(positive_B, negative_Bm, negatives_Bm)
    slope_K, explained = np.zeros(len(C_KBB)), 0.0
    if n < 3 or not used_Bm.any():
        return Controlled(_influence(positive_B, negative_Bm, negatives_Bm, unit), slope_K, explained)
    c_KBm = np.stack([np.take_along_axis(interactions(C_BB), negatives_Bm, axis=1) for C_BB in C_KBB])
    if given_K is None:
        row_E, column_E = np.nonzero(used_Bm)[0], negatives_Bm[used_Bm]
        slope_K, explained = _slopes(negative_Bm[used_Bm], c_KBm[:, used_Bm].T, row_E, column_E, n)
    else:
        slope_K = given_K
    corrected_Bm = negative_Bm - np.tensordot(slope_K, c_KBm, axes=1)
    return Controlled(_influence(positive_B, corrected_Bm, negatives_Bm, unit), slope_K, explained)


def _slopes(
    score_E: FloatArray, c_EK: FloatArray, row_E: IntArray, column_E: IntArray, n: int
) -> tuple[FloatArray, float]:
    """Regression of the pairs on the controls, input and response effects taken out of both.

    Shrunk by 1 - 1/F, and 0 where F < 1: controls that explain no more than chance would are not used.
    """
    pattern = _pattern(row_E.tobytes(), column_E.tobytes(), n)
    df, slope_K = pattern.residual_df, np.zeros(c_EK.shape[1])
    live_K = np.abs(c_EK).max(axis=0) > 0
    k = int(live_K.sum())
    if k == 0 or df <= max(k, _DF_PER_ITEM * n):
        return slope_K, 0.0
    score_E = _residual(pattern.solver, score_E, row_E, column_E, n)
    c_EK = np.stack([_residual(pattern.solver, c_E, row_E, column_E, n) for c_E in c_EK.T], axis=1)
    total = float(np.sum(score_E**2))
    if total == 0:
        return slope_K, 0.0
    slope_K[live_K] = np.linalg.lstsq(c_EK[:, live_K], score_E, rcond=None)[0]
    rest = float(np.sum((score_E - c_EK @ slope_K) ** 2))
    explained = max(1 - rest / total, 0.0)
    by_chance = (rest / (df - k)) / max((total - rest) / k, 1e-300)  # 1 / F
    return slope_K * max(0.0, 1 - by_chance), explained


def _residual(solver: Any, score_E: FloatArray, row_E: IntArray, column_E: IntArray, n: int) -> FloatArray:
    """What the additive fit leaves of each pair."""
    centred_E = score_E - score_E.mean()
    total_V = np.concatenate([np.bincount(row_E, centred_E, n), -np.bincount(column_E, centred_E, n)])
    effect_V = solver.solve(total_V)
    return np.asarray(centred_E - effect_V[row_E] + effect_V[n + column_E], dtype=np.float64)
